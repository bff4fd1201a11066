// Package transport carries everything between machines over one TCP port of
// each control node: TLS 1.3 connections under the cluster's CA, told apart by
// ALPN into Kubernetes HTTP, gRPC and raft. It also says who is calling
// (CallerFrom) and which gRPC services a caller may use (Authorize). What is
// said over the connections is others' business.
package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/musterhq/muster/consensus/identity"
	"golang.org/x/sync/errgroup"
)

// ALPN protocols. A connection that asks for none is HTTP.
const (
	ALPNHTTP2 = "h2"
	ALPNHTTP1 = "http/1.1"
	ALPNGRPC  = identity.ProtocolGRPC
	ALPNRaft  = "muster-raft/1"
)

const (
	handshakeTimeout = 10 * time.Second
	// At this many unfinished handshakes the oldest whose other side has said nothing
	// for stalled makes room for the new: an honest one takes milliseconds, so the
	// oldest is the least likely to be. Those that wait for us are not to blame.
	handshakesMax = 1024
	stalled       = 500 * time.Millisecond
	// Finished connections that nobody accepts; further ones are closed.
	backlogMax = 256
)

// Mux is the port. Its listeners hand out connections while Run runs, and fail
// with net.ErrClosed afterwards.
type Mux struct {
	// Log hears of refused connections, at Debug: anyone can cause them. Silent
	// unless set before Run.
	Log *slog.Logger

	tcp              net.Listener
	tls              *tls.Config
	id               *identity.Identity
	http, grpc, raft *queue
	open             *connections
}

// Listen opens the port. Whoever calls it must call Run, with a context that
// has ended if need be: Run is what closes the port.
func Listen(addr string, id *identity.Identity) (*Mux, error) {
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	config := id.ServerTLS()
	config.NextProtos = []string{ALPNRaft, ALPNGRPC, ALPNHTTP2, ALPNHTTP1}
	withTurns(config, make(turns, handshakesEach*runtime.GOMAXPROCS(0)))
	return &Mux{
		Log: slog.New(slog.DiscardHandler),
		tcp: tcp, tls: config, id: id,
		http: newQueue(tcp.Addr()), grpc: newQueue(tcp.Addr()), raft: newQueue(tcp.Addr()),
		open: newConnections(handshakesMax),
	}, nil
}

// Addr is where the port is.
func (m *Mux) Addr() net.Addr { return m.tcp.Addr() }

// HTTP gives connections for net/http: each is a *tls.Conn whose handshake is
// done. http.Server.Serve does HTTP/2 on them if its TLSConfig is nil.
func (m *Mux) HTTP() net.Listener { return m.http }

// GRPC gives connections for a grpc.Server with ServerCredentials.
func (m *Mux) GRPC() net.Listener { return m.grpc }

// Run accepts connections until ctx ends, then closes the port and every
// connection it ever handed out, and waits for what it started. Servers on the
// listeners that want to end gently must have done so before ctx ends.
func (m *Mux) Run(ctx context.Context) error {
	var handshakes errgroup.Group
	stop := context.AfterFunc(ctx, func() { m.tcp.Close() })
	defer stop()
	defer func() {
		m.tcp.Close()
		m.open.closeAll()
		for _, q := range []*queue{m.http, m.grpc, m.raft} {
			q.Close()
		}
		handshakes.Wait()
	}()
	pause := time.Duration(0)
	for {
		raw, err := m.tcp.Accept()
		if ctx.Err() != nil {
			if err == nil {
				raw.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept connections: %w", err)
		}
		if err != nil { // out of file descriptors, for instance: it passes
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			m.Log.Warn("cannot accept connections", "error", err, "retryAfter", pause)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		conn := m.open.add(ctx, raw.(*net.TCPConn))
		handshakes.Go(func() error {
			if err := m.admit(ctx, conn); err != nil {
				m.Log.Debug("connection refused", "from", raw.RemoteAddr(), "error", err)
				conn.Close()
			}
			return nil
		})
	}
}

// admit does the handshake and hands the connection to its listener.
func (m *Mux) admit(ctx context.Context, raw *connection) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn := tls.Server(raw, m.tls)
	raw.late = ctx.Done()
	err := conn.HandshakeContext(ctx)
	if raw.turns != nil {
		raw.turns.giveBack(raw)
		raw.turns = nil
	}
	m.open.established(raw)
	if err != nil {
		return err
	}
	state := conn.ConnectionState()
	queue := m.http
	switch state.NegotiatedProtocol {
	case ALPNGRPC:
		queue = m.grpc
	case ALPNRaft:
		if err := requireServer(state); err != nil {
			return err
		}
		queue = m.raft
	}
	if queue != m.http {
		if err := noticeLoss(raw.TCPConn); err != nil {
			return err
		}
	}
	return queue.deliver(conn)
}

// requireServer accepts a connection whose other end proved to be a control node.
func requireServer(state tls.ConnectionState) error {
	if len(state.VerifiedChains) == 0 {
		return errors.New("no certificate where a control node's is needed")
	}
	leaf := state.VerifiedChains[0][0]
	if role, _, ok := identity.NodeOf(leaf); !ok || role != identity.Server {
		return fmt.Errorf("%q is not a control node", leaf.Subject.CommonName)
	}
	return nil
}

// queue is a net.Listener fed by the Mux.
type queue struct {
	addr   net.Addr
	conns  chan *tls.Conn
	closed chan struct{}
	mu     sync.Mutex // deliver and Close exclude each other
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, conns: make(chan *tls.Conn, backlogMax), closed: make(chan struct{})}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case <-q.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case conn := <-q.conns:
		return conn, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *queue) deliver(conn *tls.Conn) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-q.closed:
		return net.ErrClosed
	default:
	}
	select {
	case q.conns <- conn:
		return nil
	default:
		return errors.New("too many connections wait to be served")
	}
}

// Close refuses this kind of connection from now on; the port stays open.
func (q *queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-q.closed:
		return nil
	default:
	}
	close(q.closed)
	for {
		select {
		case conn := <-q.conns:
			conn.NetConn().Close()
		default:
			return nil
		}
	}
}

func (q *queue) Addr() net.Addr { return q.addr }
