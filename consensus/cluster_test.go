package consensus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// register is a state machine that keeps every command in order. The answer to
// a command is its place. "!..." is a command it does not know.
type register struct {
	mu       sync.Mutex
	commands []string
	restored int
	applied  func(cmd string) // called in Apply when set
}

func (r *register) Apply(cmds [][]byte, wanted []bool) (answers [][]byte, err error) {
	for i, cmd := range cmds {
		if strings.HasPrefix(string(cmd), "!") {
			return answers, fmt.Errorf("unknown command %q", cmd)
		}
		if r.applied != nil {
			r.applied(string(cmd))
		}
		r.mu.Lock()
		r.commands = append(r.commands, string(cmd))
		var answer []byte
		if wanted[i] {
			answer = fmt.Append(nil, len(r.commands))
		}
		r.mu.Unlock()
		answers = append(answers, answer)
	}
	return answers, nil
}

func (r *register) Snapshot() (func(io.Writer) error, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	commands := r.commands[:len(r.commands):len(r.commands)]
	return func(w io.Writer) error { return json.NewEncoder(w).Encode(commands) }, nil
}

func (r *register) Restore(from io.Reader) error {
	var commands []string
	if err := json.NewDecoder(from).Decode(&commands); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.commands, r.restored = commands, r.restored+1
	return nil
}

func (r *register) restores() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.restored
}

func (r *register) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.commands[:len(r.commands):len(r.commands)]
}

func (r *register) has(cmd string) bool { return r.count(cmd) > 0 }

func (r *register) count(cmd string) (n int) {
	for _, c := range r.all() {
		if c == cmd {
			n++
		}
	}
	return n
}

// network connects the nodes of a test over loopback TCP. What one node sends
// another can be held, calls and answers apart: it waits until it is released.
type network struct {
	mu    sync.Mutex
	grpc  map[string]string // gRPC address by raft address
	names map[string]string // node name by raft address
	held  map[way]chan struct{}
}

// way is one direction between two nodes. Answers go over connections that the
// other has dialed.
type way struct {
	from, to string
	answers  bool
}

func newNetwork() *network {
	return &network{grpc: map[string]string{}, names: map[string]string{}, held: map[way]chan struct{}{}}
}

func (w *network) hold(ways ...way) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, it := range ways {
		if w.held[it] == nil {
			w.held[it] = make(chan struct{})
		}
	}
}

func (w *network) release(ways ...way) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, it := range ways {
		if c := w.held[it]; c != nil {
			close(c)
			delete(w.held, it)
		}
	}
}

func (w *network) gate(it way) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.held[it]
}

// linkConn is one end of a connection.
type linkConn struct {
	net.Conn
	network    *network
	way        way // of what this end writes
	closed     chan struct{}
	closedOnce sync.Once
}

func (w *network) conn(c net.Conn, it way) net.Conn {
	return &linkConn{Conn: c, network: w, way: it, closed: make(chan struct{})}
}

func (c *linkConn) Write(b []byte) (int, error) {
	for gate := c.network.gate(c.way); gate != nil; gate = c.network.gate(c.way) {
		select {
		case <-gate:
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	return c.Conn.Write(b)
}

func (c *linkConn) Close() error {
	c.closedOnce.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// layer is a plain TCP stream layer. The dialer says its name first, so that
// both ends know their link.
type layer struct {
	net.Listener
	network *network
	name    string
}

func (l *layer) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	name := make([]byte, 16)
	if _, err := io.ReadFull(c, name); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return l.network.conn(c, way{l.name, strings.TrimSpace(string(name)), true}), nil
}

func (l *layer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", string(address), timeout)
	if err != nil {
		return nil, err
	}
	l.network.mu.Lock()
	to := l.network.names[string(address)]
	l.network.mu.Unlock()
	if _, err := fmt.Fprintf(c, "%-16s", l.name); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return l.network.conn(c, way{l.name, to, false}), nil
}

// host is one node of a test with all that is around it.
type host struct {
	*Node
	t       testing.TB
	name    string
	network *network
	dir     string
	address string
	sm      *register
	tune    func(*Config)

	grpc   *grpc.Server
	conns  sync.Map // grpc.ClientConn by address
	cancel context.CancelFunc
	done   chan struct{}
	err    error // of Run
	up     bool
}

// timers suit a loaded machine and the race detector.
func timers(c *Config) {
	c.Heartbeat, c.LeaderLease, c.LeaderWait = 600*time.Millisecond, 400*time.Millisecond, 5*time.Second
}

func newHost(t testing.TB, w *network, name string, tune func(*Config)) *host {
	return &host{t: t, name: name, network: w, dir: t.TempDir(), tune: tune}
}

// open opens the node; address is kept over restarts.
func (h *host) open() error {
	address := h.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	h.address = listener.Addr().String()
	h.network.mu.Lock()
	h.network.names[h.address] = h.name
	h.network.mu.Unlock()
	h.sm = &register{}
	cfg := Config{
		Name: h.name, ClusterID: "cluster-1", Dir: h.dir, Address: h.address,
		StateMachine: h.sm, Layer: &layer{listener, h.network, h.name}, Dial: h.dial,
		Logger: testLogger(h.name),
	}
	timers(&cfg)
	if h.tune != nil {
		h.tune(&cfg)
	}
	h.Node, err = Open(cfg)
	if err != nil {
		_ = listener.Close()
	}
	return err
}

func (h *host) dial(_ context.Context, _, address string) (grpc.ClientConnInterface, error) {
	h.network.mu.Lock()
	to, name := h.network.grpc[address], h.network.names[address]
	h.network.mu.Unlock()
	if to == "" {
		return nil, fmt.Errorf("nobody at %s", address)
	}
	if c, ok := h.conns.Load(to); ok {
		return c.(*grpc.ClientConn), nil
	}
	retry := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.2, MaxDelay: 200 * time.Millisecond}
	c, err := grpc.NewClient("passthrough:///"+to, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: time.Second}),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			return h.network.conn(conn, way{h.name, name, false}), nil
		}))
	if err != nil {
		return nil, err
	}
	h.conns.Store(to, c)
	return c, nil
}

