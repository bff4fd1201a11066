package forward

import (
	"context"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// Stream is a follower's way to one leader for as long as that leads.
type Stream struct {
	stream grpc.BidiStreamingClient[clusterv1.FollowRequest, clusterv1.FollowResponse]
	who    Follower
	term   uint64
	cancel context.CancelFunc
	lost   chan struct{}

	mu          sync.Mutex
	over        bool
	queue       []*clusterv1.Proposal
	queuedBytes int
	reads       uint64 // number of the last read asked for
	asked, next *read  // on the way; for whoever comes now
	wake        chan struct{}
}

// read is a read index that several callers wait for.
type read struct {
	number uint64
	done   chan struct{}
	index  uint64 // 0: not verified
}

// Open asks the node behind conn to be followed, and returns once that said
// that it leads. Run must be called then. The stream ends with ctx.
func Open(ctx context.Context, conn grpc.ClientConnInterface, who Follower) (*Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	opened := false
	defer func() {
		if !opened {
			cancel()
		}
	}()
	stream, err := clusterv1.NewLogClient(conn).Follow(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&clusterv1.FollowRequest{Origin: who.Origin, Name: who.Name}); err != nil {
		_, err = stream.Recv() // says why
		return nil, err
	}
	hello, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	opened = true
	return &Stream{
		stream: stream, who: who, term: hello.GetTerm(), cancel: cancel,
		lost: make(chan struct{}), wake: make(chan struct{}, 1),
	}, nil
}

// Term is the leader's.
func (s *Stream) Term() uint64 { return s.term }

// Lost is closed when the stream has ended and nothing more is heard through it.
func (s *Stream) Lost() <-chan struct{} { return s.lost }

// Run carries until the stream ends and says why.
func (s *Stream) Run() error {
	var g errgroup.Group
	g.Go(s.send)
	g.Go(func() error {
		defer s.cancel()
		return s.receive()
	})
	err := g.Wait()
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	close(s.lost)
	return err
}

// Propose queues a command for sending. An error means that it is not sent.
func (s *Stream) Propose(sequence uint64, command []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return ErrNotLeader
	}
	if len(s.queue) >= queueCommandsMax || s.queuedBytes+len(command) > queueBytesMax {
		return ErrBusy
	}
	s.queue = append(s.queue, &clusterv1.Proposal{Sequence: sequence, Command: command})
	s.queuedBytes += len(command)
	poke(s.wake)
	return nil
}

// ReadIndex asks the leader for a log index that is at least its commit index
// now. Callers that come while an answer is on its way share the next.
func (s *Stream) ReadIndex(ctx context.Context) (uint64, error) {
	s.mu.Lock()
	if s.next == nil {
		s.next = &read{done: make(chan struct{})}
		if s.asked == nil {
			poke(s.wake)
		}
	}
	mine := s.next
	s.mu.Unlock()
	select {
	case <-mine.done:
		if mine.index == 0 {
			return 0, ErrNotLeader
		}
		return mine.index, nil
	case <-s.lost:
		return 0, ErrNotLeader
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (s *Stream) send() error {
	var said clusterv1.DiskState
	for {
		var changed <-chan struct{}
		if s.who.Disk != nil {
			var full bool
			full, changed = s.who.Disk()
			state := clusterv1.DiskState_DISK_OK
			if full {
				state = clusterv1.DiskState_DISK_FULL
			}
			if state != said {
				if err := s.stream.Send(&clusterv1.FollowRequest{Disk: state}); err != nil {
					return nil // receive knows why
				}
				said = state
			}
		}
		select {
		case <-s.wake:
		case <-changed:
		case <-s.stream.Context().Done():
			return nil // receive knows why
		}
		// Whoever is about to propose may do so first: one message then carries more
		// commands, and nobody waits if there is nobody.
		runtime.Gosched()
		for message := s.batch(); message != nil; message = s.batch() {
			if err := s.stream.Send(message); err != nil {
				return nil // receive knows why
			}
		}
	}
}

// batch takes what waits, up to a message's bounds; nil when nothing does.
func (s *Stream) batch() *clusterv1.FollowRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	var message clusterv1.FollowRequest
	if s.asked == nil && s.next != nil {
		s.reads++
		s.asked, s.next = s.next, nil
		s.asked.number = s.reads
		// The term is looked at after all who share this read have asked.
		message.Read, message.ReadTerm = s.reads, s.who.Term()
	}
	count, bytes := 0, 0
	for count < len(s.queue) && count < batchCommandsMax {
		size := len(s.queue[count].GetCommand())
		if count > 0 && bytes+size > batchBytesMax {
			break
		}
		bytes += size
		count++
	}
	message.Proposals = s.queue[:count:count]
	s.queuedBytes -= bytes
	if s.queue = s.queue[count:]; len(s.queue) == 0 {
		s.queue = nil
	}
	if count == 0 && message.Read == 0 {
		return nil
	}
	return &message
}

func (s *Stream) receive() error {
	for {
		message, err := s.stream.Recv()
		if err != nil {
			return err
		}
		for _, r := range message.GetRefusals() {
			s.who.Refuse(r.GetSequence(), errorOf(r))
		}
		if message.GetRead() != 0 {
			s.answer(message.GetRead(), message.GetIndex())
		}
	}
}

func (s *Stream) answer(number, index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked == nil || s.asked.number != number {
		return
	}
	s.asked.index = index
	close(s.asked.done)
	s.asked = nil
	if s.next != nil {
		poke(s.wake)
	}
}
