// Package scenario says what any Muster cluster must do for the people who use
// it, whatever it is made of: test/local runs it on a cluster in one process
// with hollow nodes, test/netns on hosts in network namespaces with real
// containers. A scenario uses the cluster as its users do, through the
// Kubernetes API, and breaks it through Cluster.
//
// Scenarios leave the cluster as they found it: every host up, their namespace
// gone. Each may run alone and in any order, but only one at a time.
package scenario

import (
	"context"
	"testing"

	"k8s.io/client-go/rest"
)

// Cluster is what a scenario runs on.
type Cluster interface {
	// Control and Compute name the hosts. A compute host's Node has its name.
	Control() []string
	Compute() []string
	// Config is how an administrator reaches the API of one control host.
	Config(control string) *rest.Config
	// Leader names the control host that leads, as the others see it.
	Leader(ctx context.Context) (string, error)

	// Kill ends everything that runs on a host at once and without notice, its
	// containers included. Nothing of it runs any more when Kill returns.
	Kill(ctx context.Context, host string) error
	// Start starts what a killed host ran, from what it left on disk.
	// It does not wait until the host is of use again.
	Start(ctx context.Context, host string) error

	// Cut takes a host off the network, both ways, and leaves it running; Mend puts
	// it back. Their error is errors.ErrUnsupported where hosts share a network.
	Cut(ctx context.Context, host string) error
	Mend(ctx context.Context, host string) error

	// Containers names the pod ("namespace/name") of every container that runs
	// on a compute host, once for each, by looking at the host and not at what
	// the cluster says. Its error is errors.ErrUnsupported where containers are
	// only a pretence.
	Containers(ctx context.Context, host string) ([]string, error)
}

// All runs every scenario that needs nothing but a Cluster, in the form that
// takes seconds.
func All(t *testing.T, c Cluster) {
	t.Run("runs and replaces pods", func(t *testing.T) { RunsAndReplaces(t, c) })
	t.Run("moves the pods of a lost node", func(t *testing.T) { LosesNode(t, c) })
	t.Run("moves the pods of a node that is lost with the leader", func(t *testing.T) { LosesNodes(t, c, Losses{Count: 1, WithLeader: true}) })
	t.Run("goes on without its leader", func(t *testing.T) { LosesLeader(t, c, Short) })
	t.Run("comes back from a total outage", func(t *testing.T) { LosesEverything(t, c) })
}
