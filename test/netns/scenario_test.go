package netns

import (
	"fmt"
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
	// Each by itself: a Deployment that stays from the one before starts its pods anew
	// beside those that are measured.
	for _, losses := range []scenario.Losses{
		{Median: 5 * time.Second, Most: 8 * time.Second},
		{WithLeader: true, Most: 10 * time.Second},
		{Silent: true, Median: 5 * time.Second, Most: 8 * time.Second},
		{Silent: true, WithLeader: true, Most: 10 * time.Second},
	} {
		losses.Count = 10
		t.Run(fmt.Sprintf("silent %v, with the leader %v", losses.Silent, losses.WithLeader), func(t *testing.T) {
			scenario.LosesNodes(t, cluster, losses)
		})
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
