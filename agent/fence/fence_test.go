package fence

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/proto/agent/fencing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is agents that hear each other and the control plane, or do not.
type cluster struct {
	t     *testing.T
	began time.Time

	mu     sync.Mutex
	nodes  map[string]*node
	apart  map[string]bool // cannot reach the control plane
	side   map[string]int  // agents of different sides do not reach each other
	outage bool
}

type node struct {
	*Fence
	end     func()
	changes []string
}

func (c *cluster) clock() time.Duration { return time.Since(c.began) + time.Hour }

func newCluster(t *testing.T, size int) *cluster {
	c := &cluster{t: t, began: time.Now(), nodes: map[string]*node{}, apart: map[string]bool{}, side: map[string]int{}}
	for i := range size {
		c.start(fmt.Sprintf("n%d", i+1), "", size)
	}
	return c
}

// start runs an agent, and a control plane that speaks to it each second.
func (c *cluster) start(name, file string, size int) *node {
	f, err := New(Config{Name: name, File: file, Clock: c.clock})
	if err != nil {
		c.t.Fatal(err)
	}
	n := &node{Fence: f}
	f.Through(name, func(address, _ string, message []byte) error {
		c.mu.Lock()
		to, reached := c.nodes[address], c.side[name] == c.side[address]
		c.mu.Unlock()
		if reached && to != nil {
			time.Sleep(time.Millisecond)
			to.Receive(message)
		}
		return nil
	}, func(name string) (string, bool) { return name, true })
	f.OnChange(func(s State) {
		c.mu.Lock()
		defer c.mu.Unlock()
		n.changes = append(n.changes, fmt.Sprintf("%v %v", time.Since(c.began).Round(time.Second), s == Going))
	})
	ctx, cancel := context.WithCancel(c.t.Context())
	var group sync.WaitGroup
	group.Go(func() { _ = f.Run(ctx) })
	group.Go(func() {
		var others []string
		for i := range size {
			if other := fmt.Sprintf("n%d", i+1); other != name {
				others = append(others, other)
			}
		}
		for ctx.Err() == nil {
			c.mu.Lock()
			hears := !c.outage && !c.apart[name]
			c.mu.Unlock()
			if hears {
				f.Nodes(others)
				f.Heard()
				f.Certain(int64(c.clock() - time.Second))
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	})
	n.end = func() {
		c.mu.Lock()
		delete(c.nodes, name)
		c.mu.Unlock()
		cancel()
		group.Wait()
	}
	c.mu.Lock()
	c.nodes[name] = n
	c.mu.Unlock()
	return n
}

func (c *cluster) end() {
	for len(c.nodes) > 0 {
		for _, n := range c.nodes {
			n.end()
			break
		}
	}
}

func (c *cluster) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

func (c *cluster) want(when string, want map[string]State) {
	c.t.Helper()
	for name, w := range want {
		if got := c.nodes[name].State(); got != w {
			c.t.Errorf("%s: %s is %v, want %v (changes %v)", when, name, got, w, c.nodes[name].changes)
		}
	}
}

func TestWhoIsCutOffStopsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.end()
		time.Sleep(time.Minute)
		c.want("at first", map[string]State{"n1": Going, "n2": Going, "n3": Going})
		c.set(func() { c.apart["n1"], c.side["n1"] = true, 1 })
		time.Sleep(fencing.StopAfterDefault - 3*time.Second)
		c.want("after a short while", map[string]State{"n1": Going, "n2": Going})
		time.Sleep(3*time.Second + 100*time.Millisecond)
		c.want("after the deadline", map[string]State{"n1": Stopped, "n2": Going, "n3": Going})
		time.Sleep(10 * time.Minute)
		c.want("an hour later", map[string]State{"n1": Stopped, "n2": Going, "n3": Going})
		c.set(func() { c.apart["n1"], c.side["n1"] = false, 0 })
		time.Sleep(2 * time.Second)
		c.want("when it is back", map[string]State{"n1": Going})
		if got, want := len(c.nodes["n2"].changes), 1; got != want {
			t.Errorf("n2 changed %d times, want %d: %v", got, want, c.nodes["n2"].changes)
		}
	})
}

// Others that hear the control plane are no witnesses that it is gone.
func TestWhoReachesOnlyTheOthersStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5)
		defer c.end()
		time.Sleep(time.Minute)
		c.set(func() { c.apart["n1"], c.apart["n2"] = true, true })
		time.Sleep(fencing.StopAfterDefault + 100*time.Millisecond)
		c.want("after the deadline", map[string]State{"n1": Stopped, "n2": Stopped, "n3": Going})
	})
}

func TestOutageOfTheControlPlaneStopsNothing(t *testing.T) {
	for _, size := range []int{1, 2, 3, 10} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, size)
			defer c.end()
			time.Sleep(time.Minute)
			c.set(func() { c.outage = true })
			time.Sleep(20 * time.Minute)
			c.set(func() { c.outage = false })
			time.Sleep(time.Minute)
			for name, n := range c.nodes {
				if len(n.changes) != 1 {
					t.Errorf("%d nodes: %s changed %v, want that it only began", size, name, n.changes)
				}
			}
		})
	}
}

