package reach

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// chunk is the most that one frame carries.
const chunk = 32 << 10

// address names the far end of a connection, for messages.
type address string

func (a address) Network() string { return "agent" }
func (a address) String() string  { return string(a) }

// conn is a stream to an agent as a net.Conn. It needs no goroutine. A deadline
// that passes ends the connection for good: whoever sets one gives up then.
type conn struct {
	stream Stream
	cancel context.CancelFunc
	remote address

	reading sync.Mutex
	left    []byte // of the last frame
	ended   error  // of the stream

	writing sync.Mutex

	mu     sync.Mutex // guards what follows
	closed bool
	late   bool
	timers [2]*time.Timer // of reads and of writes
}

func newConn(stream Stream, cancel context.CancelFunc, remote address) *conn {
	return &conn{stream: stream, cancel: cancel, remote: remote}
}

func (c *conn) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	for len(c.left) == 0 {
		if c.ended != nil {
			return 0, c.ended
		}
		c.receive()
	}
	n := copy(b, c.left)
	c.left = c.left[n:]
	return n, nil
}

// receive takes one frame. What comes with or before the end is read first.
func (c *conn) receive() {
	frame, err := c.stream.Recv()
	if err != nil {
		c.ended = c.cause(err)
		return
	}
	c.left = frame.GetData()
	switch result := frame.GetResult(); {
	case result.GetError() != "":
		c.ended = errors.New(result.GetError())
	case result != nil, frame.GetClose():
		c.ended = io.EOF
	}
}

func (c *conn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	sent := 0
	for sent < len(b) {
		piece := b[sent:min(sent+chunk, len(b))]
		// The stream may hold on to what it is given; the caller may not wait.
		frame := &agentv1.Frame{Channel: agentv1.Frame_STDIN, Data: append([]byte(nil), piece...)}
		if err := c.stream.Send(frame); err != nil {
			return sent, c.cause(err)
		}
		sent += len(piece)
	}
	return sent, nil
}

// CloseWrite says that no more will be written; reading goes on.
func (c *conn) CloseWrite() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.stream.Send(&agentv1.Frame{Channel: agentv1.Frame_STDIN, Close: true}); err != nil {
		return c.cause(err)
	}
	return nil
}

// cause is why the stream fails: because of this end, if it ended it.
func (c *conn) cause(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return net.ErrClosed
	case c.late:
		return os.ErrDeadlineExceeded
	}
	return err
}

// Close ends the stream, at the agent too, and whatever waits for it.
func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	for _, timer := range c.timers {
		if timer != nil {
			timer.Stop()
		}
	}
	c.cancel()
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return address("control node") }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.deadline(0, t), c.deadline(1, t))
}

func (c *conn) SetReadDeadline(t time.Time) error  { return c.deadline(0, t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.deadline(1, t) }

func (c *conn) deadline(which int, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if timer := c.timers[which]; timer != nil {
		timer.Stop()
		c.timers[which] = nil
	}
	if t.IsZero() {
		return nil
	}
	c.timers[which] = time.AfterFunc(time.Until(t), func() {
		c.mu.Lock()
		c.late = true
		c.mu.Unlock()
		c.cancel()
	})
	return nil
}
