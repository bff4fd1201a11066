package main

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

// muster is whole control nodes: API server, store, and on the leader the
// scheduler and all controllers. There is no smaller process.
type muster struct{ program string }

func (muster) name() string { return "muster" }

func (m muster) version() (string, error) {
	out, err := exec.Command(m.program, "--version").Output()
	return strings.TrimSpace(strings.TrimPrefix(string(out), "muster version ")), err
}

// start makes the cluster with the first node and has the others join it.
func (m muster) start(ctx context.Context, c *cluster) error {
	founder, token := c.nodes[0], ""
	for _, n := range c.nodes {
		args := []string{"server", "--dir", n.dir, "--name", n.name, "--address", n.address, "--listen", n.address, "--gossip-address", n.others[0]}
		if n == founder {
			args = append(args, "--init")
		} else {
			args = append(args, "--join", founder.address, "--token", token)
		}
		if err := n.run(m.program, args...); err != nil {
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
func (m muster) restart(c *cluster) error {
	for _, n := range c.nodes {
		if err := n.run(m.program, "server", "--dir", n.dir); err != nil {
			return err
		}
	}
	return nil
}

// awaitFile reads what a node writes into its directory once it has it.
func awaitFile(ctx context.Context, n *node, file string) (string, error) {
	for {
		text, err := os.ReadFile(filepath.Join(n.dir, file))
		if err == nil && len(text) > 0 {
			return strings.TrimSpace(string(text)), nil
		}
		if err := n.in.alive(); err != nil {
			return "", err
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s did not write %s; the end of its log:\n%s", n.name, file, process.Tail(n.processes[0].Log, 2000))
		case <-time.After(readyEach):
		}
	}
}

func (muster) administrator(n *node) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(n.in.nodes[0].dir, "admin.kubeconfig"))
	if err != nil {
		return nil, err
	}
	config.Host = "https://" + n.address
	return config, nil
}
