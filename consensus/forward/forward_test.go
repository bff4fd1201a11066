package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// leader keeps what it is proposed. Commands "busy", "deposed" and "lost" are
// refused, the last two a little later; a read index waits for hold.
type leader struct {
	done chan struct{}
	hold chan struct{}

	mu       sync.Mutex
	commands []string
	origins  []uint64
	disks    []string
	vouchers []string
	late     sync.WaitGroup
	rounds   atomic.Uint64
}

func (l *leader) Term() uint64          { return 7 }
func (l *leader) Done() <-chan struct{} { return l.done }

func (l *leader) Propose(origin, sequence uint64, command []byte, refuse func(error)) error {
	later := func(err error) {
		l.late.Add(1)
		go func() {
			defer l.late.Done()
			refuse(err)
		}()
	}
	switch string(command) {
	case "busy":
		return ErrBusy
	case "deposed":
		later(ErrNotLeader)
	case "lost":
		later(errors.New("disk"))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commands = append(l.commands, string(command))
	l.origins = append(l.origins, origin)
	return nil
}

func (l *leader) ReadIndex(ctx context.Context, voucher string) (uint64, error) {
	l.mu.Lock()
	l.vouchers = append(l.vouchers, voucher)
	l.mu.Unlock()
	select {
	case <-l.hold:
		return 100 + l.rounds.Add(1), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (l *leader) Disk(follower string, full bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.disks = append(l.disks, fmt.Sprint(follower, " ", full))
}

func (l *leader) got() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.commands)
}

// serve returns a connection to a server of l, over loopback TCP.
func serve(t *testing.T, l *leader) (conn *grpc.ClientConn, server *grpc.Server) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server = grpc.NewServer()
	Register(server, func() Leader {
		if l == nil {
			return nil
		}
		return l
	})
	go server.Serve(listener)
	conn, err = grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		if l != nil {
			l.late.Wait()
		}
	})
	return conn, server
}

type refusals struct {
	mu sync.Mutex
	of map[uint64]error
}

func (r *refusals) refuse(sequence uint64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.of[sequence] = err
}

func (r *refusals) get(sequence uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.of[sequence]
}

// open follows l, and returns a channel with the stream's end.
func open(t *testing.T, conn *grpc.ClientConn, origin uint64) (*Stream, *refusals, <-chan error) {
	t.Helper()
	r := &refusals{of: map[uint64]error{}}
	s, ended := follow(t, conn, Follower{Name: "f1", Origin: origin, Term: func() uint64 { return 7 }, Refuse: r.refuse})
	return s, r, ended
}

func follow(t *testing.T, conn *grpc.ClientConn, who Follower) (*Stream, <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := Open(ctx, conn, who)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ended <- s.Run() })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return s, ended
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("still not: %s", what)
}

func TestCommandsArriveInOrder(t *testing.T) {
	l := &leader{done: make(chan struct{})}
	conn, _ := serve(t, l)
	s, _, _ := open(t, conn, 42)
	if s.Term() != 7 {
		t.Errorf("term %d, want 7", s.Term())
	}
	var want []string
	for i := range 3000 {
		cmd := fmt.Sprint(i, strings.Repeat("x", i))
		want = append(want, cmd)
		if err := s.Propose(uint64(i), []byte(cmd)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all commands", func() bool { return len(l.got()) == len(want) })
	if !slices.Equal(l.got(), want) {
		t.Error("the commands are not those sent, or not in their order")
	}
	if slices.ContainsFunc(l.origins, func(o uint64) bool { return o != 42 }) {
		t.Error("an origin is not the follower's")
	}
}

func TestRefusalsArrive(t *testing.T) {
	l := &leader{done: make(chan struct{})}
	conn, _ := serve(t, l)
	s, r, _ := open(t, conn, 1)
	for sequence, test := range map[uint64]struct {
		command string
		want    error
	}{1: {"fine", nil}, 2: {"busy", ErrBusy}, 3: {"deposed", ErrNotLeader}, 4: {"lost", ErrLost}} {
		if err := s.Propose(sequence, []byte(test.command)); err != nil {
			t.Fatal(err)
		}
		eventually(t, test.command, func() bool {
			return errors.Is(r.get(sequence), test.want) && (test.want != nil || len(l.got()) > 0)
		})
	}
	if err := r.get(1); err != nil {
		t.Errorf("refused without reason: %v", err)
	}
}

func TestReadIndexesAreShared(t *testing.T) {
	l := &leader{done: make(chan struct{}), hold: make(chan struct{})}
	conn, _ := serve(t, l)
	s, _, _ := open(t, conn, 1)
	var wg sync.WaitGroup
	const readers = 100
	for range readers {
		wg.Go(func() {
			if index, err := s.ReadIndex(context.Background()); err != nil || index < 101 {
				t.Errorf("index %d, %v", index, err)
			}
		})
	}
	l.hold <- struct{}{} // the first round's callers
	eventually(t, "all others wait for one round", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.asked != nil
	})
	close(l.hold)
	wg.Wait()
	if n := l.rounds.Load(); n > readers/2 {
		t.Errorf("%d readers took %d rounds, want a few", readers, n)
	}
}

// The leader hears of a follower's disk at once, and again when that changes.
func TestLeaderHearsOfDisks(t *testing.T) {
	l := &leader{done: make(chan struct{})}
	conn, _ := serve(t, l)
	var mu sync.Mutex
	full, changed := false, make(chan struct{})
	follow(t, conn, Follower{Name: "f1", Origin: 1, Term: func() uint64 { return 7 }, Disk: func() (bool, <-chan struct{}) {
		mu.Lock()
		defer mu.Unlock()
		return full, changed
	}})
	said := func() []string {
		l.mu.Lock()
		defer l.mu.Unlock()
		return slices.Clone(l.disks)
	}
	eventually(t, "the first word", func() bool { return slices.Equal(said(), []string{"f1 false"}) })
	mu.Lock()
	old := changed
	full, changed = true, make(chan struct{})
	mu.Unlock()
	close(old)
	eventually(t, "that it is full", func() bool { return slices.Equal(said(), []string{"f1 false", "f1 true"}) })
}

// A read index must not be older than the question: who asks while an answer is
// on its way gets the next one.
func TestReadIndexIsAskedAfterTheCall(t *testing.T) {
	l := &leader{done: make(chan struct{}), hold: make(chan struct{})}
	conn, _ := serve(t, l)
	s, _, _ := open(t, conn, 1)
	first, second := make(chan uint64, 1), make(chan uint64, 1)
	ask := func(to chan<- uint64) {
		index, err := s.ReadIndex(context.Background())
		if err != nil {
			t.Error(err)
		}
		to <- index
	}
	var wg sync.WaitGroup
	wg.Go(func() { ask(first) })
	eventually(t, "the first is on its way", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.asked != nil && s.next == nil
	})
	wg.Go(func() { ask(second) })
	eventually(t, "the second waits", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.next != nil
	})
	l.hold <- struct{}{}
	l.hold <- struct{}{}
	wg.Wait()
	if a, b := <-first, <-second; a == b {
		t.Errorf("both got index %d: the second was answered from a question asked before it", a)
	}
}

