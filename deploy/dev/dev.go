// Package dev runs a whole cluster in one process: control nodes and hollow
// compute nodes on free ports of 127.0.0.1, each with its own directory and the
// same code, connections and certificates as on machines of their own. It is
// what `muster dev` starts and what the system tests run on. Only containers
// are pretended.
package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/control"
)

// Config says how large a cluster, and where.
type Config struct {
	// Dir keeps the cluster between runs. It is made if need be.
	Dir string
	// Servers and Agents are how many of each; 0 stands for 3 and 2.
	Servers, Agents int
	Version         string
	Logger          *slog.Logger
	// ServerConfig and AgentConfig may adjust a node before it starts.
	ServerConfig func(*control.Config)
	AgentConfig  func(*agent.MemberConfig)
}

// A new cluster waits for its first leader for one to two leases. A process that
// all share is not always on the processor, so they are not the shortest.
const (
	heartbeat   = 500 * time.Millisecond
	leaderLease = 150 * time.Millisecond
)

// Cluster is a cluster in this process. Its nodes are called c1, c2, … and n1, n2, ….
type Cluster struct {
	cfg   Config
	ports map[string]nodePorts // by node name, kept in Dir

	mu      sync.Mutex
	ctx     context.Context // Run's; nil before
	group   *errgroup.Group
	running map[string]*running
	ready   chan struct{}
}

// nodePorts of 127.0.0.1 that a node uses for good.
type nodePorts struct {
	API    int `json:"api,omitempty"` // control nodes only
	Gossip int `json:"gossip"`
}

type running struct {
	cancel context.CancelFunc
	done   chan struct{}
	server *control.Server // nil for agents
}

// New prepares a cluster in cfg.Dir; nothing runs before Run.
func New(cfg Config) (*Cluster, error) {
	if cfg.Servers == 0 {
		cfg.Servers = 3
	}
	if cfg.Agents == 0 {
		cfg.Agents = 2
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, running: map[string]*running{}, ready: make(chan struct{})}
	if err := c.choosePorts(); err != nil {
		return nil, err
	}
	return c, nil
}

// choosePorts gives each node its ports, those of the last run if there was one:
// a control node is known by its address.
func (c *Cluster) choosePorts() error {
	path := filepath.Join(c.cfg.Dir, "ports.json")
	c.ports = map[string]nodePorts{}
	text, err := os.ReadFile(path)
	if err == nil {
		if err := json.Unmarshal(text, &c.ports); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var taken []io.Closer // held until all are chosen, so that none is given twice
	defer func() {
		for _, l := range taken {
			l.Close()
		}
	}()
	// Gossip and heartbeats need the UDP port of the same number.
	choose := func() (int, error) {
		for {
			stream, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return 0, err
			}
			taken = append(taken, stream)
			port := stream.Addr().(*net.TCPAddr).Port
			datagrams, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
			if errors.Is(err, syscall.EADDRINUSE) {
				continue
			}
			if err != nil {
				return 0, err
			}
			taken = append(taken, datagrams)
			return port, nil
		}
	}
	for _, name := range append(c.ServerNames(), c.AgentNames()...) {
		if _, ok := c.ports[name]; ok {
			continue
		}
		var free [2]int
		for i := range free {
			if free[i], err = choose(); err != nil {
				return err
			}
		}
		c.ports[name] = nodePorts{API: free[0], Gossip: free[1]}
	}
	if text, err = json.MarshalIndent(c.ports, "", "  "); err != nil {
		return err
	}
	return identity.WriteFile(path, text, 0o600)
}

// ServerNames are the names of the control nodes.
func (c *Cluster) ServerNames() []string { return names("c", c.cfg.Servers) }

// AgentNames are the names of the compute nodes.
func (c *Cluster) AgentNames() []string { return names("n", c.cfg.Agents) }

func names(prefix string, count int) []string {
	list := make([]string, count)
	for i := range list {
		list[i] = fmt.Sprintf("%s%d", prefix, i+1)
	}
	return list
}

// Dir is where a node keeps what it has.
func (c *Cluster) Dir(name string) string { return filepath.Join(c.cfg.Dir, name) }

// Address is where a control node serves, host:port.
func (c *Cluster) Address(name string) string {
	return fmt.Sprintf("127.0.0.1:%d", c.ports[name].API)
}

// Kubeconfig is an administrator's, for the named control node.
func (c *Cluster) Kubeconfig(name string) string {
	return filepath.Join(c.Dir(name), "admin.kubeconfig")
}

// Ready is closed once every node is up: control nodes serve, compute nodes
// have a session.
func (c *Cluster) Ready() <-chan struct{} { return c.ready }

// Run starts the cluster and runs it until ctx ends or a node fails on its own.
func (c *Cluster) Run(ctx context.Context) error {
	c.mu.Lock()
	c.group, c.ctx = errgroup.WithContext(ctx)
	group, ctx := c.group, c.ctx
	c.mu.Unlock()
	// The cluster outlasts a moment in which every node is stopped.
	group.Go(func() error { <-ctx.Done(); return nil })
	group.Go(func() error {
		err := c.startAll(ctx)
		if err == nil {
			close(c.ready)
		} else if ctx.Err() != nil {
			return nil
		}
		return err
	})
	return group.Wait()
}

