package chaos

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/musterhq/muster/consensus/transport"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
	"github.com/musterhq/muster/test/chaos/lan"
)

const (
	port = ":6443"
	// Generous, as other programs may have most of the machine.
	startTimeout = 90 * time.Second
	askTimeout   = time.Second
)

// cluster is control nodes, each in a network of its own, and a further network
// for all clients, which no fault touches.
type cluster struct {
	program string
	bug     string
	dir     string
	log     *slog.Logger
	lan     *lan.LAN
	clients *lan.Host
	nodes   []*node
	tls     *tls.Config
	token   string

	mu    sync.Mutex
	ended []string // nodes that ended though no fault made them
}

// node is one control node, over all its processes.
type node struct {
	in      *cluster
	index   int
	name    string
	dir     string
	logFile string
	host    *lan.Host
	conn    *grpc.ClientConn // of the nemesis

	mu      sync.Mutex
	process *process
	// excused: a fault is at work that may end the process.
	excused bool
	// clock is by how much its wall clock is off, over all its processes.
	clock time.Duration
}

// process is one run of a node.
type process struct {
	cmd    *exec.Cmd
	socket string
	exited chan struct{}
	killed bool // by us; under the node's lock
}

// newCluster returns once all nodes vote and answer linearizable reads.
func newCluster(ctx context.Context, program, bug, dir string, size int, log *slog.Logger) (_ *cluster, err error) {
	c := &cluster{program: program, bug: bug, dir: dir, log: log}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	var names []string
	for i := range size {
		names = append(names, fmt.Sprintf("n%d", i+1))
	}
	if c.lan, err = lan.New(append(names, "clients")...); err != nil {
		return c, err
	}
	c.clients = c.lan.Host(size)
	for i, name := range names {
		c.nodes = append(c.nodes, &node{
			in: c, index: i, name: name, host: c.lan.Host(i),
			dir: filepath.Join(dir, name), logFile: filepath.Join(dir, name+".log"),
		})
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	founder := c.nodes[0]
	if err := founder.start("-init"); err != nil {
		return c, err
	}
	if c.token, err = founder.file(ctx, "server-token"); err != nil {
		return c, err
	}
	kubeconfig, err := founder.file(ctx, "admin.kubeconfig")
	if err != nil {
		return c, err
	}
	config, err := clientcmd.RESTConfigFromKubeConfig([]byte(kubeconfig))
	if err != nil {
		return c, err
	}
	if c.tls, err = rest.TLSConfigFor(config); err != nil {
		return c, err
	}
	for _, n := range c.nodes {
		if n != founder {
			if err := n.join(); err != nil {
				return c, err
			}
		}
		if n.conn, err = c.dial(n); err != nil {
			return c, err
		}
	}
	return c, c.awaitHealthy(ctx)
}

// close kills what runs.
func (c *cluster) close() {
	for _, n := range c.nodes {
		n.kill()
		if n.conn != nil {
			_ = n.conn.Close()
		}
	}
	if c.lan != nil {
		c.lan.Close()
		c.lan = nil
	}
}

// dial prepares a connection from the clients' network to a node.
func (c *cluster) dial(n *node) (*grpc.ClientConn, error) {
	return transport.DialGRPCWith(n.address(), c.tls, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
		return c.clients.Dial(ctx, address)
	}))
}

func (n *node) address() string { return n.host.Addr.String() + port }

// join starts the node with an empty directory.
func (n *node) join() error {
	var others []string
	for _, other := range n.in.nodes {
		if other != n {
			others = append(others, other.address())
		}
	}
	return n.start("-join", strings.Join(others, ","), "-token", n.in.token)
}

