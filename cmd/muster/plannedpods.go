package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// plannedPods is what would become of an object's pods.
type plannedPods struct {
	Present uint32            `json:"present"`
	Leaving uint32            `json:"leaving"`
	Placed  map[string]uint32 `json:"placed"` // by node
	Waiting uint32            `json:"waiting"`
	Why     string            `json:"why,omitempty"`
	// Unmade are not made, as those before them wait.
	Unmade  uint32            `json:"unmade,omitempty"`
	Evicted []explainedVictim `json:"evicted,omitempty"`
	Rollout *plannedRollout   `json:"rollout,omitempty"`
	Notes   []string          `json:"notes,omitempty"`
}

// plannedRollout is how pods are replaced.
type plannedRollout struct {
	Replaced uint32 `json:"replaced"`
	// Surge and Unavailable are how many pods there may be too many, and too few.
	Surge       uint32 `json:"surge"`
	Unavailable uint32 `json:"unavailable"`
	// Late find a place only once old pods have gone.
	Late    uint32 `json:"late,omitempty"`
	WhyLate string `json:"whyLate,omitempty"`
	// Left stay, because the rollout stops.
	Left uint32 `json:"left,omitempty"`
}

func newPlannedPods(g *clusterv1.PlannedPods) *plannedPods {
	p := &plannedPods{
		Present: g.Present, Leaving: g.Leaving, Placed: g.Placed, Waiting: g.Waiting, Why: g.Why, Unmade: g.Unmade,
		Evicted: newExplainedVictims(g.Evicted), Notes: g.Notes,
	}
	if g.Replaced > 0 {
		p.Rollout = &plannedRollout{Replaced: g.Replaced, Surge: g.Surge, Unavailable: g.Unavailable, Late: g.Late, WhyLate: g.WhyLate, Left: g.Left}
	}
	return p
}

// placesMost is how many nodes a line names.
const placesMost = 10

func (p *plannedPods) print(b *strings.Builder) {
	if p == nil {
		return
	}
	var places []string
	var placed uint32
	for _, node := range slices.Sorted(maps.Keys(p.Placed)) {
		placed += p.Placed[node]
		places = append(places, fmt.Sprintf("%d on %s", p.Placed[node], node))
	}
	fmt.Fprintf(b, "    pods: %d stay, %d go, %d come", p.Present, p.Leaving, placed+p.Waiting+p.Unmade)
	if len(places) > 0 {
		fmt.Fprintf(b, ": %s", some(places, placesMost))
	}
	b.WriteByte('\n')
	for _, note := range p.Notes {
		fmt.Fprintf(b, "    %s\n", note)
	}
	p.Rollout.print(b)
	if p.Waiting > 0 {
		fmt.Fprintf(b, "    %d of them would wait: %s\n", p.Waiting, p.Why)
	}
	if p.Unmade > 0 {
		fmt.Fprintf(b, "    %d of them would not be made before that\n", p.Unmade)
	}
	if p.Rollout != nil && p.Rollout.Left > 0 {
		fmt.Fprintf(b, "    the rollout would stop: %d of %d old pods stay\n", p.Rollout.Left, p.Rollout.Replaced)
	}
	if len(p.Evicted) > 0 {
		var names []string
		for _, v := range p.Evicted {
			names = append(names, fmt.Sprintf("%s/%s (priority %d)", v.Namespace, v.Name, v.Priority))
		}
		fmt.Fprintf(b, "    evicted for them: %s\n", some(names, placesMost))
	}
}

func (r *plannedRollout) print(b *strings.Builder) {
	if r == nil {
		return
	}
	fmt.Fprintf(b, "    rollout: %d replaced, at most %d too many and %d too few at a time\n", r.Replaced, r.Surge, r.Unavailable)
	if r.Late > 0 {
		fmt.Fprintf(b, "    %d of them would wait until others have gone: %s\n", r.Late, r.WhyLate)
	}
}
