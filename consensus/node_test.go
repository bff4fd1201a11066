package consensus

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

func TestProposeOnEveryNode(t *testing.T) {
	c := newCluster(t, 3, nil)
	place := 0
	for round := range 3 {
		for _, h := range c.hosts {
			place++
			cmd := fmt.Sprintf("%s-%d", h.name, round)
			if got, want := c.propose(h, cmd), fmt.Sprint(place); got != want {
				t.Errorf("answer on %s: %s, want %s", h.name, got, want)
			}
			if !h.sm.has(cmd) {
				t.Errorf("%s does not read its own write %q", h.name, cmd)
			}
		}
	}
	for _, h := range c.hosts {
		c.barrier(h)
		if got := len(h.sm.all()); got != place {
			t.Errorf("%s has %d commands, want %d", h.name, got, place)
		}
	}
}

// Entries cost a disk write on every node; commands must not.
func TestConcurrentProposalsShareEntries(t *testing.T) {
	c := newCluster(t, 3, nil)
	c.propose(c.hosts[0], "first")
	before := c.leader().raft.LastIndex()
	const clients, each = 60, 20
	var wg sync.WaitGroup
	for i := range clients {
		wg.Add(1)
		go func() {
			defer wg.Done()
			h := c.hosts[i%len(c.hosts)]
			for k := range each {
				if _, err := h.Propose(context.Background(), fmt.Appendf(nil, "%d-%d", i, k)); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	entries := int(c.leader().raft.LastIndex() - before)
	if entries > clients*each/3 {
		t.Errorf("%d commands took %d entries, want far fewer", clients*each, entries)
	}
	t.Logf("%d commands in %d entries", clients*each, entries)
	for _, h := range c.hosts {
		c.barrier(h)
		seen := map[string]int{}
		for _, cmd := range h.sm.all() {
			seen[cmd]++
		}
		if len(seen) != clients*each+1 {
			t.Errorf("%s has %d different commands, want %d", h.name, len(seen), clients*each+1)
		}
		for cmd, n := range seen {
			if n != 1 {
				t.Errorf("%s applied %q %d times", h.name, cmd, n)
			}
		}
	}
}

func TestIdleClusterWritesNothing(t *testing.T) {
	c := newCluster(t, 3, nil)
	for _, h := range c.hosts {
		c.propose(h, "from "+h.name)
	}
	for _, h := range c.hosts {
		c.barrier(h)
	}
	var before []float64
	for _, h := range c.hosts {
		before = append(before, sampled(h).disk.count)
	}
	time.Sleep(500 * time.Millisecond)
	for i, h := range c.hosts {
		if writes := sampled(h).disk.count - before[i]; writes > 0 {
			t.Errorf("%s wrote %v times", h.name, writes)
		}
	}
}