// start runs the node, with arguments beyond those of a later start.
func (n *node) start(args ...string) error {
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.running() {
		return fmt.Errorf("%s runs already", n.name)
	}
	out, err := os.OpenFile(n.logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	// The path of a Unix socket must be short, and the directory may be deep.
	socket := filepath.Join(os.TempDir(), fmt.Sprintf("chaos-%d-%s.sock", os.Getpid(), n.name))
	_ = os.Remove(socket)
	args = append([]string{"-dir", n.dir, "-name", n.name, "-address", n.address(), "-faults", socket, "-bug", n.in.bug, "-clock", n.clock.String()}, args...)
	p := &process{cmd: exec.Command(n.in.program, args...), socket: socket, exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	fmt.Fprintf(out, "--- started at %s\n", time.Now().UTC().Format(time.RFC3339Nano))
	if err := n.host.Do(p.cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	n.process = p
	go func() {
		_ = p.cmd.Wait()
		_ = os.Remove(socket)
		n.exited(p)
	}()
	return nil
}

// exited notes how a process ended.
func (n *node) exited(p *process) {
	n.mu.Lock()
	killed, excused := p.killed, n.excused
	n.mu.Unlock()
	close(p.exited)
	if killed {
		return
	}
	end := tail(n.logFile, 1500)
	// Whatever the machine does to it, a node has no business to panic.
	if excused && !strings.Contains(end, "panic: ") && !strings.Contains(end, "fatal error: ") {
		n.in.log.Info("a node ended, as its fault may make it", "node", n.name, "why", lastLine(end))
		return
	}
	n.in.log.Error("a node ended by itself", "node", n.name, "state", p.cmd.ProcessState.String(), "log", end)
	n.in.mu.Lock()
	defer n.in.mu.Unlock()
	n.in.ended = append(n.in.ended, fmt.Sprintf("%s (%v): %s", n.name, p.cmd.ProcessState, lastLine(end)))
}

// running says whether the node's process runs; under the lock.
func (n *node) running() bool {
	if n.process == nil {
		return false
	}
	select {
	case <-n.process.exited:
		return false
	default:
		return true
	}
}

func (n *node) up() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.running()
}

// excuse says that from now on a fault may end the process, or not any more.
func (n *node) excuse(excused bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.excused = excused
}

// kill is kill -9. It returns once the process is gone.
func (n *node) kill() {
	n.mu.Lock()
	p := n.process
	if !n.running() {
		n.mu.Unlock()
		return
	}
	p.killed = true
	n.mu.Unlock()
	_ = p.cmd.Process.Kill()
	<-p.exited
}

func (n *node) signal(s syscall.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.running() {
		return fmt.Errorf("%s does not run", n.name)
	}
	return n.process.cmd.Process.Signal(s)
}

// awaitExit waits for the process to end by itself.
func (n *node) awaitExit(ctx context.Context) error {
	n.mu.Lock()
	p := n.process
	n.mu.Unlock()
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s goes on", n.name)
	}
}

// wipe takes all that a dead node has.
func (n *node) wipe() error {
	if n.up() {
		return fmt.Errorf("%s runs", n.name)
	}
	return os.RemoveAll(n.dir)
}

// keepClock has later processes of the node begin with its wall clock off.
func (n *node) keepClock(offset time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clock = offset
}

// fault tells the node's process what is wrong with its machine, see package
// node. It answers the node's wall clock.
func (n *node) fault(what string) (time.Time, error) {
	n.mu.Lock()
	p, running := n.process, n.running()
	n.mu.Unlock()
	if !running {
		return time.Time{}, fmt.Errorf("%s does not run", n.name)
	}
	conn, err := net.DialTimeout("unix", p.socket, askTimeout)
	if err != nil {
		return time.Time{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return time.Time{}, err
	}
	if _, err := fmt.Fprintln(conn, what); err != nil {
		return time.Time{}, err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return time.Time{}, fmt.Errorf("%s: %s: %w", n.name, what, err)
	}
	clock, ok := strings.CutPrefix(strings.TrimSpace(answer), "ok ")
	if !ok {
		return time.Time{}, fmt.Errorf("%s: %s: %s", n.name, what, strings.TrimSpace(answer))
	}
	seconds, err := strconv.ParseInt(clock, 10, 64)
	return time.Unix(seconds, 0), err
}

// endFault tells the node's process, if there is one, of the end of a fault. One
// that another fault's end has just started may not listen yet.
func (n *node) endFault(what string) error {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := n.fault(what)
		if err == nil || !n.up() {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}

// file waits for what a node writes into its directory.
func (n *node) file(ctx context.Context, name string) (string, error) {
	for {
		text, err := os.ReadFile(filepath.Join(n.dir, name))
		if err == nil && len(text) > 0 {
			return strings.TrimSpace(string(text)), nil
		}
		if !n.up() {
			return "", fmt.Errorf("%s has ended: %s", n.name, tail(n.logFile, 2000))
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return "", fmt.Errorf("%s did not write %s: %w", n.name, name, err)
		}
	}
}

// peers is what a node knows of the cluster.
func (n *node) peers(ctx context.Context) (*clusterv1.ListPeersResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return clusterv1.NewRaftClient(n.conn).ListPeers(ctx, &clusterv1.ListPeersRequest{})
}

// leader is the node that leads in the newest term, or nil.
func (c *cluster) leader(ctx context.Context) *node {
	type answer struct {
		n    *node
		term uint64
	}
	answers := make(chan answer, len(c.nodes))
	for _, n := range c.nodes {
		go func() {
			peers, err := n.peers(ctx)
			if err != nil || peers.Leader != n.name {
				answers <- answer{}
				return
			}
			answers <- answer{n, peers.Term}
		}()
	}
	var best answer
	for range c.nodes {
		if a := <-answers; a.n != nil && (best.n == nil || a.term > best.term) {
			best = a
		}
	}
	return best.n
}

// healthy answers nil when every node votes, knows that all do, and has caught up.
func (c *cluster) healthy(ctx context.Context) error {
	for _, n := range c.nodes {
		if !n.up() {
			return fmt.Errorf("%s does not run", n.name)
		}
		peers, err := n.peers(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
		voters := 0
		for _, p := range peers.Peers {
			if p.Voter {
				voters++
			}
		}
		if voters != len(c.nodes) || len(peers.Peers) != voters || !peers.Quorum {
			return fmt.Errorf("%s knows %d voters of %d, quorum %t: %s", n.name, voters, len(peers.Peers), peers.Quorum, peers.Warning)
		}
		reading, cancel := context.WithTimeout(ctx, 3*time.Second)
		_, err = clusterv1.NewKVClient(n.conn).Get(reading, &clusterv1.KVGetRequest{Key: []byte(prefix)})
		cancel()
		if err != nil {
			return fmt.Errorf("%s: read: %w", n.name, err)
		}
	}
	return nil
}

func (c *cluster) awaitHealthy(ctx context.Context) error {
	for {
		err := c.healthy(ctx)
		if err == nil {
			return nil
		}
		if pause(ctx, 100*time.Millisecond) != nil {
			return fmt.Errorf("not healthy: %w", err)
		}
	}
}

// heal takes every fault away and starts who does not run.
func (c *cluster) heal() error {
	for a := range c.nodes {
		for b := range c.nodes {
			c.lan.Set(a, b, lan.Link{})
		}
	}
	var errs []error
	for _, n := range c.nodes {
		n.keepClock(0)
		_ = n.signal(syscall.SIGCONT)
		if n.up() {
			for _, what := range []string{"disk ok", "clock 0s"} {
				if err := n.endFault(what); err != nil {
					c.log.Warn("fault not taken away", "node", n.name, "error", err)
				}
			}
		}
		n.excuse(false)
		switch _, err := os.Stat(filepath.Join(n.dir, "identity.json")); {
		case n.up():
		case err != nil:
			errs = append(errs, n.join())
		default:
			errs = append(errs, n.start())
		}
	}
	return errors.Join(errs...)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func tail(path string, bytes int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-bytes):])
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
