// Package upgrade runs two versions of a control node side by side, as processes
// of their own, and replaces one by the other under load.
package upgrade

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/consensus/identity/identitytest"
	"github.com/musterhq/muster/consensus/transport"
	// What the processes are made of, so that a change of it runs the test again.
	_ "github.com/musterhq/muster/control/autopilot"
	_ "github.com/musterhq/muster/control/operator"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

const (
	stampKey  = "muster/stamp"
	formatKey = "muster/format"
)

// binaries are the two versions, built once.
type binaries struct{ this, next string }

func build(t *testing.T) binaries {
	t.Helper()
	dir := t.TempDir()
	b := binaries{filepath.Join(dir, "this"), filepath.Join(dir, "next")}
	for path, tags := range map[string]string{b.this: "", b.next: "nextformat"} {
		cmd := exec.Command("go", "build", "-tags", tags, "-o", path, "./node")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
	}
	return b
}

// cluster is control nodes c1, c2, … of 127.0.0.1 and an administrator.
type cluster struct {
	*testing.T
	identities *identitytest.Cluster
	admin      *tls.Config
	nodes      map[string]*node
}

// node is a place for a process: a directory and an address.
type node struct {
	name, dir, address string
	conn               *grpc.ClientConn
	process            *exec.Cmd
	log                *logBuffer
	ended              chan struct{} // closed when the process has ended
	err                error
}

// logBuffer is what a process says, while it is being said.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{T: t, identities: identitytest.New(t), nodes: map[string]*node{}}
	c.admin = &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: c.identities.Roots(), Certificates: []tls.Certificate{c.identities.Admin()}}
	return c
}

// place makes a directory and an address for a node.
func (c *cluster) place(key, name string) *node {
	c.Helper()
	n := &node{name: name, dir: c.TempDir()}
	if err := c.identities.Server(name).Save(n.dir); err != nil {
		c.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.Fatal(err)
	}
	n.address = l.Addr().String()
	l.Close()
	if n.conn, err = transport.DialGRPCWith(n.address, c.admin); err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { n.conn.Close() })
	c.nodes[key] = n
	return n
}

// start runs a version on a node's directory.
func (c *cluster) start(n *node, binary string) {
	c.Helper()
	var seeds []string
	for _, other := range c.nodes {
		if other.address != n.address {
			seeds = append(seeds, other.address)
		}
	}
	n.log = &logBuffer{}
	n.process = exec.Command(binary, "-dir", n.dir, "-address", n.address,
		fmt.Sprintf("-bootstrap=%v", n.name == "c1"), "-join", strings.Join(seeds, ","))
	n.process.Stderr = n.log
	n.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.process.Start(); err != nil {
		c.Fatal(err)
	}
	n.ended = make(chan struct{})
	go func(process *exec.Cmd, ended chan struct{}) {
		n.err = process.Wait()
		close(ended)
	}(n.process, n.ended)
	c.Cleanup(func() {
		_ = n.process.Process.Kill()
		<-n.ended
		if c.Failed() {
			c.Logf("%s (%s) said:\n%s", n.name, filepath.Base(binary), n.log)
		}
	})
}

func (c *cluster) stop(n *node) {
	c.Helper()
	_ = n.process.Process.Signal(syscall.SIGTERM)
	<-n.ended
}

func (n *node) running() bool {
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

func (n *node) raft() clusterv1.RaftClient { return clusterv1.NewRaftClient(n.conn) }
func (n *node) kv() clusterv1.KVClient     { return clusterv1.NewKVClient(n.conn) }

func (c *cluster) eventually(what string, holds func(context.Context) bool) {
	c.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(c.Context(), 5*time.Second)
		ok := holds(ctx)
		cancel()
		if ok {
			return
		}
	}
	c.Fatalf("still not: %s", what)
}

