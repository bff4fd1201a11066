package transport

import (
	"container/list"
	"net"
	"sync"
)

// connections are all that a Mux has open. Those whose handshake has not
// finished are bounded.
type connections struct {
	handshakesMax int

	mu         sync.Mutex
	closed     bool
	all        map[*connection]struct{}
	unfinished list.List // of *connection, oldest first
}

// connection is a TCP connection that the Mux forgets when it is closed.
type connection struct {
	*net.TCPConn
	in        *connections
	handshake *list.Element // in unfinished; nil once established or closed
}

func newConnections(handshakesMax int) *connections {
	return &connections{handshakesMax: handshakesMax, all: map[*connection]struct{}{}}
}

// add takes a new connection in, closing the one that has been in its
// handshake for longest if there are too many.
func (s *connections) add(tcp *net.TCPConn) *connection {
	c := &connection{TCPConn: tcp, in: s}
	s.mu.Lock()
	var evicted *connection
	if s.unfinished.Len() >= s.handshakesMax {
		evicted = s.unfinished.Front().Value.(*connection)
		s.forget(evicted)
	}
	s.all[c] = struct{}{}
	c.handshake = s.unfinished.PushBack(c)
	closed := s.closed
	s.mu.Unlock()
	if evicted != nil {
		evicted.TCPConn.Close()
	}
	if closed {
		c.Close()
	}
	return c
}

// established says that the handshake is over, well or not.
func (s *connections) established(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveHandshake(c)
}

// closeAll closes every connection, now and in future.
func (s *connections) closeAll() {
	s.mu.Lock()
	s.closed = true
	var open []*connection
	for c := range s.all {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
}

// forget and leaveHandshake are called with mu held.
func (s *connections) forget(c *connection) {
	delete(s.all, c)
	s.leaveHandshake(c)
}

func (s *connections) leaveHandshake(c *connection) {
	if c.handshake != nil {
		s.unfinished.Remove(c.handshake)
		c.handshake = nil
	}
}

func (c *connection) Close() error {
	c.in.mu.Lock()
	c.in.forget(c)
	c.in.mu.Unlock()
	return c.TCPConn.Close()
}
