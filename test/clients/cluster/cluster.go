// Package cluster runs the muster program as its users do, for tests that speak
// to it with the clients that its users have: control nodes and hollow compute
// nodes on loopback, each a process that can be killed, or a whole cluster in
// one process, which starts faster.
//
// It imports nothing of Muster: what a user cannot do, these tests cannot.
package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// startLimit is how long a cluster may take until all of it serves: a second or
// two, on a machine that has nothing else to do.
const startLimit = 2 * time.Minute

// Cluster runs until its test ends.
type Cluster struct {
	t       testing.TB
	program string
	dir     string
	servers []*Node
}

// Node is a control node.
type Node struct {
	Name, Address string
	gossip        string
	process       *process
}

// Program is the muster to test: the one that MUSTER in the environment names,
// or this repository's bin/muster. Tests run in their package's folder, two
// below the module's.
func Program(t testing.TB) string {
	t.Helper()
	program := os.Getenv("MUSTER")
	if program == "" {
		program = "../../../bin/muster"
	}
	program, err := filepath.Abs(program)
	if err == nil {
		_, err = os.Stat(program)
	}
	if err != nil {
		t.Fatalf("there is no muster to test: %v; run: make build", err)
	}
	return program
}

// Dev is a whole cluster in one process, `muster dev`: a control node and the
// hollow compute nodes n1 and n2. One control node never loses the others, so
// no write goes without an answer, however busy the machine is.
func Dev(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{t: t, program: Program(t), dir: t.TempDir()}
	dev := c.run("dev", "dev", "--servers", "1", "--dir", filepath.Join(c.dir, "dev"))
	c.await(dev, "its nodes are ready", func() error {
		text, err := os.ReadFile(dev.log)
		if err == nil && !strings.Contains(string(text), "are ready after") {
			err = fmt.Errorf("it has not said so")
		}
		return err
	})
	c.servers = []*Node{{Name: "c1", process: dev}}
	c.dir = filepath.Join(c.dir, "dev")
	return c
}

// Start is a cluster of control nodes with a process each and so many hollow
// compute nodes.
func Start(t testing.TB, servers, agents int) *Cluster {
	t.Helper()
	c := &Cluster{t: t, program: Program(t), dir: t.TempDir()}
	ports := freePorts(t, 2*servers+agents)
	for i := range servers {
		c.servers = append(c.servers, &Node{Name: fmt.Sprint("c", i+1), Address: ports[2*i], gossip: ports[2*i+1]})
	}
	founder := c.servers[0]
	for _, n := range c.servers {
		args := []string{"server", "--dir", filepath.Join(c.dir, n.Name), "--name", n.Name, "--address", n.Address, "--listen", n.Address, "--gossip-address", n.gossip}
		if n == founder {
			args = append(args, "--init")
		} else {
			args = append(args, "--join", founder.Address, "--token", c.token("server-token"))
		}
		n.process = c.run(n.Name, args...)
		c.await(n.process, "it has the administrator's kubeconfig", func() error {
			_, err := os.Stat(c.Kubeconfig(n))
			return err
		})
	}
	hollow := map[string]*process{}
	for i := range agents {
		name := fmt.Sprint("n", i+1)
		_, gossip, _ := net.SplitHostPort(ports[2*servers+i])
		hollow[name] = c.run(name, "agent", "--runtime", "hollow", "--dir", filepath.Join(c.dir, name), "--name", name, "--node-ip", "127.0.0.1",
			"--gossip-port", gossip, "--join", founder.Address, "--token", c.token("agent-token"))
	}
	for _, n := range c.servers {
		c.awaitReady(n)
	}
	for name, agent := range hollow {
		c.await(agent, "its node is there", func() error {
			_, err := c.client(founder).CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
			return err
		})
	}
	return c
}

// Nodes are the control nodes.
func (c *Cluster) Nodes() []*Node { return slices.Clone(c.servers) }

// Dir is where the cluster keeps what it has, and its logs.
func (c *Cluster) Dir() string { return c.dir }

