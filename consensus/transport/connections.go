package transport

import (
	"container/list"
	"context"
	"net"
	"sync"
	"time"
)

// connections are all that a Mux has open. Those whose handshake has not
// finished are bounded.
type connections struct {
	handshakesMax int

	mu         sync.Mutex
	closed     bool
	all        map[*connection]struct{}
	unfinished list.List     // of *connection, oldest first
	fewer      chan struct{} // room for one: fewer are unfinished
}

// connection is a TCP connection that the Mux forgets when it is closed.
type connection struct {
	*net.TCPConn
	in        *connections
	handshake *list.Element // in unfinished; nil once established or closed
	ours      bool          // the handshake waits for us, not for the other side
	waited    time.Time     // since when the other side may speak

	// Of the handshake, which is one goroutine's; turns is nil before and after.
	turns  turns
	atWork bool            // it has a turn
	late   <-chan struct{} // closed when the handshake has no time left
}

func newConnections(handshakesMax int) *connections {
	return &connections{handshakesMax: handshakesMax, all: map[*connection]struct{}{}, fewer: make(chan struct{}, 1)}
}

// add takes a new connection in. If there are too many in their handshake it closes
// one that has kept us waiting for stalled, the oldest. As long as there is none it
// waits, and new ones with it: the kernel's backlog holds thousands.
func (s *connections) add(ctx context.Context, tcp *net.TCPConn) *connection {
	c := &connection{TCPConn: tcp, in: s, waited: time.Now()}
	s.mu.Lock()
	evicted, next := s.slowest()
	for evicted == nil && next > 0 && ctx.Err() == nil {
		s.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-s.fewer:
		case <-time.After(next):
		}
		s.mu.Lock()
		evicted, next = s.slowest()
	}
	if evicted != nil {
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

// slowest is which handshake to close because there are too many, or if there is
// none, when to look again; 0 if there are not. Called with mu held.
func (s *connections) slowest() (slowest *connection, next time.Duration) {
	if s.unfinished.Len() < s.handshakesMax {
		return nil, 0
	}
	next = stalled
	for e := s.unfinished.Front(); e != nil; e = e.Next() {
		c := e.Value.(*connection)
		if c.ours {
			continue
		}
		left := stalled - time.Since(c.waited)
		if left <= 0 {
			return c, 0
		}
		next = min(next, left)
	}
	return nil, next
}

// waitsForUs says whether c's handshake waits for this side.
func (s *connections) waitsForUs(c *connection, ours bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.ours = ours
}

// answered begins anew what the other side gets to say something. To say a part of
// it does not.
func (s *connections) answered(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.waited = time.Now()
}

// lessen is called with mu held.
func (s *connections) lessen() {
	select {
	case s.fewer <- struct{}{}:
	default:
	}
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
		s.lessen()
	}
}

func (c *connection) Close() error {
	c.in.mu.Lock()
	c.in.forget(c)
	c.in.mu.Unlock()
	return c.TCPConn.Close()
}
