package scheduler

import (
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// A plan says what the scheduler would do: where pods go beside those that stay, what
// is evicted, and what fits nowhere.
func TestPlanIsWhatWouldHappen(t *testing.T) {
	fresh := func() *core {
		return coreOf(NewSnapshot(State{
			Nodes: []*corev1.Node{makeNode("n1"), makeNode("n2")},
			Pods: []*corev1.Pod{
				makePod("old", on("n1"), requesting("cpu", "3")), makePod("low", on("n2"), requesting("cpu", "3"), priority(-1)),
			},
		}).cluster)
	}
	old := []*corev1.Pod{makePod("old", on("n1"), requesting("cpu", "3"))}
	asks := func(cpu string, p int32) *corev1.Pod { return makePod("new", requesting("cpu", cpu), priority(p)) }
	for _, test := range []struct {
		name             string
		group            PlanGroup
		present          []*corev1.Pod
		placed           map[string]int
		leaving, waiting int
		evicted          int
	}{
		{"beside what is there", PlanGroup{Pod: asks("1", -1), Desired: 2}, nil, map[string]int{"n1": 1, "n2": 1}, 0, 0, 0},
		{"more than fit", PlanGroup{Pod: asks("1", -1), Desired: 3}, nil, map[string]int{"n1": 1, "n2": 1}, 0, 1, 0},
		{"one is there", PlanGroup{Pod: asks("1", -1), Desired: 2}, old, map[string]int{"n1": 1}, 0, 0, 0},
		{"fewer", PlanGroup{Pod: asks("1", -1), Desired: 0}, old, nil, 1, 0, 0},
		{"in place of those that go", PlanGroup{Pod: asks("4", -1), Desired: 1, Replaced: true}, old, map[string]int{"n1": 1}, 1, 0, 0},
		{"with evictions", PlanGroup{Pod: asks("4", 0), Desired: 1}, nil, map[string]int{"n2": 1}, 0, 0, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := fresh().plan(test.group, test.present, "p")
			placed := test.placed
			if test.name == "one is there" {
				// Either node has room for it.
				placed = got.Placed
				if len(placed) != 1 {
					t.Errorf("placed %v, want one pod", placed)
				}
			}
			if !maps.Equal(got.Placed, placed) || got.Leaving != test.leaving || got.Waiting != test.waiting || len(got.Evicted) != test.evicted {
				t.Errorf("%+v, want placed %v, %d leaving, %d waiting, %d evicted", got, test.placed, test.leaving, test.waiting, test.evicted)
			}
			if (got.Why != "") != (test.waiting > 0) {
				t.Errorf("why %q with %d waiting", got.Why, got.Waiting)
			}
		})
	}
}
