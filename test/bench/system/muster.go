package system

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/musterhq/muster/test/bench/process"
)

// Muster is whole control nodes: API server, store, and on the leader the
// scheduler and all controllers. There is no smaller process.
type Muster struct {
	Program string
	// PodCIDR is where the cluster's pods get their addresses from, for more nodes
	// than its default has room for; "": that.
	PodCIDR string
}

func (Muster) Name() string { return "muster" }

func (m Muster) Version() (string, error) {
	out, err := exec.Command(m.Program, "--version").Output()
	return strings.TrimSpace(strings.TrimPrefix(string(out), "muster version ")), err
}

// start makes the cluster with the first node and has the others join it.
func (m Muster) start(ctx context.Context, c *Cluster) error {
	founder, token := c.Nodes[0], ""
	for _, n := range c.Nodes {
		args := []string{"server", "--dir", n.Dir, "--name", n.Name, "--address", n.Address, "--listen", n.Address, "--gossip-address", n.others[0]}
		if n == founder {
			args = append(args, "--init")
			if m.PodCIDR != "" {
				args = append(args, "--pod-cidr", m.PodCIDR)
			}
		} else {
			args = append(args, "--join", founder.Address, "--token", token)
		}
		if err := n.run(m.Program, args...); err != nil {
			return err
		}
		if n == founder {
			var err error
			if token, err = awaitFile(ctx, n, "server-token"); err != nil {
				return err
			}
			if _, err = awaitFile(ctx, n, "admin.kubeconfig"); err != nil {
				return err
			}
		}
	}
	return nil
}

// restart needs the directories only: nodes keep their names and addresses there.
func (m Muster) restart(c *Cluster) error {
	for _, n := range c.Nodes {
		if err := n.run(m.Program, "server", "--dir", n.Dir); err != nil {
			return err
		}
	}
	return nil
}

// AgentToken lets compute nodes join. It is written by the first leader, a moment
// after the node is ready.
func (m Muster) AgentToken(ctx context.Context, c *Cluster) (string, error) {
	return awaitFile(ctx, c.Nodes[0], "agent-token")
}

// operatorAttempts are made of a verb: on a busy machine one may find no answer in
// time.
const operatorAttempts = 5

// Operator runs one of the verbs for operators, which may be said twice.
func (m Muster) Operator(ctx context.Context, c *Cluster, verb ...string) (err error) {
	args := append(append([]string{"operator"}, verb...), "--kubeconfig", filepath.Join(c.Nodes[0].Dir, "admin.kubeconfig"))
	for range operatorAttempts {
		out, failed := exec.CommandContext(ctx, m.Program, args...).CombinedOutput()
		if failed == nil {
			return nil
		}
		if err = fmt.Errorf("muster operator %s: %w: %s", strings.Join(verb, " "), failed, out); ctx.Err() != nil {
			break
		}
	}
	return err
}

// awaitFile reads what a node writes into its directory once it has it.
func awaitFile(ctx context.Context, n *Node, file string) (string, error) {
	for {
		text, err := os.ReadFile(filepath.Join(n.Dir, file))
		if err == nil && len(text) > 0 {
			return strings.TrimSpace(string(text)), nil
		}
		if err := n.in.Alive(); err != nil {
			return "", err
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s did not write %s; the end of its log:\n%s", n.Name, file, process.Tail(n.Processes[0].Log, 2000))
		case <-time.After(readyEach):
		}
	}
}

func (Muster) Administrator(n *Node) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(n.in.Nodes[0].Dir, "admin.kubeconfig"))
	if err != nil {
		return nil, err
	}
	config.Host = "https://" + n.Address
	return config, nil
}
