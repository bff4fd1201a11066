package consensus

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// streams is the Layer as raft's transport gets it. It goes by the advertised
// address, needs no network to reach this node itself, lets no raft traffic in
// before it is opened, and closes every connection when it is closed; raft's
// transport would leave them.
type streams struct {
	layer   raft.StreamLayer
	address advertised
	opened  chan struct{}
	open    sync.Once
	closed  chan struct{}
	inside  chan net.Conn // from this node to itself
	outside chan accepted // from layer
	accept  sync.Once

	mu    sync.Mutex
	conns map[net.Conn]struct{} // nil once closed
}

type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }

func newStreams(layer raft.StreamLayer, address string) *streams {
	return &streams{
		layer: layer, address: advertised(address),
		opened: make(chan struct{}), closed: make(chan struct{}),
		inside: make(chan net.Conn), outside: make(chan accepted),
		conns: map[net.Conn]struct{}{},
	}
}

// admit lets raft traffic in.
func (s *streams) admit() { s.open.Do(func() { close(s.opened) }) }

func (s *streams) Accept() (net.Conn, error) {
	select {
	case <-s.opened:
	case <-s.closed:
		return nil, net.ErrClosed
	}
	s.accept.Do(func() { go s.acceptOutside() })
	select {
	case a := <-s.outside:
		return s.track(a.conn, a.err)
	case conn := <-s.inside:
		return s.track(conn, nil)
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

type accepted struct {
	conn net.Conn
	err  error
}

// acceptOutside ends when the layer is closed.
func (s *streams) acceptOutside() {
	for {
		conn, err := s.layer.Accept()
		select {
		case s.outside <- accepted{conn, err}:
		case <-s.closed:
			if err == nil {
				_ = conn.Close()
			}
			return
		}
	}
}

func (s *streams) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	select {
	case <-s.closed:
		return nil, net.ErrClosed
	default:
	}
	if address == raft.ServerAddress(s.address) {
		here, there := net.Pipe()
		select {
		case s.inside <- there:
			return s.track(here, nil)
		case <-s.closed:
			return nil, net.ErrClosed
		}
	}
	return s.track(s.layer.Dial(address, timeout))
}

func (s *streams) track(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	s.conns[conn] = struct{}{}
	return &trackedConn{Conn: conn, streams: s}, nil
}

func (s *streams) Addr() net.Addr { return s.address }

func (s *streams) Close() error {
	s.mu.Lock()
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	if conns == nil {
		return nil
	}
	close(s.closed)
	err := s.layer.Close()
	for conn := range conns {
		_ = conn.Close() // its reader finds out
	}
	return err
}

type trackedConn struct {
	net.Conn
	streams *streams
}

func (c *trackedConn) Close() error {
	c.streams.mu.Lock()
	delete(c.streams.conns, c.Conn)
	c.streams.mu.Unlock()
	return c.Conn.Close()
}
