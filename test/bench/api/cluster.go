package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"

	"github.com/musterhq/muster/test/bench/measure"
	"github.com/musterhq/muster/test/bench/process"
)

const (
	startTimeout = 120 * time.Second
	// readyEach is how often a node is asked whether it is ready, by which the
	// time until then is at most too long.
	readyEach = 2 * time.Millisecond
)

// system is what differs between those that are compared.
type system interface {
	name() string
	version() (string, error)
	// start runs a cluster in empty directories.
	start(ctx context.Context, c *cluster) error
	// restart runs all nodes again, in the directories that they have.
	restart(c *cluster) error
	// administrator is how somebody who may do everything speaks to a node. Both
	// systems exempt them from waiting for their turn.
	administrator(n *node) (*rest.Config, error)
}

// cluster is some nodes of one system on this machine.
type cluster struct {
	system
	dir         string
	nodes       []*node
	connections []*connection
}

// node is what would be one machine: one program, or an API server and its etcd.
type node struct {
	in        *cluster
	index     int
	name      string
	dir       string
	address   string // of the API
	others    []string
	processes []*process.Process
}

// addressesEach are for the API, and three for whatever else listens.
const addressesEach = 4

// startCluster returns once every node says that it is ready, and how long that
// took.
func startCluster(ctx context.Context, s system, dir string, count int) (_ *cluster, took time.Duration, err error) {
	c := &cluster{system: s, dir: dir}
	defer func() {
		if err != nil {
			c.kill()
			err = fmt.Errorf("start %s: %w", s.name(), err)
		}
	}()
	ports, err := process.FreePorts(addressesEach * count)
	if err != nil {
		return c, 0, err
	}
	for i := range count {
		n := &node{in: c, index: i, name: fmt.Sprintf("%s%d", s.name(), i+1)}
		n.dir = filepath.Join(dir, n.name)
		n.address, n.others = ports[addressesEach*i], ports[addressesEach*i+1:addressesEach*(i+1)]
		if err := os.MkdirAll(n.dir, 0o700); err != nil {
			return c, 0, err
		}
		c.nodes = append(c.nodes, n)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	begin := time.Now()
	if err := s.start(ctx, c); err != nil {
		return c, 0, err
	}
	if err := c.awaitReady(ctx); err != nil {
		return c, 0, err
	}
	return c, time.Since(begin), nil
}

// restartAll starts the nodes of a cluster that was killed, and says how long it
// took until all were ready.
func (c *cluster) restartAll(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	begin := time.Now()
	if err := c.restart(c); err != nil {
		return 0, fmt.Errorf("restart %s: %w", c.name(), err)
	}
	if err := c.awaitReady(ctx); err != nil {
		return 0, fmt.Errorf("restart %s: %w", c.name(), err)
	}
	return time.Since(begin), nil
}

// run starts a program for the node.
func (n *node) run(program string, args ...string) error {
	log := filepath.Join(n.in.dir, fmt.Sprintf("%s-%s.log", n.name, filepath.Base(program)))
	p, err := process.Start(log, program, args...)
	if err == nil {
		n.processes = append(n.processes, p)
	}
	return err
}

// kill ends all nodes at once. Nothing that they hold is worth a farewell.
func (c *cluster) kill() {
	for _, held := range c.connections {
		held.close()
	}
	c.connections = nil
	for _, n := range c.nodes {
		for _, p := range n.processes {
			p.Kill()
		}
		n.processes = nil
	}
}

// alive answers an error if any process has ended.
func (c *cluster) alive() error {
	for _, n := range c.nodes {
		for _, p := range n.processes {
			if err := p.Alive(); err != nil {
				return err
			}
		}
	}
	return nil
}

// awaitReady asks every node's /readyz, as anybody may. Who answers is not
// verified, as what would verify it is perhaps not written yet.
func (c *cluster) awaitReady(ctx context.Context) error {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	asks := &http.Client{Transport: transport, Timeout: 2 * time.Second}
	for _, n := range c.nodes {
		for last := error(nil); ; {
			if last = readyz(ctx, asks, n.address); last == nil {
				break
			}
			if err := c.alive(); err != nil {
				return err
			}
			measure.Sleep(ctx, readyEach)
			if ctx.Err() != nil {
				return fmt.Errorf("%s is not ready: %w", n.name, last)
			}
		}
	}
	return nil
}

func readyz(ctx context.Context, asks *http.Client, address string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/readyz", nil)
	if err != nil {
		return err
	}
	answer, err := asks.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("/readyz answers %s", answer.Status)
	}
	return nil
}

// costs are those of all nodes together. There are no bystanders: clusters run
// one at a time.
func (c *cluster) costs() measure.Costs { return measure.Costs{Servers: c.usage} }

func (c *cluster) usage() (sum process.Usage, err error) {
	for _, n := range c.nodes {
		for _, p := range n.processes {
			u, err := p.Usage()
			if err != nil {
				return sum, err
			}
			sum = sum.Plus(u)
		}
	}
	return sum, nil
}

// residences is what each node holds, all its processes together.
func (c *cluster) residences() (all []process.Residence, err error) {
	for _, n := range c.nodes {
		var sum process.Residence
		for _, p := range n.processes {
			r, err := p.Residence()
			if err != nil {
				return nil, err
			}
			sum.RSS, sum.Anon, sum.Peak = sum.RSS+r.RSS, sum.Anon+r.Anon, sum.Peak+r.Peak
		}
		all = append(all, sum)
	}
	return all, nil
}