func (h *host) start() {
	h.t.Helper()
	if err := h.open(); err != nil {
		h.t.Fatalf("open %s: %v", h.name, err)
	}
	h.run()
}

func (h *host) run() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	h.network.mu.Lock()
	h.network.grpc[h.address] = listener.Addr().String()
	h.network.mu.Unlock()
	h.grpc = grpc.NewServer()
	h.Register(h.grpc)
	go h.grpc.Serve(listener)
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel, h.done, h.up = cancel, make(chan struct{}), true
	go func() {
		defer close(h.done)
		h.err = h.Node.Run(ctx)
	}()
	h.t.Cleanup(h.stop)
}

func (h *host) stop() {
	if !h.up {
		return
	}
	h.cancel()
	<-h.done
	h.gone()
}

// kill ends the node as kill -9 would: its connections break, nothing is handed over.
func (h *host) kill() {
	h.grpc.Stop()
	_ = h.streams.Close()
	h.fail(errors.New("killed"))
	<-h.done
	h.gone()
}

func (h *host) gone() {
	h.up = false
	h.cancel()
	h.grpc.Stop()
	h.conns.Range(func(key, c any) bool {
		_ = c.(*grpc.ClientConn).Close()
		h.conns.Delete(key)
		return true
	})
}

type cluster struct {
	testing.TB
	network  *network
	hosts    []*host
	commands atomic.Int64 // made up by writers
}

// newCluster starts n nodes: the first bootstraps, the others join.
func newCluster(t testing.TB, n int, tune func(*Config)) *cluster {
	t.Helper()
	c := &cluster{TB: t, network: newNetwork()}
	for i := range n {
		h := newHost(t, c.network, fmt.Sprintf("c%d", i+1), func(cfg *Config) {
			cfg.Bootstrap = i == 0
			if tune != nil {
				tune(cfg)
			}
		})
		c.hosts = append(c.hosts, h)
		h.start()
		if i > 0 {
			ctx, cancel := c.ctx()
			if err := h.Join(ctx, []string{c.hosts[i-1].address}); err != nil {
				t.Fatalf("%s joins: %v", h.name, err)
			}
			cancel()
		}
	}
	return c
}

// ctx bounds a step of a test generously.
func (c *cluster) ctx() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}

func (c *cluster) propose(h *host, cmd string) string {
	c.Helper()
	ctx, cancel := c.ctx()
	defer cancel()
	answer, err := h.Propose(ctx, []byte(cmd))
	if err != nil {
		c.Fatalf("propose %q on %s: %v", cmd, h.name, err)
	}
	return string(answer)
}

func (c *cluster) barrier(h *host) {
	c.Helper()
	ctx, cancel := c.ctx()
	defer cancel()
	if err := h.ReadBarrier(ctx); err != nil {
		c.Fatalf("read barrier on %s: %v", h.name, err)
	}
}

// leader waits until one node leads and returns it.
func (c *cluster) leader() *host {
	c.Helper()
	var leader *host
	c.eventually("a leader", func() bool {
		for _, h := range c.hosts {
			if h.up {
				if l, _ := h.term.get(); l != nil && l.ctx.Err() == nil {
					leader = h
					return true
				}
			}
		}
		return false
	})
	return leader
}

func (c *cluster) followers() []*host {
	leader := c.leader()
	var others []*host
	for _, h := range c.hosts {
		if h.up && h != leader {
			others = append(others, h)
		}
	}
	return others
}

func (c *cluster) eventually(what string, holds func() bool) {
	c.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if holds() {
			return
		}
	}
	c.Fatalf("still not: %s", what)
}

// testLogger writes to standard error when MUSTER_TEST_LOG is set.
func testLogger(name string) *slog.Logger {
	if os.Getenv("MUSTER_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", name)
}
