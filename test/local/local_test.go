// Package local runs the scenarios on a cluster in this process: three control
// nodes and two hollow compute nodes, with real connections, logs and disks.
// Killing a host means stopping it; test/netns kills for real.
package local

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/musterhq/muster/deploy/dev"
	"github.com/musterhq/muster/test/scenario"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is a dev.Cluster as scenarios want one.
type cluster struct {
	*dev.Cluster
	t *testing.T
}

// start runs a cluster until the test ends.
func start(t *testing.T) *cluster {
	t.Helper()
	d, err := dev.New(dev.Config{
		Dir: t.TempDir(), Version: "test",
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the cluster ended with %v", err)
		}
	})
	select {
	case <-d.Ready():
		t.Logf("ready after %v", time.Since(began).Round(time.Millisecond))
	case err := <-ended:
		ended <- nil
		t.Fatalf("the cluster did not start: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the cluster is not ready after a minute")
	}
	return &cluster{d, t}
}

func (c *cluster) Control() []string { return c.ServerNames() }
func (c *cluster) Compute() []string { return c.AgentNames() }

func (c *cluster) Config(control string) *rest.Config {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig(control))
	if err != nil {
		c.t.Fatal(err)
	}
	return config
}

func (c *cluster) Leader(context.Context) (string, error) {
	for _, name := range c.ServerNames() {
		if server := c.Server(name); server != nil {
			if leader := server.Leader(); leader != "" {
				return leader, nil
			}
		}
	}
	return "", errors.New("no control node knows of a leader")
}

func (c *cluster) Kill(_ context.Context, host string) error  { return c.Stop(host) }
func (c *cluster) Start(_ context.Context, host string) error { return c.Cluster.Start(host) }
func (c *cluster) Cut(context.Context, string) error          { return errors.ErrUnsupported }
func (c *cluster) Mend(context.Context, string) error         { return errors.ErrUnsupported }
func (c *cluster) Containers(context.Context, string) ([]string, error) {
	return nil, errors.ErrUnsupported
}

func TestScenarios(t *testing.T) { scenario.All(t, start(t)) }

// An idle cluster writes nothing: heartbeats are not stored, and nothing is
// written only because time has passed.
func TestIdleClusterWritesNothing(t *testing.T) {
	c := start(t)
	server := c.Server("c1")
	// Starting ends with a few writes that Ready does not wait for.
	for settled, deadline := 0, time.Now().Add(time.Minute); settled < 20; settled++ {
		before := server.Revision()
		time.Sleep(100 * time.Millisecond)
		if server.Revision() != before {
			settled = 0
		}
		if time.Now().After(deadline) {
			t.Fatal("the cluster does not come to rest within a minute")
		}
	}
	before := server.Revision()
	time.Sleep(10 * time.Second)
	if after := server.Revision(); after != before {
		t.Errorf("%d writes in 10 s of rest, want none", after-before)
	}
}
