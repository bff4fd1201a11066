package apiserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	clientportforward "k8s.io/client-go/tools/portforward"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/musterhq/muster/control/kube"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// portForward serves pods/portforward: connections to ports of a pod, each a
// stream to the agent. kubectl sends SPDY, by itself or tunnelled through a
// WebSocket.
func (s *Server) portForward(w http.ResponseWriter, r *http.Request, c *call) error {
	options := &corev1.PodPortForwardOptions{}
	if err := kube.ParameterCodec.DecodeParameters(r.URL.Query(), corev1.SchemeGroupVersion, options); err != nil {
		return badRequest(err)
	}
	pod, err := s.boundPod(r.Context(), c)
	if err != nil {
		return err
	}
	if err := upgradable(r); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.Context())
	forwarder := &forwarder{ctx: ctx, streams: s.streams, pod: pod}
	// The connection has ended when serving it returns; what was forwarded over
	// it ends with it.
	defer forwarder.wait()
	defer cancel()

	var ports *portforward.V4Options
	switch {
	case wsstream.IsWebSocketRequestWithTunnelingProtocol(r):
		if w, r, err = tunnel(w, r); err != nil {
			s.log.Debug("upgrade to a tunnel failed", "path", r.URL.Path, "error", err)
			return nil
		}
	case wsstream.IsWebSocketRequest(r):
		if len(options.Ports) == 0 {
			return badRequest(errors.New("query parameter \"ports\" is required"))
		}
		if ports, err = portforward.BuildV4Options(options.Ports); err != nil {
			return badRequest(err)
		}
	}
	portforward.ServePortForward(w, r, forwarder, pod.Name, string(pod.UID), ports, streamIdle, streamStart, portforward.SupportedProtocols)
	return nil
}

// forwarder opens a stream to the agent for each connection.
type forwarder struct {
	ctx     context.Context
	streams Streams
	pod     *corev1.Pod

	mu      sync.Mutex
	ended   bool
	running sync.WaitGroup
}

// enter counts one more goroutine to wait for, unless the end was waited for
// already: the library starts connections without a word of when.
func (f *forwarder) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return false
	}
	f.running.Add(1)
	return true
}

func (f *forwarder) wait() {
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	f.running.Wait()
}

// PortForward implements portforward.PortForwarder. The context that it is given
// is nobody's; the forwarder's ends with the client's connection.
func (f *forwarder) PortForward(_ context.Context, _, _ string, port int32, client io.ReadWriteCloser) error {
	if !f.enter() {
		return nil
	}
	defer f.running.Done()
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	stream, err := f.streams.Open(ctx, f.pod.Spec.NodeName, &agentv1.OpenStream{Request: &agentv1.OpenStream_PortForward{PortForward: &agentv1.PortForwardRequest{
		Namespace: f.pod.Namespace, Pod: f.pod.Name, Uid: string(f.pod.UID), Port: port,
	}}})
	if err != nil {
		return fmt.Errorf("open a stream to node %s: %w", f.pod.Spec.NodeName, err)
	}
	if !f.enter() {
		return nil
	}
	go func() {
		// Reads on after the agent has ended, until the client closes its half
		// or its connection: there may be a half-closed stream in between.
		defer f.running.Done()
		sendInput(client, stream.Send)
	}()
	for {
		frame, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil
			}
			return err
		}
		if data := frame.GetData(); len(data) > 0 {
			if _, err := client.Write(data); err != nil {
				return nil // the client closed this connection
			}
		}
		if result := frame.GetResult(); result != nil {
			if result.GetError() != "" {
				return errors.New(result.GetError())
			}
			return nil
		}
	}
}

// tunnel takes over a WebSocket that carries SPDY and returns what a server of
// plain SPDY would have been called with.
func tunnel(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request, error) {
	upgrader := websocket.Upgrader{
		Subprotocols: []string{portforward.WebsocketsSPDYTunnelingPortForwardV1},
		// Credentials are certificates and tokens, never cookies: another site's
		// page cannot make a browser send them.
		CheckOrigin: func(*http.Request) bool { return true },
	}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return w, r, err
	}
	if conn.Subprotocol() != portforward.WebsocketsSPDYTunnelingPortForwardV1 {
		_ = conn.Close()
		return w, r, fmt.Errorf("subprotocol %q is not supported", conn.Subprotocol())
	}
	inner := r.Clone(r.Context())
	for header := range inner.Header {
		if strings.HasPrefix(header, "Sec-Websocket-") {
			inner.Header.Del(header)
		}
	}
	inner.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	inner.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	inner.Header.Set(httpstream.HeaderProtocolVersion, portforward.PortForwardV1Name)
	return &tunnelWriter{header: http.Header{}, conn: clientportforward.NewTunnelingConnection("server", conn)}, inner, nil
}

// tunnelWriter hands out the tunnel to who takes over the connection. The
// WebSocket's upgrade was the answer; another is dropped.
type tunnelWriter struct {
	header http.Header
	conn   net.Conn
}

func (t *tunnelWriter) Header() http.Header         { return t.header }
func (t *tunnelWriter) Write(b []byte) (int, error) { return len(b), nil }
func (t *tunnelWriter) WriteHeader(int)             {}

func (t *tunnelWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return t.conn, bufio.NewReadWriter(bufio.NewReader(t.conn), bufio.NewWriter(t.conn)), nil
}