// Kubeconfig is the administrator's, for one control node.
func (c *Cluster) Kubeconfig(n *Node) string {
	return filepath.Join(c.dir, n.Name, "admin.kubeconfig")
}

// Config is the administrator's, for one control node, with no bound on how
// fast it asks. Each client that is made of it has a connection of its own.
func (c *Cluster) Config(n *Node) *rest.Config {
	c.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig(n))
	if err != nil {
		c.t.Fatal(err)
	}
	config.QPS = -1
	// Clients whose configurations are alike share a connection, unless they say how to dial.
	config.Dial = (&net.Dialer{}).DialContext
	return config
}

// Leader is the control node that leads, as one of those that run has it.
func (c *Cluster) Leader() *Node {
	c.t.Helper()
	var leader *Node
	c.await(nil, "somebody leads", func() error {
		for _, n := range c.servers {
			if n.process.alive() != nil {
				continue
			}
			out, err := exec.CommandContext(c.t.Context(), c.program, "members", "--kubeconfig", c.Kubeconfig(n), "-o", "json").Output()
			if err != nil {
				continue
			}
			var list struct {
				Leader string `json:"leader"`
			}
			if err := json.Unmarshal(out, &list); err != nil {
				return err
			}
			if i := slices.IndexFunc(c.servers, func(s *Node) bool { return s.Name == list.Leader }); i >= 0 && c.servers[i].process.alive() == nil {
				leader = c.servers[i]
				return nil
			}
		}
		return fmt.Errorf("no control node that runs knows of one")
	})
	return leader
}

// Kill is kill -9 of a control node.
func (c *Cluster) Kill(n *Node) { n.process.kill() }

// Restart runs a killed control node again, with what is in its directory, and
// returns once it serves.
func (c *Cluster) Restart(n *Node) {
	c.t.Helper()
	n.process = c.run(n.Name, "server", "--dir", filepath.Join(c.dir, n.Name))
	c.awaitReady(n)
}

// awaitReady returns once a control node is a part of the cluster: /readyz
// answers with a read that a quorum has agreed to.
func (c *Cluster) awaitReady(n *Node) {
	c.t.Helper()
	client := c.client(n)
	c.await(n.process, "it is ready", func() error {
		ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
		defer cancel()
		return client.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

func (c *Cluster) client(n *Node) kubernetes.Interface {
	c.t.Helper()
	client, err := kubernetes.NewForConfig(c.Config(n))
	if err != nil {
		c.t.Fatal(err)
	}
	return client
}

// token is one of those that the founder wrote.
func (c *Cluster) token(file string) string {
	c.t.Helper()
	var token string
	founder := c.servers[0]
	c.await(founder.process, "it has written "+file, func() error {
		text, err := os.ReadFile(filepath.Join(c.dir, founder.Name, file))
		token = strings.TrimSpace(string(text))
		if err == nil && token == "" {
			err = fmt.Errorf("%s is empty", file)
		}
		return err
	})
	return token
}

// run starts the program, until the test ends. Its log is named for the node.
func (c *Cluster) run(name string, args ...string) *process {
	c.t.Helper()
	p, err := start(filepath.Join(c.dir, name+".log"), c.program, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		p.kill()
		if c.t.Failed() {
			c.t.Logf("the end of the log of %s:\n%s", name, p.tail())
		}
	})
	return p
}

// await calls check until it answers nil; a process that ends before that, or
// startLimit, ends the test.
func (c *Cluster) await(p *process, what string, check func() error) {
	c.t.Helper()
	deadline := time.Now().Add(startLimit)
	for {
		err := check()
		if err == nil {
			return
		}
		if p != nil {
			if ended := p.alive(); ended != nil {
				c.t.Fatalf("waiting until %s: %v", what, ended)
			}
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("not so after %v: %s: %v", startLimit, what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// freePorts asks the kernel for addresses on loopback that nobody uses. They
// are free when this returns; nothing keeps them so.
func freePorts(t testing.TB, count int) []string {
	t.Helper()
	var addresses []string
	for range count {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // all at the end, so that no port comes twice
		addresses = append(addresses, l.Addr().String())
	}
	return addresses
}