func TestNobodyFollowsWhoDoesNotLead(t *testing.T) {
	conn, _ := serve(t, nil)
	_, err := Open(context.Background(), conn, Follower{Origin: 1})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("got %v, want %v", err, codes.FailedPrecondition)
	}
}

// A follower vouches for a leader of the very term that it is in, no other.
func TestFollowerVouchesForItsOwnTermOnly(t *testing.T) {
	l := &leader{done: make(chan struct{}), hold: make(chan struct{})}
	close(l.hold)
	conn, _ := serve(t, l)
	var now atomic.Uint64
	s, _ := follow(t, conn, Follower{Name: "f1", Term: now.Load})
	for _, term := range []uint64{l.Term(), l.Term() + 1, l.Term() - 1} {
		now.Store(term)
		if _, err := s.ReadIndex(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if want := []string{"f1", "", ""}; !slices.Equal(l.vouchers, want) {
		t.Errorf("vouchers %q, want %q", l.vouchers, want)
	}
}

// The end of a term and the death of a process look different: only the second
// makes a follower look for a new leader in a hurry.
func TestHowAStreamEnds(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(*leader, *grpc.Server)
		want codes.Code
	}{
		{"term over", func(l *leader, _ *grpc.Server) { close(l.done) }, codes.FailedPrecondition},
		{"process gone", func(_ *leader, s *grpc.Server) { s.Stop() }, codes.Unavailable},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := &leader{done: make(chan struct{}), hold: make(chan struct{})}
			conn, server := serve(t, l)
			s, _, ended := open(t, conn, 1)
			read := make(chan error, 1)
			go func() {
				_, err := s.ReadIndex(context.Background())
				read <- err
			}()
			test.end(l, server)
			if err := <-ended; status.Code(err) != test.want {
				t.Errorf("ended with %v, want %v", err, test.want)
			}
			<-s.Lost()
			if err := <-read; !errors.Is(err, ErrNotLeader) {
				t.Errorf("waiting read: %v, want %v", err, ErrNotLeader)
			}
			if err := s.Propose(1, nil); !errors.Is(err, ErrNotLeader) {
				t.Errorf("propose afterwards: %v, want %v", err, ErrNotLeader)
			}
		})
	}
}

func TestQueueIsBounded(t *testing.T) {
	s := &Stream{wake: make(chan struct{}, 1)} // nothing is sent
	for i := range queueCommandsMax {
		if err := s.Propose(uint64(i), nil); err != nil {
			t.Fatalf("command %d: %v", i, err)
		}
	}
	if err := s.Propose(0, nil); !errors.Is(err, ErrBusy) {
		t.Errorf("one more: %v, want %v", err, ErrBusy)
	}
	s = &Stream{wake: make(chan struct{}, 1)}
	if err := s.Propose(1, make([]byte, queueBytesMax)); err != nil {
		t.Fatal(err)
	}
	if err := s.Propose(2, make([]byte, 1)); !errors.Is(err, ErrBusy) {
		t.Errorf("one more byte: %v, want %v", err, ErrBusy)
	}
	if got := s.batch(); len(got.GetProposals()) != 1 {
		t.Errorf("%d commands in a message, want 1", len(got.GetProposals()))
	}
	if err := s.Propose(3, make([]byte, 1)); err != nil {
		t.Errorf("after sending: %v", err)
	}
}

func TestReasonsSurviveTheWire(t *testing.T) {
	for _, err := range []error{ErrNotLeader, ErrBusy, ErrNoSpace, ErrLost} {
		if got := errorOf(refusal(1, fmt.Errorf("wrapped: %w", err))); !errors.Is(got, err) {
			t.Errorf("%v became %v", err, got)
		}
	}
	full := fmt.Errorf("%w (full: c2, c3)", ErrNoSpace)
	if got := errorOf(refusal(1, full)); !errors.Is(got, ErrNoSpace) || got.Error() != full.Error() {
		t.Errorf("got %v, want whose disks are full as the leader says it: %v", got, full)
	}
	if got := errorOf(&clusterv1.Refusal{Reason: 99}); !errors.Is(got, ErrLost) {
		t.Errorf("an unknown reason became %v, want %v", got, ErrLost)
	}
}
