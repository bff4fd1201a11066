package agent

import (
	"io"
	"sync"

	"github.com/musterhq/muster/agent/runtime"
	"github.com/musterhq/muster/agent/session"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

const frameBytesMax = 32 << 10

// sender lets several goroutines write to a stream, until one of them ends it.
type sender struct {
	mu     sync.Mutex
	stream session.Frames
	ended  bool
}

func (s *sender) send(f *agentv1.Frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return io.ErrClosedPipe
	}
	return s.stream.Send(f)
}

// end sends the last frame. Nobody may be left to read it.
func (s *sender) end(result *agentv1.StreamResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	_ = s.stream.Send(&agentv1.Frame{Result: result})
	_ = s.stream.CloseSend()
}

// channel is an io.Writer of one of a stream's channels.
type channel struct {
	out     *sender
	channel agentv1.Frame_Channel
}

func (c *channel) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), frameBytesMax)
		// gRPC may keep what it is given.
		if err := c.out.send(&agentv1.Frame{Channel: c.channel, Data: append([]byte(nil), p[:n]...)}); err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

// receiver takes apart what a user sends.
type receiver struct {
	stream session.Frames
	stdin  *io.PipeReader
	write  *io.PipeWriter
	sizes  chan runtime.Size
}

func newReceiver(stream session.Frames) *receiver {
	r := &receiver{stream: stream, sizes: make(chan runtime.Size, 1)}
	r.stdin, r.write = io.Pipe()
	return r
}

// run ends with the stream. A user who sends more than is read is made to wait.
func (r *receiver) run() {
	defer r.write.Close()
	for {
		frame, err := r.stream.Recv()
		if err != nil {
			return
		}
		if size := frame.Resize; size != nil {
			select { // only the last matters
			case <-r.sizes:
			default:
			}
			r.sizes <- runtime.Size{Width: uint16(size.Width), Height: uint16(size.Height)}
		}
		if frame.Channel != agentv1.Frame_STDIN {
			continue
		}
		if len(frame.Data) > 0 {
			_, _ = r.write.Write(frame.Data) // after stop it is nobody's
		}
		if frame.Close {
			_ = r.write.Close()
		}
	}
}

// stop makes what the user still sends be thrown away, and ends who reads it.
func (r *receiver) stop() { _ = r.stdin.CloseWithError(io.ErrClosedPipe) }
