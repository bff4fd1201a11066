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

// writers propose on the given hosts until stopped. Every command is different.
type writers struct {
	c       *cluster
	stop    chan struct{}
	wg      sync.WaitGroup
	mu      sync.Mutex
	acked   []string
	errs    []error
	ackedOn map[*host]*atomic.Int64
}

func (c *cluster) write(perHost int, hosts ...*host) *writers {
	w := &writers{c: c, stop: make(chan struct{}), ackedOn: map[*host]*atomic.Int64{}}
	for _, h := range hosts {
		count := &atomic.Int64{}
		w.ackedOn[h] = count
		for range perHost {
			w.wg.Add(1)
			go func() {
				defer w.wg.Done()
				for {
					select {
					case <-w.stop:
						return
					default:
					}
					cmd := fmt.Sprint("w", c.commands.Add(1))
					ctx, cancel := c.ctx()
					_, err := h.Propose(ctx, []byte(cmd))
					cancel()
					w.mu.Lock()
					if err == nil {
						w.acked = append(w.acked, cmd)
						count.Add(1)
					} else {
						w.errs = append(w.errs, fmt.Errorf("%s on %s: %w", cmd, h.name, err))
					}
					w.mu.Unlock()
				}
			}()
		}
	}
	return w
}

// more waits until every writer's host has had some more writes acknowledged.
func (w *writers) more(n int64) {
	w.c.Helper()
	for h, count := range w.ackedOn {
		target := count.Load() + n
		w.c.eventually(fmt.Sprintf("%d more writes on %s", n, h.name), func() bool { return count.Load() >= target })
	}
}

func (w *writers) finish() {
	close(w.stop)
	w.wg.Wait()
}

// appliedOnce checks that hosts have every acknowledged write exactly once, and the same order.
func (w *writers) appliedOnce(hosts ...*host) {
	w.c.Helper()
	for _, h := range hosts {
		w.c.barrier(h)
		times := map[string]int{}
		for _, cmd := range h.sm.all() {
			times[cmd]++
			if times[cmd] > 1 {
				w.c.Errorf("%s applied %q %d times", h.name, cmd, times[cmd])
			}
		}
		for _, cmd := range w.acked {
			if times[cmd] != 1 {
				w.c.Errorf("%s applied acknowledged %q %d times", h.name, cmd, times[cmd])
			}
		}
	}
	w.c.sameLog(hosts...)
}

func (c *cluster) sameLog(hosts ...*host) {
	c.Helper()
	first := hosts[0].sm.all()
	for _, h := range hosts[1:] {
		other := h.sm.all()
		for i := range min(len(first), len(other)) {
			if first[i] != other[i] {
				c.Fatalf("place %d: %s has %q, %s has %q", i+1, hosts[0].name, first[i], h.name, other[i])
			}
		}
	}
}

// What was on its way to a leader that dies is either in the log or is sent
// again, never both: the writers see no error and nothing twice.
func TestKilledLeaderCostsOnlyTime(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.LeaderWait = 30 * time.Second })
	for range 3 {
		leader := c.leader()
		others := c.followers()
		w := c.write(8, others...)
		w.more(30)
		leader.kill()
		w.more(30)
		w.finish()
		for _, err := range w.errs {
			t.Error(err)
		}
		leader.start()
		w.appliedOnce(c.hosts...)
	}
}

func TestTransferShowsNoError(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.LeaderWait = 30 * time.Second })
	w := c.write(6, c.hosts...)
	for range 4 {
		w.more(20)
		leader := c.leader()
		ctx, cancel := c.ctx()
		err := leader.TransferLeadership(ctx)
		cancel()
		if err != nil && !errors.Is(err, ErrNotLeader) {
			t.Errorf("transfer: %v", err)
		}
		if l, _ := leader.term.get(); err == nil && l != nil && l.ctx.Err() == nil {
			t.Errorf("%s still leads after handing leadership on", leader.name)
		}
	}
	w.more(20)
	w.finish()
	for _, err := range w.errs {
		t.Error(err)
	}
	w.appliedOnce(c.hosts...)
}

// A graceful stop of the leader hands leadership on first. A busy machine must not
// take it from the leader before.
func TestStoppedLeaderHandsOver(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.Heartbeat, cfg.LeaderLease, cfg.LeaderWait = 2*time.Second, 2*time.Second, 30*time.Second
	})
	w := c.write(4, c.followers()...)
	w.more(20)
	leader := c.leader()
	term := leader.raft.CurrentTerm()
	leader.stop()
	if leader.raft.CurrentTerm() == term {
		t.Error("it stopped before another was elected")
	}
	w.more(20)
	w.finish()
	for _, err := range w.errs {
		t.Error(err)
	}
	w.appliedOnce(c.followers()...)
}

