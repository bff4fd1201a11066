package gossip_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus/gossip"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var key = func() []byte { k := sha256.Sum256([]byte("key")); return k[:] }()

// node is one member; kill ends it without a goodbye as far as others can tell.
type node struct {
	*gossip.Gossip
	stop func()
	kill func()
}

func start(t *testing.T, name string, seeds func() []string, change func(*gossip.Config)) node {
	t.Helper()
	config := gossip.Config{
		Name: name, Role: "server", ClusterID: "cluster", Key: key, BindAddr: "127.0.0.1:0",
		APIAddress: name + ":6443", Version: "v1", Seeds: seeds, Fast: true,
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", name),
	}
	if change != nil {
		change(&config)
	}
	g, err := gossip.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	end := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run of %s: %v", name, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("Run of %s does not end", name)
		}
	})
	t.Cleanup(end)
	return node{Gossip: g, stop: end, kill: func() { gossip.Kill(g); end() }}
}

// eventually waits for the state that a node sees another in.
func eventually(t *testing.T, within time.Duration, seenBy node, name, state string) gossip.Member {
	t.Helper()
	deadline := time.After(within)
	for {
		changed := seenBy.Changed()
		var last gossip.Member
		for _, m := range seenBy.Members() {
			if m.Name == name {
				if last = m; m.State == state {
					return m
				}
			}
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s is %q (%+v) after %v, want %q", name, last.State, last, within, state)
		}
	}
}

func cluster(t *testing.T, size int, change func(*gossip.Config)) []node {
	t.Helper()
	first := start(t, "n0", nil, change)
	nodes := []node{first}
	for i := 1; i < size; i++ {
		nodes = append(nodes, start(t, fmt.Sprint("n", i), func() []string { return []string{first.Addr()} }, change))
	}
	for _, n := range nodes {
		for i := range nodes {
			eventually(t, 20*time.Second, n, fmt.Sprint("n", i), gossip.Alive)
		}
	}
	return nodes
}

func TestMembersSayWhatEachNodeSaysOfItself(t *testing.T) {
	nodes := cluster(t, 3, nil)
	for _, n := range nodes {
		list := n.Members()
		if len(list) != 3 {
			t.Fatalf("%d members, want 3", len(list))
		}
		for i, m := range list {
			name := fmt.Sprint("n", i)
			if m.Name != name || m.Role != "server" || m.APIAddress != name+":6443" || m.Version != "v1" || m.Address != nodes[i].Addr() || m.Since.IsZero() {
				t.Errorf("got %+v, want %s at %s", m, name, nodes[i].Addr())
			}
		}
	}
}

// The promise of the timers, with those that a real cluster uses.
func TestAKilledNodeIsSeenDeadInAboutTwoSeconds(t *testing.T) {
	nodes := cluster(t, 5, func(c *gossip.Config) { c.Fast = false })
	begin := time.Now()
	nodes[4].kill()
	for _, n := range nodes[:4] {
		eventually(t, 15*time.Second, n, "n4", gossip.Dead)
	}
	// 2 s and the time for the news; the margin is for a busy machine.
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("all knew after %v, want about 2 s", took)
	} else {
		t.Logf("all knew after %v", took)
	}
	for _, n := range nodes[:4] {
		for _, m := range n.Members() {
			if m.Name != "n4" && m.State != gossip.Alive {
				t.Errorf("%s is %s", m.Name, m.State)
			}
		}
	}
}

func TestANodeThatSaysGoodbyeHasLeft(t *testing.T) {
	nodes := cluster(t, 3, nil)
	begin := time.Now()
	nodes[2].stop()
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("leaving took %v", took)
	}
	for _, n := range nodes[:2] {
		eventually(t, 10*time.Second, n, "n2", gossip.Left)
	}
}

// A machine that comes back, or its replacement, often has another address.
func TestARestartedNodeTakesOverItsName(t *testing.T) {
	nodes := cluster(t, 3, nil)
	seeds := func() []string { return []string{nodes[0].Addr()} }

	nodes[2].kill()
	for _, n := range nodes[:2] {
		eventually(t, 10*time.Second, n, "n2", gossip.Dead)
	}
	back := start(t, "n2", seeds, nil)
	for _, n := range nodes[:2] {
		if m := eventually(t, 10*time.Second, n, "n2", gossip.Alive); m.Address != back.Addr() {
			t.Errorf("n2 is at %s, want %s", m.Address, back.Addr())
		}
	}

	// So quickly that its death has not been noticed.
	back.kill()
	again := start(t, "n2", seeds, nil)
	for _, n := range nodes[:2] {
		eventuallyAt(t, n, "n2", again.Addr())
	}

	again.stop()
	for _, n := range nodes[:2] {
		eventually(t, 10*time.Second, n, "n2", gossip.Left)
	}
	last := start(t, "n2", seeds, nil)
	for _, n := range nodes[:2] {
		eventuallyAt(t, n, "n2", last.Addr())
	}
}

// Others refuse the newcomer until they see its former self dead. What it can
// see of that depends on the moment: a living rival, a suspicion against
// itself, or nothing.
func TestARestartedNodeIsBelievedWhateverTheMoment(t *testing.T) {
	for _, after := range []time.Duration{0, 150, 300, 450, 600} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			t.Parallel()
			nodes := cluster(t, 3, nil)
			nodes[2].kill()
			time.Sleep(after * time.Millisecond)
			back := start(t, "n2", func() []string { return []string{nodes[0].Addr()} }, nil)
			for _, n := range nodes[:2] {
				eventuallyAt(t, n, "n2", back.Addr())
			}
		})
	}
}

