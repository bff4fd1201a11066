package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"github.com/musterhq/muster/test/bench/system"
)

// Media types that clients speak.
const (
	inJSON     = "json"
	inProtobuf = "protobuf"
)

var contentTypes = map[string]string{inJSON: runtime.ContentTypeJSON, inProtobuf: runtime.ContentTypeProtobuf}

// cluster is one that clients are connected to.
type cluster struct {
	*system.Cluster
	connections []*connection
}

// connection is one client's: TLS and HTTP/2, as client-go makes them, shared
// with no other client.
type connection struct {
	config *rest.Config
	http   *http.Client
	speaks map[string]*client
}

// client is client-go's for core/v1 over one connection, in one media type. What
// it sends is encoded before, and what it gets is not decoded, so that this
// program leaves as much of the machine as it can to the servers.
type client struct {
	rest  rest.Interface
	media string
}

// connect answers the number-th connection of a cluster, made if need be.
// Numbers are spread over the nodes. It is not for use by several at once.
func (c *cluster) connect(number int) (*connection, error) {
	for len(c.connections) <= number {
		held, err := c.dial(c.Nodes[len(c.connections)%len(c.Nodes)])
		if err != nil {
			return nil, err
		}
		c.connections = append(c.connections, held)
	}
	return c.connections[number], nil
}

// dial makes a connection that nobody shares.
func (c *cluster) dial(n *system.Node) (*connection, error) {
	config, err := c.Administrator(n)
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // no limit
	config.APIPath = "/api"
	config.GroupVersion = &corev1.SchemeGroupVersion
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	// A dialer of its own, or client-go shares one connection among all that have
	// the same certificate.
	config.Dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	held := &connection{config: config, speaks: map[string]*client{}}
	held.http, err = rest.HTTPClientFor(config)
	return held, err
}

func (held *connection) close() { held.http.CloseIdleConnections() }

// hangUp ends all clients' connections.
func (c *cluster) hangUp() {
	for _, held := range c.connections {
		held.close()
	}
	c.connections = nil
}

// in is the connection's client for a media type.
func (held *connection) in(media string) (*client, error) {
	if c := held.speaks[media]; c != nil {
		return c, nil
	}
	config := rest.CopyConfig(held.config)
	config.ContentType, config.AcceptContentTypes = contentTypes[media], contentTypes[media]
	r, err := rest.RESTClientForConfigAndClient(config, held.http)
	if err != nil {
		return nil, err
	}
	held.speaks[media] = &client{rest: r, media: media}
	return held.speaks[media], nil
}

// clients are many, each with a connection of its own.
func (c *cluster) clients(count int, media string) (all []*client, err error) {
	for i := range count {
		held, err := c.connect(i)
		if err != nil {
			return nil, err
		}
		one, err := held.in(media)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

func (c *client) createPod(ctx context.Context, namespace string, body []byte) error {
	_, err := c.rest.Post().Namespace(namespace).Resource("pods").SetHeader("Content-Type", contentTypes[c.media]).Body(body).DoRaw(ctx)
	return err
}

func (c *client) getPod(ctx context.Context, namespace, name string) ([]byte, error) {
	return c.rest.Get().Namespace(namespace).Resource("pods").Name(name).DoRaw(ctx)
}

func (c *client) patchStatus(ctx context.Context, namespace, name string, body []byte) error {
	_, err := c.rest.Patch(types.StrategicMergePatchType).Namespace(namespace).Resource("pods").Name(name).SubResource("status").Body(body).DoRaw(ctx)
	return err
}

// listPods copies an answer as it was sent to out: compressed, unless the client
// wants it plain. client-go takes compressed answers unless told otherwise.
func (c *client) listPods(ctx context.Context, namespace string, plain bool, options metav1.ListOptions, out io.Writer) error {
	encoding := "gzip"
	if plain {
		encoding = "identity"
	}
	body, err := c.rest.Get().Namespace(namespace).Resource("pods").SetHeader("Accept-Encoding", encoding).
		VersionedParams(&options, scheme.ParameterCodec).Stream(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(out, body)
	return err
}

// watchPods hears of changes from now on, or from a version on.
func (c *client) watchPods(ctx context.Context, namespace, version string) (io.ReadCloser, error) {
	options := metav1.ListOptions{Watch: true, ResourceVersion: version, AllowWatchBookmarks: true}
	r := c.rest.Get().Namespace(namespace).Resource("pods").VersionedParams(&options, scheme.ParameterCodec)
	if c.media == inProtobuf {
		r = r.SetHeader("Accept", contentTypes[inProtobuf]+";stream=watch")
	}
	return r.Stream(ctx)
}
