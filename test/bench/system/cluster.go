// Package system runs clusters of the systems that are compared, on loopback:
// Muster's control nodes, and kube-apiserver with etcd. Who speaks to them, and
// about what, is others'.
package system

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

// System is what differs between those that are compared.
type System interface {
	Name() string
	Version() (string, error)
	// start runs a cluster in empty directories.
	start(ctx context.Context, c *Cluster) error
	// restart runs all nodes again, in the directories that they have.
	restart(c *Cluster) error
	// Administrator is how somebody who may do everything speaks to a node. Both
	// systems exempt them from waiting for their turn.
	Administrator(n *Node) (*rest.Config, error)
}

// Cluster is some nodes of one system on this machine.
type Cluster struct {
	System
	Dir   string
	Nodes []*Node
}

// Node is what would be one machine: one program, or an API server and its etcd.
type Node struct {
	Name      string
	Dir       string
	Address   string // of the API
	Processes []*process.Process

	in     *Cluster
	index  int
	others []string
}

// addressesEach are for the API, and three for whatever else listens.
const addressesEach = 4

// Start returns once every node says that it is ready, and how long that
// took.
func Start(ctx context.Context, s System, dir string, count int) (_ *Cluster, took time.Duration, err error) {
	c := &Cluster{System: s, Dir: dir}
	defer func() {
		if err != nil {
			c.Kill()
			err = fmt.Errorf("start %s: %w", s.Name(), err)
		}
	}()
	ports, err := process.FreePorts(addressesEach * count)
	if err != nil {
		return c, 0, err
	}
	for i := range count {
		n := &Node{in: c, index: i, Name: fmt.Sprintf("%s%d", s.Name(), i+1)}
		n.Dir = filepath.Join(dir, n.Name)
		n.Address, n.others = ports[addressesEach*i], ports[addressesEach*i+1:addressesEach*(i+1)]
		if err := os.MkdirAll(n.Dir, 0o700); err != nil {
			return c, 0, err
		}
		c.Nodes = append(c.Nodes, n)
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

// Restart starts the nodes of a cluster that was killed, and says how long it
// took until all were ready.
func (c *Cluster) Restart(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	begin := time.Now()
	if err := c.restart(c); err != nil {
		return 0, fmt.Errorf("restart %s: %w", c.Name(), err)
	}
	if err := c.awaitReady(ctx); err != nil {
		return 0, fmt.Errorf("restart %s: %w", c.Name(), err)
	}
	return time.Since(begin), nil
}

// run starts a program for the node.
func (n *Node) run(program string, args ...string) error {
	log := filepath.Join(n.in.Dir, fmt.Sprintf("%s-%s.log", n.Name, filepath.Base(program)))
	p, err := process.Start(log, program, args...)
	if err == nil {
		n.Processes = append(n.Processes, p)
	}
	return err
}

// Kill ends all nodes at once. Nothing that they hold is worth a farewell.
func (c *Cluster) Kill() {
	for _, n := range c.Nodes {
		for _, p := range n.Processes {
			p.Kill()
		}
		n.Processes = nil
	}
}

// Alive answers an error if any process has ended.
func (c *Cluster) Alive() error {
	for _, n := range c.Nodes {
		for _, p := range n.Processes {
			if err := p.Alive(); err != nil {
				return err
			}
		}
	}
	return nil
}

// awaitReady asks every node's /readyz, as anybody may. Who answers is not
// verified, as what would verify it is perhaps not written yet.
func (c *Cluster) awaitReady(ctx context.Context) error {
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	asks := &http.Client{Transport: transport, Timeout: 2 * time.Second}
	for _, n := range c.Nodes {
		for last := error(nil); ; {
			if last = readyz(ctx, asks, n.Address); last == nil {
				break
			}
			if err := c.Alive(); err != nil {
				return err
			}
			measure.Sleep(ctx, readyEach)
			if ctx.Err() != nil {
				return fmt.Errorf("%s is not ready: %w", n.Name, last)
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

// Costs are those of all nodes together. There are no bystanders: clusters run
// one at a time.
func (c *Cluster) Costs() measure.Costs { return measure.Costs{Servers: c.usage} }

func (c *Cluster) usage() (sum process.Usage, err error) {
	for _, n := range c.Nodes {
		u, err := n.Usage()
		if err != nil {
			return sum, err
		}
		sum = sum.Plus(u)
	}
	return sum, nil
}

// Usage is what all processes of the node have used so far.
func (n *Node) Usage() (sum process.Usage, err error) {
	for _, p := range n.Processes {
		u, err := p.Usage()
		if err != nil {
			return sum, err
		}
		sum = sum.Plus(u)
	}
	return sum, nil
}

// Residences is what each node holds, all its processes together.
func (c *Cluster) Residences() (all []process.Residence, err error) {
	for _, n := range c.Nodes {
		var sum process.Residence
		for _, p := range n.Processes {
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
