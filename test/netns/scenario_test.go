package netns

import (
	"testing"

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
