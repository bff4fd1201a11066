// Package soak writes to a cluster of three control nodes, each a process of
// its own with its own directory, for so long that anything that grows shows:
// raft's log, snapshots, memory. `make soak` writes a million times; the short
// form that every test run has makes snapshots due early instead.
package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/musterhq/muster/consensus/transport"
	"github.com/musterhq/muster/control"
	"github.com/musterhq/muster/control/operator/kvclient"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

var writes = flag.Int("writes", 0, "how many writes to make, with control nodes as they are by default; 0: the short form")

// load is what is written, and how soon a snapshot is due.
type load struct {
	writes, keys, valueBytes int
	snapshotBytes            int64
	// slack is what the files of the log take beside entries: the part of the
	// file that is trimmed already or made ready for what comes.
	slack int64
}

var (
	long  = load{keys: 10_000, valueBytes: 256, snapshotBytes: 64 << 20, slack: 192 << 20}
	short = load{writes: 40_000, keys: 2_000, valueBytes: 1 << 10, snapshotBytes: 2 << 20, slack: 24 << 20}
)

const (
	clients = 256
	// nodeVariable makes the test's program a control node: its control.Config as JSON.
	nodeVariable = "SOAK_NODE"
)

func TestMain(m *testing.M) {
	if config := os.Getenv(nodeVariable); config != "" {
		if err := serve(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	flag.Parse()
	os.Exit(m.Run())
}

// node is what a process is told.
type node struct {
	Name, Dir, Address, Gossip string
	Join, Token                string
	SnapshotLogBytes           int64
}

func serve(config string) error {
	var n node
	if err := json.Unmarshal([]byte(config), &n); err != nil {
		return err
	}
	cfg := control.Config{
		Name: n.Name, Dir: n.Dir, Address: n.Address, Listen: n.Address, GossipAddress: n.Gossip,
		Init: n.Join == "", Token: n.Token, SnapshotLogBytes: n.SnapshotLogBytes,
		Heartbeat: time.Second, LeaderLease: 500 * time.Millisecond, // one machine for three disks and the writers
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if n.Join != "" {
		cfg.Join = []string{n.Join}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server, err := control.New(ctx, cfg)
	if err != nil {
		return err
	}
	return server.Run(ctx)
}

// process is a control node that runs.
type process struct {
	node
	cmd    *exec.Cmd
	stderr bytes.Buffer
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (p *process) start(t *testing.T) {
	t.Helper()
	config, err := json.Marshal(p.node)
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), nodeVariable+"="+string(config))
	p.stderr.Reset()
	p.cmd.Stderr = &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func (p *process) kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		p.cmd = nil
	}
}

// memory is the process' resident memory in bytes.
func (p *process) memory(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatalf("%s has ended: %v\n%s", p.Name, err, p.stderr.String())
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// usage is what the files of raft's log and its snapshots take, and the size of
// the largest snapshot that is whole.
func (p *process) usage() (log, snapshots, largest int64) {
	_ = filepath.WalkDir(filepath.Join(p.Dir, "raft"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil // gone meanwhile
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		switch rest, _ := filepath.Rel(filepath.Join(p.Dir, "raft"), path); {
		case strings.HasPrefix(rest, "snapshots"):
			snapshots += info.Size()
			if !strings.Contains(rest, ".tmp") {
				largest = max(largest, info.Size())
			}
		default:
			log += info.Size()
		}
		return nil
	})
	return log, snapshots, largest
}

// bounds are what docs/operations.md promises, of a state of so many bytes: the
// log grows by max(snapshotBytes, state) before a snapshot is due, half of that
// is kept beside, and another half is allowed for what is written meanwhile.
func (l load) bounds(state int64) (log, snapshots int64) {
	return 2*max(l.snapshotBytes, state) + l.slack, 3*state + snapshotSlack
}

const snapshotSlack = 1 << 20 // what raft notes beside each snapshot

func TestMillionWritesInBoundedSpace(t *testing.T) {
	l := short
	if *writes > 0 {
		l = long
		l.writes = *writes
	}
	total := l.writes
	cluster := start(t, l.snapshotBytes)
	var done, failed atomic.Int64
	begin := time.Now()
	writing, stop := context.WithCancel(t.Context())
	defer stop()
	group, writing := errgroup.WithContext(writing)
	for worker := range clients {
		client := cluster.clients[worker%len(cluster.clients)]
		random := rand.New(rand.NewPCG(uint64(worker), 1))
		group.Go(func() error {
			value := make([]byte, l.valueBytes)
			for done.Add(1) <= int64(total) {
				for i := range value {
					value[i] = byte(random.Uint32())
				}
				key := fmt.Appendf(nil, "soak/%06d", random.IntN(l.keys))
				for {
					_, err := client.Commit(writing, &clusterv1.KVCommitRequest{Ops: []*clusterv1.KVOp{{Key: key, Value: bytes.Clone(value)}}})
					if err == nil {
						break
					}
					if writing.Err() != nil {
						return writing.Err()
					}
					if failed.Add(1) > int64(total)/100 {
						return fmt.Errorf("too many writes fail, the last with %w", err)
					}
				}
			}
			return nil
		})
	}
	ended := make(chan error, 1)
	go func() { ended <- group.Wait() }()

	// Watch all the while. Memory may grow until there has been everything once:
	// all keys, a full watch history, a snapshot.
	peak := map[string]*figures{}
	for _, p := range cluster.processes {
		peak[p.Name] = &figures{}
	}
	report := time.NewTicker(15 * time.Second)
	defer report.Stop()
	for running := true; running; {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			running = false
		case <-report.C:
			t.Logf("%8d writes after %s: %s", min(done.Load(), int64(total)), time.Since(begin).Round(time.Second), describe(cluster, peak))
			continue
		case <-time.After(200 * time.Millisecond):
		}
		for _, p := range cluster.processes {
			log, snapshots, largest := p.usage()
			f := peak[p.Name]
			f.state = max(f.state, largest)
			f.log, f.snapshots = max(f.log, log), max(f.snapshots, snapshots)
			logMax, snapshotsMax := l.bounds(f.state)
			if log > logMax || f.state > 0 && snapshots > snapshotsMax {
				t.Fatalf("%s: log %d MiB and snapshots %d MiB, with a state of %d MiB want at most %d and %d",
					p.Name, log>>20, snapshots>>20, f.state>>20, logMax>>20, snapshotsMax>>20)
			}
			if m := p.memory(t); done.Load() < int64(total)/2 {
				f.memoryHalf = max(f.memoryHalf, m)
			} else {
				f.memory = max(f.memory, m)
			}
		}
	}
	took := time.Since(begin)
	t.Logf("%d writes of %d bytes over %d keys in %s (%.0f/s), %d repeated", total, l.valueBytes, l.keys, took.Round(100*time.Millisecond), float64(total)/took.Seconds(), failed.Load())
	for _, p := range cluster.processes {
		f := peak[p.Name]
		logMax, snapshotsMax := l.bounds(f.state)
		t.Logf("%s: log at most %.1f MiB of %d, snapshots %.1f MiB of %d, state %.1f MiB; memory at most %d MiB in the first half, %d MiB in the second",
			p.Name, mib(f.log), logMax>>20, mib(f.snapshots), snapshotsMax>>20, mib(f.state), f.memoryHalf>>20, f.memory>>20)
		if f.state == 0 {
			t.Errorf("%s took no snapshot", p.Name)
		}
		if *writes > 0 && f.memory > f.memoryHalf*3/2 {
			t.Errorf("%s: memory grows: %d MiB in the first half, %d MiB in the second", p.Name, f.memoryHalf>>20, f.memory>>20)
		}
	}

	before := cluster.identical(t)
	for _, p := range cluster.processes { // all at once
		p.kill()
	}
	for _, p := range cluster.processes {
		p.start(t)
	}
	after := cluster.identical(t)
	if !bytes.Equal(l.section(before), l.section(after)) {
		t.Errorf("a restart changed what was written: %d bytes before, %d after", len(before), len(after))
	}
}

type figures struct{ log, snapshots, state, memoryHalf, memory int64 }

func mib(n int64) float64 { return float64(n) / (1 << 20) }

func describe(c *cluster, peak map[string]*figures) string {
	var all []string
	for _, p := range c.processes {
		log, snapshots, _ := p.usage()
		all = append(all, fmt.Sprintf("%s log %.1f MiB, snapshots %.1f MiB, memory %d MiB", p.Name, mib(log), mib(snapshots), max(peak[p.Name].memory, peak[p.Name].memoryHalf)>>20))
	}
	return strings.Join(all, "; ")
}

type cluster struct {
	processes []*process
	clients   []*kvclient.Client
}

func start(t *testing.T, snapshotBytes int64) *cluster {
	t.Helper()
	c := &cluster{}
	dir := t.TempDir()
	for i := range 3 {
		p := &process{node: node{
			Name: fmt.Sprintf("c%d", i+1), Dir: filepath.Join(dir, fmt.Sprintf("c%d", i+1)),
			Address: freeAddress(t), Gossip: freeAddress(t), SnapshotLogBytes: snapshotBytes,
		}}
		if i > 0 {
			p.Join, p.Token = c.processes[0].Address, c.token(t)
		}
		c.processes = append(c.processes, p)
		p.start(t)
		t.Cleanup(p.kill)
		eventually(t, p.Name+" votes", func() error {
			conn, err := c.dial(p)
			if err != nil {
				return err
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			peers, err := clusterv1.NewRaftClient(conn).ListPeers(ctx, &clusterv1.ListPeersRequest{})
			if err != nil {
				return err
			}
			voters := 0
			for _, peer := range peers.Peers {
				if peer.Voter {
					voters++
				}
			}
			if voters != i+1 || !peers.Quorum {
				return fmt.Errorf("%d voters", voters)
			}
			return nil
		})
	}
	for _, p := range c.processes {
		conn, err := c.dial(p)
		if err != nil {
			t.Fatal(err)
		}
		client := kvclient.New(conn)
		t.Cleanup(func() { client.Close(); conn.Close() })
		c.clients = append(c.clients, client)
	}
	return c
}

func (c *cluster) token(t *testing.T) (token string) {
	t.Helper()
	eventually(t, "a token", func() error {
		text, err := os.ReadFile(filepath.Join(c.processes[0].Dir, "server-token"))
		token = strings.TrimSpace(string(text))
		return err
	})
	return token
}

// dial is an administrator's connection.
func (c *cluster) dial(p *process) (*grpc.ClientConn, error) {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(c.processes[0].Dir, "admin.kubeconfig"))
	if err != nil {
		return nil, err
	}
	tls, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	return transport.DialGRPCWith(p.Address, tls)
}

// identical waits until all replicas are the same to the byte, and returns that.
func (c *cluster) identical(t *testing.T) (state []byte) {
	t.Helper()
	eventually(t, "all replicas are the same", func() error {
		var first []byte
		for _, p := range c.processes {
			now, err := c.state(t, p)
			if err != nil {
				return err
			}
			if first == nil {
				first = now
			}
			if !bytes.Equal(first, now) {
				return fmt.Errorf("%s has %d bytes, %s has %d", c.processes[0].Name, len(first), p.Name, len(now))
			}
		}
		state = first
		return nil
	})
	return state
}

func (c *cluster) state(t *testing.T, p *process) ([]byte, error) {
	conn, err := c.dial(p)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stream, err := clusterv1.NewSnapshotClient(conn).Save(ctx, &clusterv1.SaveSnapshotRequest{})
	if err != nil {
		return nil, err
	}
	var state []byte
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return state, nil
		}
		if err != nil {
			return nil, err
		}
		state = append(state, message.State...)
	}
}

// section is the part of a state that the soak has written: the cluster itself
// may have written something beside it meanwhile.
func (l load) section(state []byte) []byte {
	first, last := bytes.Index(state, []byte("soak/")), bytes.LastIndex(state, []byte("soak/"))
	if first < 0 {
		return nil
	}
	return state[first : last+len("soak/")+l.valueBytes]
}

func eventually(t *testing.T, what string, holds func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err = holds(); err == nil {
			return
		}
	}
	t.Fatalf("still not: %s: %v", what, err)
}
