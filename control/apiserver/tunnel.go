package apiserver

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/gorilla/websocket"
	clientportforward "k8s.io/client-go/tools/portforward"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// Bounds of one client's port-forward.
const (
	// forwardsWaiting is how many connections may have one of their two streams.
	forwardsWaiting = 64
	// forwardsRunning is how many may be open.
	forwardsRunning = 1024
)

// arrival is a SPDY stream that a client opened. Before reply is closed, writes
// to it wait.
type arrival struct {
	httpstream.Stream
	reply <-chan struct{}
}

// serveSPDY serves pairs of SPDY streams, one for the data of a connection and
// one for what went wrong, until the client's connection ends.
func (f *forwarder) serveSPDY(w http.ResponseWriter, r *http.Request) error {
	if _, err := httpstream.Handshake(r, w, portforward.SupportedProtocols); err != nil {
		return err
	}
	arrivals, closing := make(chan arrival), make(chan struct{})
	defer close(closing)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(stream httpstream.Stream, reply <-chan struct{}) error {
		if _, err := forwardedPort(stream); err != nil {
			return err
		}
		select {
		case arrivals <- arrival{stream, reply}:
			return nil
		case <-closing:
			return errClientGone
		}
	})
	if conn == nil {
		return errors.New("the connection could not be taken over")
	}
	defer conn.Close()
	conn.SetIdleTimeout(streamIdle)

	running := make(chan struct{}, forwardsRunning)
	waiting := map[string]map[string]arrival{}
	for {
		select {
		case <-conn.CloseChan():
			return nil
		case stream := <-arrivals:
			id := requestID(stream)
			pair := waiting[id]
			if pair == nil {
				if len(waiting) == forwardsWaiting {
					return errors.New("too many connections are opened by half")
				}
				pair = map[string]arrival{}
				waiting[id] = pair
			}
			pair[stream.Headers().Get(portforward.StreamType)] = stream
			if len(pair) < 2 {
				continue
			}
			delete(waiting, id)
			select {
			case running <- struct{}{}:
			default:
				return errors.New("too many connections at once")
			}
			f.running.Go(func() {
				defer func() { <-running }()
				f.serveStreams(conn, pair[portforward.StreamTypeData], pair[portforward.StreamTypeError])
			})
		}
	}
}

// serveStreams serves one connection.
func (f *forwarder) serveStreams(conn httpstream.Connection, data, failed arrival) {
	for _, stream := range []arrival{data, failed} {
		select {
		case <-stream.reply:
		case <-conn.CloseChan():
			return
		}
	}
	defer conn.RemoveStreams(data.Stream, failed.Stream)
	port, err := forwardedPort(data)
	if err == nil {
		err = f.forward(port, data)
	}
	// The client may be gone; there is nobody else to tell.
	if err != nil {
		_, _ = failed.Write([]byte(err.Error()))
		_ = failed.Close()
		_ = data.Reset() // it waits for more, and there is none
		return
	}
	_ = data.Close()
	_ = failed.Close()
}

// forwardedPort is the port that a stream says it is for.
func forwardedPort(stream httpstream.Stream) (int32, error) {
	kind := stream.Headers().Get(portforward.StreamType)
	if kind != portforward.StreamTypeData && kind != portforward.StreamTypeError {
		return 0, fmt.Errorf("invalid stream type %q", kind)
	}
	port, err := strconv.ParseUint(stream.Headers().Get(portforward.PortHeader), 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("invalid port %q", stream.Headers().Get(portforward.PortHeader))
	}
	return int32(port), nil
}

// requestID pairs the streams of a connection. Old clients do not send one; they
// open the error stream and then, two numbers on, the data stream.
func requestID(stream httpstream.Stream) string {
	if id := stream.Headers().Get(portforward.PortForwardRequestIDHeader); id != "" {
		return id
	}
	number := stream.Identifier()
	if stream.Headers().Get(portforward.StreamType) == portforward.StreamTypeData {
		number -= 2
	}
	return strconv.FormatUint(uint64(number), 10)
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
	return &tunnelWriter{header: http.Header{}, conn: clientportforward.NewTunnelingConnectionWithLogger(klog.FromContext(r.Context()), conn)}, inner, nil
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
