// Package reach connects a control node to what runs in the cluster: a port of a
// pod, or of a service. Nothing connects to an agent, and the addresses of pods
// and services are routed on compute nodes only, so a connection is a stream to
// the agent of the pod's node. Who may be connected, and what is said, is the
// business of callers: the proxies of the API server, webhooks, aggregated APIs.
package reach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// Errors of a connection that cannot be made. Callers tell them apart with
// errors.Is; the text says which service or pod.
var (
	ErrNoService   = errors.New("service not found")
	ErrNoPort      = errors.New("no such port")
	ErrNoEndpoints = errors.New("no endpoints available")
	// ErrNotAllowed is an address that is this machine's own, or of its link: what
	// listens there trusts who can reach it.
	ErrNotAllowed = errors.New("address not allowed")
)

// Streams opens streams to agents; see package dispatch.
type Streams interface {
	Open(ctx context.Context, node string, request *agentv1.OpenStream) (Stream, error)
}

// Stream is one of them.
type Stream = interface {
	Send(*agentv1.Frame) error
	CloseSend() error
	Recv() (*agentv1.Frame, error)
}

// Dialer makes connections. It may be used from any goroutine.
type Dialer struct {
	store   *store.Store
	streams Streams
}

// New returns a dialer that finds services and pods in this node's replica.
func New(s *store.Store, streams Streams) *Dialer { return &Dialer{store: s, streams: streams} }

// Pod connects with a port of a pod, as a client elsewhere in the cluster would:
// what listens on the pod's loopback alone is not reached. ctx bounds opening
// only. A pod that refuses shows when the connection is first read.
func (d *Dialer) Pod(ctx context.Context, pod *corev1.Pod, port int32) (net.Conn, error) {
	if pod.Spec.NodeName == "" {
		return nil, fmt.Errorf("pod %s/%s is on no node yet: %w", pod.Namespace, pod.Name, ErrNoEndpoints)
	}
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	stream, err := d.streams.Open(lasting, pod.Spec.NodeName, &agentv1.OpenStream{Request: &agentv1.OpenStream_PortForward{PortForward: &agentv1.PortForwardRequest{
		Namespace: pod.Namespace, Pod: pod.Name, Uid: string(pod.UID), Port: port, ToAddress: true,
	}}})
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("connect to pod %s/%s on node %s: %w", pod.Namespace, pod.Name, pod.Spec.NodeName, err)
	}
	return newConn(stream, cancel, address(pod.Namespace+"/"+pod.Name+":"+strconv.Itoa(int(port)))), nil
}

// Service connects with a port of a service, by its number: with one of its
// endpoints, at random. For a service that names a host outside, and for
// endpoints that are no pods, it dials from this machine.
func (d *Dialer) Service(ctx context.Context, namespace, name string, port int32) (net.Conn, error) {
	endpoint, err := d.Endpoint(ctx, namespace, name, strconv.Itoa(int(port)))
	if err != nil {
		return nil, err
	}
	if endpoint.Pod != nil {
		return d.Pod(ctx, endpoint.Pod, endpoint.Port)
	}
	if ip, err := netip.ParseAddr(endpoint.Host); err == nil && !ip.Unmap().IsGlobalUnicast() {
		return nil, fmt.Errorf("service %s/%s at %s: %w", namespace, name, ip, ErrNotAllowed)
	}
	return outside.DialContext(ctx, "tcp", net.JoinHostPort(endpoint.Host, strconv.Itoa(int(endpoint.Port))))
}