// voters waits until a node has so many voters and a leader in its view.
func (c *cluster) voters(n *node, count int) {
	c.Helper()
	c.eventually(fmt.Sprintf("%d voters and a leader, as %s sees it", count, n.name), func(ctx context.Context) bool {
		peers, err := n.raft().ListPeers(ctx, &clusterv1.ListPeersRequest{})
		voters := 0
		for _, p := range peers.GetPeers() {
			if p.Voter {
				voters++
			}
		}
		return err == nil && voters == count && peers.Quorum
	})
}

// lead has one of the wanted nodes lead.
func (c *cluster) lead(wanted ...*node) *node {
	c.Helper()
	var leader *node
	c.eventually("one of the wanted nodes leads", func(ctx context.Context) bool {
		for _, n := range c.nodes {
			if !n.running() {
				continue
			}
			peers, err := n.raft().ListPeers(ctx, &clusterv1.ListPeersRequest{})
			if err != nil || peers.Leader == "" || peers.Leader != peers.AnsweredBy {
				continue
			}
			for _, w := range wanted {
				if w.name == peers.Leader {
					leader = w
					return true
				}
			}
			_, _ = n.raft().TransferLeadership(ctx, &clusterv1.TransferLeadershipRequest{})
		}
		return false
	})
	return leader
}

// get reads a key through a node, linearizably.
func (c *cluster) get(n *node, key string) (value string, found bool) {
	c.Helper()
	c.eventually("an answer of "+n.name, func(ctx context.Context) bool {
		r, err := n.kv().Get(ctx, &clusterv1.KVGetRequest{Key: []byte(key)})
		value, found = string(r.GetItem().GetValue()), r.GetItem() != nil
		return err == nil
	})
	return value, found
}

// load writes new keys through all nodes until it is stopped, and remembers
// what was acknowledged.
type load struct {
	c      *cluster
	cancel context.CancelFunc
	group  sync.WaitGroup
	acked  atomic.Int64
	mu     sync.Mutex
	keys   []string
}

