package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	admissionv1beta1 "k8s.io/api/admission/v1beta1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/rest"
)

const (
	// callsMax bounds the calls in flight of one control node; others wait, and
	// that counts as time that their webhook takes.
	callsMax = 512
	// answerMax bounds an answer. A patch may be as large as the largest object
	// that is accepted, in base64 and with the words around it.
	answerMax = 8 << 20
)

// Services connects with a server that a service stands for. See package reach.
type Services interface {
	Service(ctx context.Context, namespace, name string, port int32) (net.Conn, error)
}

// caller keeps connections to webhooks. Clients are made once for each address
// and CA.
type caller struct {
	clients webhookutil.ClientManager
	places  chan struct{}
}

func newCaller(services Services) *caller {
	clients, err := webhookutil.NewClientManager(
		[]schema.GroupVersion{admissionv1beta1.SchemeGroupVersion, admissionv1.SchemeGroupVersion},
		admissionv1beta1.AddToScheme, admissionv1.AddToScheme,
	)
	if err != nil {
		panic(fmt.Sprintf("webhook: %v", err)) // two groups of upstream's that clash
	}
	clients.SetAuthenticationInfoResolver(anonymous{services})
	// Services are found when they are dialled: here each stays what it is called.
	clients.SetServiceResolver(webhookutil.NewDefaultServiceResolver())
	return &caller{clients: clients, places: make(chan struct{}, callsMax)}
}

func (c *caller) enter(ctx context.Context) error {
	select {
	case c.places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *caller) leave() { <-c.places }

// anonymous is how webhooks are called: without credentials, as by upstream
// unless it is given a file of them. It is upstream's AuthenticationInfoResolver.
type anonymous struct{ services Services }

func (anonymous) ClientConfigFor(string) (*rest.Config, error) { return clientConfig(), nil }

func (a anonymous) ClientConfigForService(name, namespace string, port int) (*rest.Config, error) {
	if a.services == nil {
		return nil, fmt.Errorf("service %s/%s: webhooks in services are not reached from here", namespace, name)
	}
	config := clientConfig()
	config.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return a.services.Service(ctx, namespace, name, int32(port)) //nolint:gosec // a port, validated
	}
	return config, nil
}

func clientConfig() *rest.Config {
	return &rest.Config{WrapTransport: func(next http.RoundTripper) http.RoundTripper { return guarded{next} }}
}

// guarded refuses what an answer of a webhook cannot be: a redirect, which could
// lead anywhere that a control node reaches (CVE-2020-8561), or an endless one.
type guarded struct{ next http.RoundTripper }

func (g guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := g.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= 300 && response.StatusCode < 400 {
		_ = response.Body.Close()
		return nil, fmt.Errorf("the webhook answered %s, and redirects are not followed", response.Status)
	}
	response.Body = &bounded{ReadCloser: response.Body, left: answerMax}
	return response, nil
}

// WrappedRoundTripper lets client-go find the transport.
func (g guarded) WrappedRoundTripper() http.RoundTripper { return g.next }

var errAnswerTooLarge = errors.New("the webhook's answer is too large")

// bounded is a body that ends in an error when it is too long.
type bounded struct {
	io.ReadCloser
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errAnswerTooLarge
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