// Whatever part of the nodes is cut off, together or each alone: where a leader
// that hears the rest may fence them, they have stopped by the time they
// promise, and where it may not because all are cut off, none has.
func TestPartitionsNeverLeaveBothGoing(t *testing.T) {
	for size := 1; size <= 5; size++ {
		for cut := 1; cut <= size; cut++ {
			for _, together := range []bool{true, false} {
				synctest.Test(t, func(t *testing.T) {
					c := newCluster(t, size)
					defer c.end()
					time.Sleep(time.Minute)
					c.set(func() {
						for i := range cut {
							name := fmt.Sprintf("n%d", i+1)
							c.apart[name], c.side[name] = true, 1
							if !together {
								c.side[name] = i + 1
							}
						}
					})
					for range 30 {
						time.Sleep(time.Second)
						if c.clock() < time.Hour+time.Minute+fencing.StopAfterDefault+100*time.Millisecond {
							continue
						}
						for i := range cut {
							name := fmt.Sprintf("n%d", i+1)
							going := c.nodes[name].State() != Stopped
							if going && fencing.MayFence(size, size-cut) {
								t.Fatalf("%d of %d nodes cut off (together: %v): %s goes on although a leader may fence it", cut, size, together, name)
							}
							if !going && cut == size && together {
								t.Fatalf("all %d nodes lack the control plane and hear each other, and %s stops", size, name)
							}
						}
					}
				})
			}
		}
	}
}

// The control plane comes back for most while one is cut off from it, and all
// hear each other: what it concluded from the outage ends with the outage.
func TestWitnessesOfAnOutageDoNotOutliveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.end()
		time.Sleep(time.Minute)
		c.set(func() { c.outage = true })
		time.Sleep(10 * time.Minute)
		c.want("in the outage", map[string]State{"n1": Going})
		c.set(func() { c.outage, c.apart["n1"] = false, true })
		time.Sleep(fencing.StopsWithin(fencing.StopAfterDefault) - fencing.StopGrace)
		c.want("after it", map[string]State{"n1": Stopped, "n2": Going})
	})
}

// What arrives late tells of the past.
func TestLateEchoIsNoNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		defer c.end()
		time.Sleep(time.Minute)
		sent := c.clock()
		c.set(func() { c.apart["n1"], c.side["n1"] = true, 1 })
		time.Sleep(30 * time.Second)
		c.nodes["n1"].Certain(int64(sent))
		time.Sleep(time.Second)
		c.want("after a packet of half a minute ago", map[string]State{"n1": Stopped})
	})
}

func TestRestartedAgentKeepsToItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "fence.json")
		c := newCluster(t, 0)
		defer c.end()
		c.start("n1", file, 2)
		c.start("n2", "", 2)
		time.Sleep(time.Minute)
		c.set(func() { c.apart["n1"], c.side["n1"] = true, 1 })
		time.Sleep(6 * time.Second)
		c.nodes["n1"].end()
		c.start("n1", file, 2)
		time.Sleep(time.Second)
		c.want("after a restart", map[string]State{"n1": Going})
		time.Sleep(4 * time.Second)
		c.want("when what was left is over", map[string]State{"n1": Stopped})
		c.nodes["n1"].end()
		c.start("n1", file, 2)
		time.Sleep(decideWithin - 100*time.Millisecond)
		c.want("after another", map[string]State{"n1": Undecided})
		time.Sleep(200 * time.Millisecond)
		c.want("when nobody has answered", map[string]State{"n1": Stopped})
	})
}

// An agent that is restarted while there is no control plane does not stop what
// runs: the others tell it so before it decides.
func TestRestartInAnOutageStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "fence.json")
		c := newCluster(t, 0)
		defer c.end()
		c.start("n1", file, 3)
		c.start("n2", "", 3)
		c.start("n3", "", 3)
		time.Sleep(time.Minute)
		c.set(func() { c.outage = true })
		time.Sleep(10 * time.Minute)
		c.nodes["n1"].end()
		time.Sleep(10 * time.Second)
		n := c.start("n1", file, 3)
		time.Sleep(time.Minute)
		c.want("after the restart", map[string]State{"n1": Going})
		if len(n.changes) != 1 {
			t.Errorf("changes %v, want that it only went on", n.changes)
		}
	})
}

// After a reboot the clock begins anew, and what was kept says nothing.
func TestRebootedMachineIsNotCertain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "fence.json")
		if err := os.WriteFile(file, []byte(`{"boot":"another","until":9000000000000000000,"peers":{"nodes":2,"asked":[{"name":"n2"}]}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		c := newCluster(t, 0)
		defer c.end()
		c.set(func() { c.apart["n1"] = true })
		c.start("n1", file, 2)
		time.Sleep(decideWithin + 100*time.Millisecond)
		c.want("after a reboot", map[string]State{"n1": Stopped})
	})
}

func TestShortDeadlineIsRefused(t *testing.T) {
	if _, err := New(Config{Name: "n1", StopAfter: time.Second}); err == nil {
		t.Error("a deadline before the others could be asked is taken")
	}
	f, err := New(Config{Name: "n1", StopAfter: -1})
	if err != nil || f.Promise() != 0 {
		t.Errorf("for ever promises %v (%v), want nothing", f.Promise(), err)
	}
}