func (c *cluster) load(writers int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{c: c, cancel: cancel}
	c.Cleanup(l.stop)
	nodes := []*node{c.nodes["c1"], c.nodes["c2"], c.nodes["c3"]}
	for w := range writers {
		l.group.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				key := fmt.Sprintf("load/%d-%06d", w, i)
				if l.write(ctx, nodes, w+i, key) {
					l.mu.Lock()
					l.keys = append(l.keys, key)
					l.mu.Unlock()
					l.acked.Add(1)
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	return l
}

// write tries until the key is there: to put the same twice changes nothing.
func (l *load) write(ctx context.Context, nodes []*node, from int, key string) bool {
	for try := from; ctx.Err() == nil; try++ {
		once, cancel := context.WithTimeout(ctx, 3*time.Second)
		_, err := nodes[try%len(nodes)].kv().Commit(once, &clusterv1.KVCommitRequest{Ops: []*clusterv1.KVOp{{Key: []byte(key), Value: []byte("x")}}})
		cancel()
		switch status.Code(err) {
		case codes.OK:
			return true
		case codes.Unavailable, codes.Unknown, codes.DeadlineExceeded, codes.Canceled:
			time.Sleep(5 * time.Millisecond)
		default:
			l.c.Errorf("write %s: %v", key, err)
			return false
		}
	}
	return false
}

// goesOn waits until more has been written.
func (l *load) goesOn(when string) {
	l.c.Helper()
	want := l.acked.Load() + 20
	l.c.eventually("writes go on "+when, func(context.Context) bool { return l.acked.Load() >= want })
}

func (l *load) stop() {
	l.cancel()
	l.group.Wait()
}

// The old version stops at a command that it does not know, at every start
// again. So while one old node is left the new ones hold theirs back, whoever
// leads; once the last is replaced they write it; and an old node that comes
// back then is told so. Writers notice nothing of all that.
func TestRollingUpgrade(t *testing.T) {
	b := build(t)
	c := newCluster(t)
	for i, name := range []string{"c1", "c2", "c3"} {
		c.place(name, name)
		c.start(c.nodes[name], b.this)
		c.voters(c.nodes["c1"], i+1)
	}
	load := c.load(4)
	load.goesOn("in the old version")

	var upgraded []*node
	for _, name := range []string{"c1", "c2", "c3"} {
		n := c.nodes[name]
		c.stop(n)
		load.goesOn("while " + name + " is down")
		if len(upgraded) == 2 {
			// Nobody old runs, but c3 may still come back as it was.
			leader := c.lead(upgraded...)
			c.eventually("the leader looks whether it may write the new format", func(context.Context) bool {
				if _, found := c.get(leader, formatKey); found {
					t.Fatal("the format was raised while c3, which is down, may read only the old one")
				}
				return strings.Contains(leader.log.String(), "until c3 answers or is removed")
			})
		}
		c.start(n, b.next)
		upgraded = append(upgraded, n)
		if len(upgraded) == 3 {
			break
		}
		load.goesOn("with " + name + " upgraded")
		leader := c.lead(upgraded...)
		held := strings.Count(leader.log.String(), "stamp held back")
		c.eventually("the new leader tries to write what is new", func(context.Context) bool {
			return strings.Count(leader.log.String(), "stamp held back") >= held+5
		})
		load.goesOn("under " + leader.name)
		for _, any := range c.nodes {
			if value, found := c.get(any, stampKey); found {
				t.Fatalf("after %d of 3 upgrades %s holds %q", len(upgraded), any.name, value)
			}
			if !any.running() {
				t.Fatalf("after %d of 3 upgrades %s ended: %v", len(upgraded), any.name, any.err)
			}
		}
	}

	for _, n := range upgraded {
		c.eventually("what is new on "+n.name, func(ctx context.Context) bool {
			r, err := n.kv().Get(ctx, &clusterv1.KVGetRequest{Key: []byte(stampKey)})
			return err == nil && r.Item != nil
		})
		if value, _ := c.get(n, formatKey); value != "2" {
			t.Errorf("%s has format %q, want 2", n.name, value)
		}
	}
	load.goesOn("in the new version")

	// An old node that comes back, and an old one that joins.
	c.stop(c.nodes["c3"])
	c.start(c.nodes["c3"], b.this)
	c.refused(c.nodes["c3"], "newer")
	c.place("c4", "c4")
	c.start(c.nodes["c4"], b.this)
	c.refused(c.nodes["c4"], "the cluster writes commands of format 2, and the muster on c4 reads up to 1")
	load.goesOn("without the old one")
	c.start(c.nodes["c3"], b.next)
	load.stop()

	t.Logf("%d writes were acknowledged", len(load.keys))
	for _, n := range upgraded {
		held := c.held(n)
		for _, key := range load.keys {
			if !held[key] {
				t.Errorf("%s was acknowledged, and %s does not have it", key, n.name)
			}
		}
	}
}

// refused waits until a process ends by itself with a line that says why.
func (c *cluster) refused(n *node, why string) {
	c.Helper()
	select {
	case <-n.ended:
	case <-time.After(time.Minute):
		c.Fatalf("%s still runs", n.name)
	}
	last := ""
	for line := range strings.Lines(n.log.String()) {
		if strings.HasPrefix(line, "node: ") {
			last = line
		}
	}
	if n.err == nil || !strings.Contains(last, why) {
		c.Errorf("%s ended with %v and said %q, want %q in it", n.name, n.err, last, why)
	}
}

// held are the keys of the load on a node.
func (c *cluster) held(n *node) map[string]bool {
	c.Helper()
	keys := map[string]bool{}
	c.eventually("a list of "+n.name, func(ctx context.Context) bool {
		clear(keys)
		after := []byte(nil)
		for {
			page, err := n.kv().List(ctx, &clusterv1.KVListRequest{Prefix: []byte("load/"), After: after, KeysOnly: true})
			if err != nil {
				return false
			}
			for _, item := range page.Items {
				keys[string(item.Key)] = true
				after = item.Key
			}
			if !page.More {
				return true
			}
		}
	})
	return keys
}
