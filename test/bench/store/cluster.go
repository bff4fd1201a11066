package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/musterhq/muster/test/bench/process"
)

const (
	nodesEach    = 3
	startTimeout = 60 * time.Second
	askTimeout   = 2 * time.Second
	// Watchers that are far behind are sent much at once.
	messageMax = 64 << 20
)

// system is what differs between those that are compared.
type system interface {
	name() string
	version() (string, error)
	// start makes a cluster in empty directories. It returns once every node's
	// process runs and clients can be given their certificates.
	start(ctx context.Context, c *cluster) error
	// restart runs one node again in the directory that it has.
	restart(n *node) (*process.Process, error)
	// tls is nil when clients are to speak plain text.
	tls(c *cluster) (*tls.Config, error)
	client(conn *grpc.ClientConn) client
	// connections is how many to one node its clients share, of those allowed.
	connections(allowed int) int
}

// client speaks to one node over one connection. Any number of goroutines may
// use it.
type client interface {
	put(ctx context.Context, key, value []byte) error
	// get fails when the key is missing. Local is what this node has,
	// otherwise what is committed anywhere.
	get(ctx context.Context, key []byte, local bool) error
	// revision is the newest that is committed anywhere.
	revision(ctx context.Context) (uint64, error)
	// watch hears of every put after a revision to keys with the prefix, until
	// ctx ends.
	watch(ctx context.Context, prefix []byte, after uint64, put func(value []byte)) error
	// state says whether the node leads, and how many voting nodes it knows.
	state(ctx context.Context) (leads bool, voters int, err error)
}

// cluster is three nodes of one system on this machine.
type cluster struct {
	system
	dir   string
	nodes []*node
}

type node struct {
	in      *cluster
	index   int
	name    string
	dir     string
	address string // of clients
	peer    string // of its like, where that is another
	web     string // of what is not gRPC, where that is another
	*process.Process
	conns   []*grpc.ClientConn
	clients []client // one for each connection
}

// startCluster returns once every node answers a linearizable read. Clients
// share the connections, so many to each node.
func startCluster(ctx context.Context, s system, dir string, connections int) (_ *cluster, err error) {
	c := &cluster{system: s, dir: dir}
	defer func() {
		if err != nil {
			c.stop()
			err = fmt.Errorf("start %s: %w", s.name(), err)
		}
	}()
	ports, err := process.FreePorts(3 * nodesEach)
	if err != nil {
		return c, err
	}
	for i := range nodesEach {
		n := &node{in: c, index: i, name: fmt.Sprintf("%s%d", s.name(), i+1)}
		n.dir = filepath.Join(dir, n.name)
		n.address, n.peer, n.web = ports[3*i], ports[3*i+1], ports[3*i+2]
		if err := os.MkdirAll(n.dir, 0o700); err != nil {
			return c, err
		}
		c.nodes = append(c.nodes, n)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := s.start(ctx, c); err != nil {
		return c, err
	}
	if err := c.connect(connections); err != nil {
		return c, err
	}
	return c, c.awaitHealthy(ctx)
}

// run starts a program for the node.
func (n *node) run(program string, args ...string) (*process.Process, error) {
	return process.Start(filepath.Join(n.in.dir, n.name+".log"), program, args...)
}

func (c *cluster) connect(connections int) error {
	config, err := c.tls(c)
	if err != nil {
		return err
	}
	var creds credentials.TransportCredentials = insecure.NewCredentials()
	if config != nil {
		creds = alpn{config}
	}
	for _, n := range c.nodes {
		for range c.system.connections(connections) {
			conn, err := grpc.NewClient("passthrough:///"+n.address,
				grpc.WithTransportCredentials(creds),
				grpc.WithDisableServiceConfig(),
				grpc.WithIdleTimeout(0),
				grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageMax)),
			)
			if err != nil {
				return err
			}
			conn.Connect()
			n.conns = append(n.conns, conn)
			n.clients = append(n.clients, c.client(conn))
		}
	}
	return nil
}

// stop kills what runs. Nothing that these clusters hold is worth a farewell.
func (c *cluster) stop() {
	for _, n := range c.nodes {
		for _, conn := range n.conns {
			_ = conn.Close()
		}
		n.conns, n.clients = nil, nil
		if n.Process != nil {
			n.Kill()
		}
	}
}

// awaitHealthy waits until every node knows all voters and answers a
// linearizable read, which it can only once it has caught up.
func (c *cluster) awaitHealthy(ctx context.Context) error {
	for {
		err := c.healthy(ctx)
		if err == nil {
			return nil
		}
		for _, n := range c.nodes {
			if err := n.Alive(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not healthy: %w", c.name(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *cluster) healthy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for _, n := range c.nodes {
		n.reconnect()
		if _, err := n.clients[0].revision(ctx); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
		_, voters, err := n.clients[0].state(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
		if voters != nodesEach {
			return fmt.Errorf("%s knows %d voting nodes of %d", n.name, voters, nodesEach)
		}
	}
	_, err := c.leader(ctx)
	return err
}

// reconnect spares connections that were lost their wait.
func (n *node) reconnect() {
	for _, conn := range n.conns {
		conn.ResetConnectBackoff()
		conn.Connect()
	}
}

func (c *cluster) leader(ctx context.Context) (*node, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for _, n := range c.nodes {
		leads, _, err := n.clients[0].state(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n.name, err)
		}
		if leads {
			return n, nil
		}
	}
	return nil, errors.New("no node leads")
}

// leaderFirst lists the clients of all nodes by turns, beginning with the
// leader's: who is alone speaks to the leader, and many are spread evenly.
func (c *cluster) leaderFirst(ctx context.Context) ([]client, error) {
	leader, err := c.leader(ctx)
	if err != nil {
		return nil, err
	}
	var all []client
	for k := range leader.clients {
		for i := range c.nodes {
			all = append(all, c.nodes[(leader.index+i)%len(c.nodes)].clients[k])
		}
	}
	return all, nil
}

// usage is that of all nodes together.
func (c *cluster) usage() (sum process.Usage, err error) {
	for _, n := range c.nodes {
		u, err := n.Usage()
		if err != nil {
			return sum, err
		}
		sum = sum.Plus(u)
	}
	return sum, nil
}

// alpn are TLS credentials that ask for the protocol that their config names;
// gRPC's own always ask for h2. Both systems are spoken to through these.
type alpn struct{ config *tls.Config }

func (a alpn) ClientHandshake(ctx context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn := tls.Client(raw, a.config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, nil, err
	}
	info := credentials.TLSInfo{
		State:          conn.ConnectionState(),
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}
	return conn, info, nil
}

func (alpn) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("client credentials cannot serve")
}

func (alpn) Info() credentials.ProtocolInfo            { return credentials.ProtocolInfo{SecurityProtocol: "tls"} }
func (a alpn) Clone() credentials.TransportCredentials { return a }
func (alpn) OverrideServerName(string) error           { return nil }
