package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// performance records the duties of one node: how many run now, and the terms.
type performance struct {
	running, overlaps atomic.Int32
	mu                sync.Mutex
	terms             []uint64
}

func (p *performance) enter(term uint64) (leave func()) {
	if p.running.Add(1) > 1 {
		p.overlaps.Add(1)
	}
	p.mu.Lock()
	p.terms = append(p.terms, term)
	p.mu.Unlock()
	return func() { p.running.Add(-1) }
}

// A duty that is slow to stop must not meet its successor, while leadership
// goes to and fro.
func TestWhileLeaderNeverOverlaps(t *testing.T) {
	c := newCluster(t, 3, nil)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	performances := map[*host]*performance{}
	for _, h := range c.hosts {
		p := &performance{}
		performances[h] = p
		wg.Add(1)
		go func() {
			defer wg.Done()
			err := h.WhileLeader(ctx, Duty{Name: "slow to stop", Run: func(ctx context.Context, term *Term) error {
				defer p.enter(term.Number())()
				<-ctx.Done()
				time.Sleep(150 * time.Millisecond)
				return nil
			}})
			if err != nil {
				t.Errorf("%s: %v", h.name, err)
			}
		}()
	}
	starts := func() (n int) {
		for _, p := range performances {
			p.mu.Lock()
			n += len(p.terms)
			p.mu.Unlock()
		}
		return n
	}
	for i := range 6 {
		c.eventually("a leader at work", func() bool { return starts() > i })
		transfer, done := c.ctx()
		if err := c.leader().TransferLeadership(transfer); err != nil {
			t.Logf("transfer: %v", err)
		}
		done()
	}
	cancel()
	wg.Wait()
	for h, p := range performances {
		if n := p.overlaps.Load(); n > 0 {
			t.Errorf("%s: %d runs began before the last had ended", h.name, n)
		}
		for i := 1; i < len(p.terms); i++ {
			if p.terms[i] <= p.terms[i-1] {
				t.Errorf("%s: term %d after term %d", h.name, p.terms[i], p.terms[i-1])
			}
		}
	}
}

// Duties start on a state that has all that was committed before.
func TestDutiesSeeWhatWasCommitted(t *testing.T) {
	c := newCluster(t, 3, nil)
	ctx, cancel := context.WithCancel(context.Background())
	var committed, runs atomic.Int64
	var wg sync.WaitGroup
	for _, h := range c.hosts {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_ = h.WhileLeader(ctx, Duty{Name: "look", Run: func(ctx context.Context, term *Term) error {
				if got, want := len(h.sm.all()), int(committed.Load()); got < want {
					t.Errorf("%s starts with %d commands, want at least %d", h.name, got, want)
				}
				runs.Add(1)
				return nil
			}})
		}()
	}
	for i := range 5 {
		for _, h := range c.hosts {
			c.propose(h, fmt.Sprint(i, h.name))
		}
		committed.Store(int64(3 * (i + 1)))
		before := runs.Load()
		transfer, done := c.ctx()
		if err := c.leader().TransferLeadership(transfer); err != nil {
			t.Logf("transfer: %v", err)
			before--
		}
		done()
		c.eventually("the duty runs", func() bool { return runs.Load() > before })
	}
	cancel()
	wg.Wait()
}

func TestFailedDutyHandsLeadershipOn(t *testing.T) {
	c := newCluster(t, 3, nil)
	ctx, cancel := context.WithCancel(context.Background())
	first := c.leader()
	var stopped atomic.Bool
	var wg sync.WaitGroup
	served := make(chan string, 100)
	for _, h := range c.hosts {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_ = h.WhileLeader(ctx,
				Duty{Name: "steady", Run: func(ctx context.Context, term *Term) error {
					<-ctx.Done()
					if h == first {
						stopped.Store(true)
					}
					return nil
				}},
				Duty{Name: "fails on one node", Run: func(ctx context.Context, term *Term) error {
					if h == first {
						return errors.New("broken here")
					}
					served <- h.name
					<-ctx.Done()
					return nil
				}})
		}()
	}
	if by := <-served; by == first.name {
		t.Errorf("served by %s, where the duty fails", by)
	}
	if !stopped.Load() {
		t.Error("the other duty of the failed term was not stopped")
	}
	cancel()
	wg.Wait()
}

// Where nobody can take over, duties are tried again.
func TestFailedDutyIsTriedAgainOnASingleNode(t *testing.T) {
	c := newCluster(t, 1, nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	tries := 0
	err := c.hosts[0].WhileLeader(ctx, Duty{Name: "fails twice", Run: func(ctx context.Context, term *Term) error {
		if tries++; tries < 3 {
			return fmt.Errorf("try %d", tries)
		}
		if _, err := term.Propose(ctx, []byte("worked")); err != nil {
			return err
		}
		cancel()
		return nil
	}})
	if err != nil || !c.hosts[0].sm.has("worked") {
		t.Errorf("after %d tries: %v", tries, err)
	}
}

// What a deposed leader's duty writes must not count, not even when the node
// leads again.
func TestTermProposesInItsOwnTermOnly(t *testing.T) {
	c := newCluster(t, 3, nil)
	h := c.leader()
	l, _ := h.term.get()
	term := &Term{l}
	ctx, cancel := c.ctx()
	defer cancel()
	if _, err := term.Propose(ctx, []byte("leading")); err != nil {
		t.Fatal(err)
	}
	for again := false; !again; {
		if err := c.leader().TransferLeadership(ctx); err != nil {
			t.Logf("transfer: %v", err)
		}
		now := c.leader()
		if _, err := term.Propose(ctx, []byte("deposed")); !errors.Is(err, ErrNotLeader) {
			t.Errorf("%s leads: got %v, want %v", now.name, err, ErrNotLeader)
		}
		if err := term.ReadBarrier(ctx); !errors.Is(err, ErrNotLeader) {
			t.Errorf("%s leads: read barrier: %v, want %v", now.name, err, ErrNotLeader)
		}
		again = now == h
	}
	// Even an entry that was already made for the old term does not count.
	late := envelope{term: l.number, commands: []command{{origin: 1, sequence: 1, data: []byte("late")}}}
	c.eventually("the late entry is in the log", func() bool {
		future := c.leader().apply(late.encode())
		return future.Error() == nil && future.Response().(outcome).late
	})
	for _, other := range c.hosts {
		c.barrier(other)
		for _, cmd := range []string{"deposed", "late"} {
			if other.sm.has(cmd) {
				t.Errorf("%s applied %q", other.name, cmd)
			}
		}
	}
}
