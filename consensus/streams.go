package consensus

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// streams is the Layer as raft's transport gets it. It goes by the advertised
// address, lets no raft traffic in before it is opened, and closes every
// connection when it is closed; raft's transport would leave them.
type streams struct {
	layer   raft.StreamLayer
	address advertised
	opened  chan struct{}
	open    sync.Once
	closed  chan struct{}

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
	return s.track(s.layer.Accept())
}

func (s *streams) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	select {
	case <-s.closed:
		return nil, net.ErrClosed
	default:
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
