package netns

import (
	"testing"
	"time"

	"github.com/musterhq/muster/test/scenario"
)

func TestRunsAndReplaces(t *testing.T) { scenario.RunsAndReplaces(t, cluster) }
func TestLosesNode(t *testing.T)       { scenario.LosesNode(t, cluster) }
func TestLosesEverything(t *testing.T) { scenario.LosesEverything(t, cluster) }
func TestLosesLeader(t *testing.T) {
	if !*full {
		scenario.LosesLeader(t, cluster, scenario.Short)
		return
	}
	for range 3 { // whoever leads then
		scenario.LosesLeader(t, cluster, scenario.Full)
	}
}

// Losing a compute host, with figures: make node-loss. The limits are for an
// idle machine.
func TestLosesNodes(t *testing.T) {
	if !*full {
		scenario.LosesNodes(t, cluster, scenario.Losses{Count: 1, WithLeader: true})
		return
	}
	for _, silent := range []bool{false, true} {
		scenario.LosesNodes(t, cluster, scenario.Losses{Count: 10, Silent: silent, Median: 5 * time.Second, Most: 8 * time.Second})
		scenario.LosesNodes(t, cluster, scenario.Losses{Count: 10, Silent: silent, WithLeader: true, Most: 10 * time.Second})
	}
}

// A minute of waiting, so not in every run; what it shows is tested in pretended
// time too (agent/fence, control/controller/nodelifecycle).
func TestCutsOffNode(t *testing.T) {
	if !*full {
		t.Skip("takes a minute: make node-loss")
	}
	scenario.CutsOffNode(t, cluster)
}