func (c *Cluster) startAll(ctx context.Context) error {
	first := c.ServerNames()[0]
	// Before the first starts: it may be the last as well.
	fresh := !c.holdsNode(c.ServerNames()[len(c.ServerNames())-1])
	if err := c.Start(first); err != nil {
		return err
	}
	var others errgroup.Group
	if fresh {
		// The founder has to serve before the others can join; nodes that come
		// back need each other.
		if err := c.waitServer(ctx, first); err != nil {
			return err
		}
	}
	for _, name := range append(c.ServerNames()[1:], c.AgentNames()...) {
		others.Go(func() error { return c.Start(name) })
	}
	if err := others.Wait(); err != nil {
		return err
	}
	for _, name := range c.ServerNames() {
		if err := c.waitServer(ctx, name); err != nil {
			return err
		}
	}
	return c.waitAgents(ctx)
}

func (c *Cluster) holdsNode(name string) bool {
	_, err := identity.Load(c.Dir(name))
	return err == nil
}

func (c *Cluster) waitServer(ctx context.Context, name string) error {
	c.mu.Lock()
	node := c.running[name]
	c.mu.Unlock()
	select {
	case <-node.server.Ready():
		return nil
	case <-node.done:
		return fmt.Errorf("%s ended", name)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waitAgents returns once the cluster calls every compute node Ready.
func (c *Cluster) waitAgents(ctx context.Context) error {
	c.mu.Lock()
	server := c.running[c.ServerNames()[0]].server
	c.mu.Unlock()
	return server.WaitNodesReady(ctx, c.AgentNames())
}

// Start starts a node that does not run.
func (c *Cluster) Start(name string) error {
	c.mu.Lock()
	parent, group := c.ctx, c.group
	_, already := c.running[name]
	c.mu.Unlock()
	if parent == nil {
		return errors.New("the cluster does not run yet")
	}
	if already {
		return fmt.Errorf("%s runs already", name)
	}
	ctx, cancel := context.WithCancel(parent)
	node := &running{cancel: cancel, done: make(chan struct{})}
	var run func(context.Context) error
	if c.isServer(name) {
		server, err := control.New(ctx, c.serverConfig(name))
		if err != nil {
			cancel()
			return fmt.Errorf("%s: %w", name, err)
		}
		node.server, run = server, server.Run
	} else {
		member, err := agent.NewMember(ctx, c.agentConfig(name))
		if err != nil {
			cancel()
			return fmt.Errorf("%s: %w", name, err)
		}
		run = member.Run
	}
	c.mu.Lock()
	c.running[name] = node
	c.mu.Unlock()
	group.Go(func() error {
		defer close(node.done)
		err := run(ctx)
		stopped := ctx.Err() != nil
		cancel()
		c.mu.Lock()
		delete(c.running, name)
		c.mu.Unlock()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if !stopped {
			return fmt.Errorf("%s ended by itself", name)
		}
		return nil
	})
	return nil
}

// Stop stops a node in order and waits for its end. What it keeps stays.
func (c *Cluster) Stop(name string) error {
	c.mu.Lock()
	node := c.running[name]
	c.mu.Unlock()
	if node == nil {
		return fmt.Errorf("%s does not run", name)
	}
	node.cancel()
	<-node.done
	return nil
}

// Server is a running control node, or nil.
func (c *Cluster) Server(name string) *control.Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	if node := c.running[name]; node != nil {
		return node.server
	}
	return nil
}

func (c *Cluster) isServer(name string) bool {
	for _, s := range c.ServerNames() {
		if s == name {
			return true
		}
	}
	return false
}

func (c *Cluster) serverConfig(name string) control.Config {
	cfg := control.Config{
		Dir: c.Dir(name), Name: name, Address: c.Address(name), Listen: c.Address(name),
		GossipAddress: c.gossip(name), GossipFast: true,
		Heartbeat: heartbeat, LeaderLease: leaderLease,
		Version: c.cfg.Version, Logger: c.cfg.Logger.With("node", name),
	}
	first := c.ServerNames()[0]
	if name == first {
		cfg.Init = true
	} else {
		cfg.Join = []string{c.Address(first)}
		cfg.Token = c.token("server-token")
	}
	if c.cfg.ServerConfig != nil {
		c.cfg.ServerConfig(&cfg)
	}
	return cfg
}

func (c *Cluster) agentConfig(name string) agent.MemberConfig {
	cfg := agent.MemberConfig{
		Config: agent.Config{
			Dir: c.Dir(name), Name: name, Runtime: agent.Hollow, NodeIP: "127.0.0.1", Hostname: name,
			Capacity: corev1.ResourceList{
				corev1.ResourceCPU:              resource.MustParse("8"),
				corev1.ResourceMemory:           resource.MustParse("32Gi"),
				corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"),
				corev1.ResourcePods:             resource.MustParse("110"),
			},
			Version: c.cfg.Version, Logger: c.cfg.Logger.With("node", name),
		},
		Token:         c.token("agent-token"),
		GossipAddress: c.gossip(name), GossipFast: true,
	}
	for _, server := range c.ServerNames() {
		cfg.Join = append(cfg.Join, c.Address(server))
	}
	if c.cfg.AgentConfig != nil {
		c.cfg.AgentConfig(&cfg)
	}
	return cfg
}

func (c *Cluster) gossip(name string) string {
	return fmt.Sprintf("127.0.0.1:%d", c.ports[name].Gossip)
}

// token reads one of the founder's; empty before there is one, which a node
// that has joined does not need.
func (c *Cluster) token(file string) string {
	text, _ := os.ReadFile(filepath.Join(c.Dir(c.ServerNames()[0]), file))
	return string(text)
}