// With heartbeat timers far longer than the test, only the broken connection
// can tell that the leader is gone.
func TestDeadLeaderIsNoticedByItsConnection(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.Heartbeat, cfg.LeaderWait = 5*time.Minute, time.Minute })
	others := c.followers()
	calm := func(h *host) bool {
		want := 5 * time.Minute
		if h == c.leader() {
			want, _ = h.timersOfLeader()
		}
		return h.raft.ReloadableConfig().HeartbeatTimeout == want
	}
	for _, h := range others {
		c.propose(h, "followed by "+h.name)
		c.eventually("calm timers", func() bool { return calm(h) })
	}
	c.leader().kill()
	c.propose(others[0], "after")
	for _, h := range others {
		c.eventually("calm timers again", func() bool { return calm(h) })
	}
}

// A follower that loses its connection to a leader that lives looks again, and
// finds it alive.
func TestBlipCausesNoElection(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader := c.leader()
	term := leader.Status().Term
	for i := range 5 {
		for _, h := range c.followers() {
			c.propose(h, fmt.Sprint("before ", i, h.name))
			h.conns.Range(func(_, conn any) bool {
				_ = conn.(interface{ Close() error }).Close()
				return true
			})
			h.conns.Clear()
		}
		for _, h := range c.followers() {
			c.propose(h, fmt.Sprint("after ", i, h.name))
		}
	}
	if got := c.leader().Status().Term; got != term || c.leader() != leader {
		t.Errorf("%s leads in term %d, want %s in term %d", c.leader().name, got, leader.name, term)
	}
}

// Alone, a node must say so instead of hanging, and must not claim a quorum.
func TestNoQuorum(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.propose(c.hosts[0], "before")
	last := c.leader()
	for _, h := range c.followers() {
		h.kill()
	}
	last.cfg.LeaderWait = 300 * time.Millisecond
	c.eventually("no quorum", func() bool { return !last.Status().HasQuorum })
	if _, err := last.Propose(context.Background(), []byte("x")); !errors.Is(err, ErrNoLeader) {
		t.Errorf("propose: %v, want %v", err, ErrNoLeader)
	}
	if err := last.ReadBarrier(context.Background()); !errors.Is(err, ErrNoLeader) {
		t.Errorf("read barrier: %v, want %v", err, ErrNoLeader)
	}
	if _, err := last.AddServer(context.Background(), "c9", "127.0.0.1:1"); !errors.Is(err, ErrNotLeader) {
		t.Errorf("add server: %v, want %v", err, ErrNotLeader)
	}
	s := last.Status()
	if s.Leader != "" || len(s.Servers) != 3 || s.Name != last.name {
		t.Errorf("status %+v, want no leader, 3 servers", s)
	}
	for _, h := range c.hosts {
		if h != last {
			h.start()
		}
	}
	last.cfg.LeaderWait = time.Minute
	c.propose(last, "after")
}

func TestAllRestartAtOnce(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.LeaderWait = time.Minute })
	for i := range 20 {
		c.propose(c.hosts[i%3], fmt.Sprint("before ", i))
	}
	for _, h := range c.hosts {
		h.kill()
	}
	for _, h := range c.hosts {
		h.start()
	}
	for _, h := range c.hosts {
		c.propose(h, "after on "+h.name)
		for i := range 20 {
			if cmd := fmt.Sprint("before ", i); h.sm.count(cmd) != 1 {
				t.Errorf("%s has %q %d times", h.name, cmd, h.sm.count(cmd))
			}
		}
	}
	c.sameLog(c.hosts...)
}

// A node that was away for longer than the log reaches back gets a snapshot.
func TestSnapshotReachesLaggingNode(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.SnapshotEntries, cfg.TrailingEntries = 20, 5
	})
	away := c.followers()[0]
	away.stop()
	leader := c.leader()
	for i := range 100 {
		c.propose(leader, fmt.Sprint(i))
	}
	c.eventually("a trimmed log", func() bool {
		first, err := leader.disk.FirstIndex()
		return err == nil && first > 50
	})
	away.start()
	c.barrier(away)
	if away.sm.restored == 0 {
		t.Error("no snapshot was restored")
	}
	c.propose(away, "after")
	if got, want := len(away.sm.all()), 101; got != want {
		t.Errorf("%d commands, want %d", got, want)
	}
	c.sameLog(c.hosts...)

	// And a restart goes on from a node's own snapshot.
	leader = c.leader()
	leader.kill()
	leader.start()
	c.barrier(leader)
	if leader.sm.restored == 0 {
		t.Error("a restart replayed the whole log")
	}
	c.sameLog(c.hosts...)
}