func eventuallyAt(t *testing.T, seenBy node, name, address string) {
	t.Helper()
	deadline := time.After(15 * time.Second)
	for {
		changed := seenBy.Changed()
		for _, m := range seenBy.Members() {
			if m.Name == name && m.State == gossip.Alive && m.Address == address {
				return
			}
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s is not alive at %s: %+v", name, address, seenBy.Members())
		}
	}
}

func TestANameInUseIsNotTakenOver(t *testing.T) {
	nodes := cluster(t, 2, nil)
	start(t, "n1", func() []string { return []string{nodes[0].Addr()} }, nil)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		for _, m := range nodes[0].Members() {
			if m.Name == "n1" && (m.Address != nodes[1].Addr() || m.State != gossip.Alive) {
				t.Fatalf("n1 became %+v, want it alive at %s", m, nodes[1].Addr())
			}
		}
	}
}

// All nodes may start at once, and the seeds may be the last to come.
func TestANodeKeepsLookingForItsSeeds(t *testing.T) {
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seed := reserved.Addr().String()
	reserved.Close()
	var asked atomic.Int32
	early := start(t, "early", func() []string { asked.Add(1); return []string{seed} }, nil)
	for end := time.Now().Add(5 * time.Second); asked.Load() < 12; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("asked for seeds %d times", asked.Load())
		}
	}
	start(t, "late", nil, func(c *gossip.Config) { c.BindAddr = seed })
	eventually(t, 10*time.Second, early, "late", gossip.Alive)
}

func TestOtherClustersAndOtherKeysAreNotHeard(t *testing.T) {
	ours := start(t, "ours", nil, nil)
	seeds := func() []string { return []string{ours.Addr()} }
	start(t, "cluster", seeds, func(c *gossip.Config) { c.ClusterID = "another" })
	start(t, "key", seeds, func(c *gossip.Config) { c.Key = make([]byte, gossip.KeySize) })
	plain := start(t, "same", seeds, nil)
	eventually(t, 10*time.Second, ours, "same", gossip.Alive)
	time.Sleep(500 * time.Millisecond)
	for _, n := range []node{ours, plain} {
		if list := n.Members(); len(list) != 2 {
			t.Errorf("members are %+v, want ours and same", list)
		}
	}
}

func TestRunEndsWhileASeedDoesNotAnswer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	n := start(t, "n", func() []string { return []string{silent.Addr().String()} }, func(c *gossip.Config) { c.Fast = false })
	conn, err := silent.Accept() // the exchange has begun
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	begin := time.Now()
	n.stop()
	if took := time.Since(begin); took > 1500*time.Millisecond {
		t.Errorf("it took %v, want it not to wait for the seed", took)
	}
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	good := gossip.Config{Name: "n", ClusterID: "c", Key: key, BindAddr: "127.0.0.1:0"}
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for _, c := range []struct {
		want   string
		change func(*gossip.Config)
	}{
		{"no name", func(c *gossip.Config) { c.Name = "" }},
		{"key has 16 bytes", func(c *gossip.Config) { c.Key = make([]byte, 16) }},
		{"bind address", func(c *gossip.Config) { c.BindAddr = "127.0.0.1" }},
		{"port", func(c *gossip.Config) { c.BindAddr = "127.0.0.1:gossip" }},
		{"in use", func(c *gossip.Config) { c.BindAddr = busy.Addr().String() }},
		{"names no host", func(c *gossip.Config) { c.AdvertiseAddr = "0.0.0.0:7946" }},
		{"names no host", func(c *gossip.Config) { c.AdvertiseAddr = ":7946" }},
		{"at most 512", func(c *gossip.Config) { c.Version = strings.Repeat("v", 600) }},
	} {
		config := good
		c.change(&config)
		if _, err := gossip.New(config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want an error with %q", err, c.want)
		}
	}
}

func TestTheAdvertisedAddressGetsTheBoundPort(t *testing.T) {
	n := start(t, "n", nil, func(c *gossip.Config) { c.AdvertiseAddr = "127.0.0.7:0" })
	host, port, err := net.SplitHostPort(n.Addr())
	if err != nil || host != "127.0.0.7" || port == "0" {
		t.Errorf("advertised %s, want 127.0.0.7 and the bound port", n.Addr())
	}
	fixed := start(t, "f", nil, func(c *gossip.Config) { c.AdvertiseAddr = "127.0.0.8:4321" })
	if fixed.Addr() != "127.0.0.8:4321" {
		t.Errorf("advertised %s, want 127.0.0.8:4321", fixed.Addr())
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(line []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(line)))
	return len(line), nil
}

// A message is a packet to one member, also to one that this node does not hear.
func TestMembersSendEachOther(t *testing.T) {
	heard := make(chan string, 10)
	first := start(t, "a", nil, func(c *gossip.Config) { c.Received = func(message []byte) { heard <- string(message) } })
	second := start(t, "b", nil, nil)
	deadline := time.After(10 * time.Second)
	for {
		if err := second.Send(first.Addr(), "a", []byte("are you there?")); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-heard:
			if want := "are you there?"; got != want {
				t.Errorf("heard %q, want %q", got, want)
			}
			return
		case <-deadline:
			t.Fatal("nothing was heard")
		case <-time.After(100 * time.Millisecond):
		}
	}
}
