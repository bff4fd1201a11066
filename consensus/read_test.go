package consensus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// A write acknowledged on one node is seen on every other after its barrier,
// whoever leads, while leaders are killed and come back.
func TestReadBarrierSeesEveryAcknowledgedWrite(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.LeaderWait = 30 * time.Second })
	var down sync.RWMutex // held to kill: a check is not of a node that goes away
	check := func(i, k int) error {
		down.RLock()
		defer down.RUnlock()
		up := slices.DeleteFunc(slices.Clone(c.hosts), func(h *host) bool { return !h.up })
		writer, reader := up[i%len(up)], up[(i+1+k%2)%len(up)]
		ctx, cancel := c.ctx()
		defer cancel()
		cmd := fmt.Sprintf("%d-%d", i, k)
		if _, err := writer.Propose(ctx, []byte(cmd)); err != nil {
			return fmt.Errorf("propose on %s: %w", writer.name, err)
		}
		if err := reader.ReadBarrier(ctx); err != nil {
			return fmt.Errorf("read barrier on %s: %w", reader.name, err)
		}
		if !reader.sm.has(cmd) {
			return fmt.Errorf("%q, acknowledged on %s, is not on %s after its barrier", cmd, writer.name, reader.name)
		}
		return nil
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var checks sync.Map
	for i := range c.hosts {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for k := 0; ; k++ {
				select {
				case <-stop:
					checks.Store(i, k)
					return
				default:
				}
				if err := check(i, k); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	for range 4 {
		time.Sleep(150 * time.Millisecond)
		leader := c.leader()
		down.Lock()
		leader.kill()
		down.Unlock()
		time.Sleep(150 * time.Millisecond)
		down.Lock()
		leader.start()
		down.Unlock()
	}
	close(stop)
	wg.Wait()
	checks.Range(func(i, k any) bool {
		if k.(int) < 5 {
			t.Errorf("writer %d made %d checks, want more", i, k)
		}
		return true
	})
}

// A leader that was paused finds old answers of its followers when it goes on.
// They do not show that it leads still. Here what the followers send it is held
// until another leads and has committed; then their answers arrive first, and
// what the new leader says after them.
func TestReadBarrierIgnoresOldAnswers(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) {
		if cfg.Name == "c1" { // does not step down by itself in this test
			cfg.Heartbeat, cfg.LeaderLease = 10*time.Minute, 10*time.Minute
		}
		cfg.LeaderWait = time.Minute
	})
	old, others := c.hosts[0], c.hosts[1:]
	c.propose(old, "old")
	if c.leader() != old {
		t.Fatalf("%s leads, want %s", c.leader().name, old.name)
	}
	answers := []way{{others[0].name, old.name, true}, {others[1].name, old.name, true}}
	calls := []way{{others[0].name, old.name, false}, {others[1].name, old.name, false}}
	questions := []way{{old.name, others[0].name, false}, {old.name, others[1].name, false}}
	for round := range 2 {
		c.network.hold(answers...)
		c.network.hold(calls...)
		c.eventually("another leader", func() bool {
			for _, h := range others {
				if l, _ := h.term.get(); l != nil {
					return true
				}
			}
			return false
		})
		cmd := fmt.Sprint("new ", round)
		c.propose(others[0], cmd)
		c.network.hold(questions...)
		read := make(chan error, 1)
		ctx, cancel := c.ctx()
		go func() { read <- old.ReadBarrier(ctx) }()
		time.Sleep(20 * time.Millisecond) // the question is asked
		c.network.release(answers...)
		time.Sleep(100 * time.Millisecond) // time to be wrong in
		c.network.release(calls...)
		c.network.release(questions...)
		if err := <-read; err != nil {
			t.Fatal(err)
		}
		cancel()
		if !old.sm.has(cmd) {
			t.Fatalf("round %d: the old leader's read misses a write that was acknowledged before", round)
		}
		c.eventually("the old leader leads again", func() bool {
			leader := c.leader()
			if leader == old {
				return true
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = leader.TransferLeadership(ctx)
			return false
		})
	}
}

// Who vouches must be a voter, and the leader must be in its term still.
func TestVoucherAndLeaderAreAQuorumOfTheTerm(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.propose(c.hosts[0], "a")
	leader := c.leader()
	l, _ := leader.term.get()
	if l == nil {
		t.Fatal("the leader lost its term")
	}
	for _, h := range c.hosts {
		if _, ok := l.vouched(h.name); ok != (h != leader) {
			t.Errorf("%s vouches for %s: %v", h.name, leader.name, ok)
		}
	}
	if _, ok := l.vouched("stranger"); ok {
		t.Error("who is no voter vouches")
	}
	// Raft is in a later term; this node has not been told yet that its own is over.
	late := &leadership{node: l.node, number: l.number - 1, ctx: l.ctx, rounds: l.rounds, peers: l.peers}
	if _, ok := late.vouched(c.hosts[1].name); ok || late.current() {
		t.Error("a term that is over is vouched for")
	}
	if index, err := late.readIndexRound(t.Context()); err == nil {
		t.Errorf("a round of a term that is over answers %d", index)
	}
}

// Many readers cost the leader few rounds.
func TestReadBarriersShareRounds(t *testing.T) {
	c := newCluster(t, 3, nil)
	for _, h := range c.hosts {
		c.barrier(h)
	}
	l, _ := c.leader().term.get()
	before := l.round.Load()
	var wg sync.WaitGroup
	const readers = 300
	for i := range readers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := c.hosts[i%3].ReadBarrier(context.Background()); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if rounds := l.round.Load() - before; rounds == 0 || rounds > readers/3 {
		t.Errorf("%d readers took %d rounds, want a few", readers, rounds)
	}
}

func TestReadBarrierHonoursItsContext(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader := c.leader()
	for _, h := range c.followers() {
		h.kill()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := leader.ReadBarrier(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
}
