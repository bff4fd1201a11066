package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// aCase is what is done to a fresh cluster, in steps that are measured each.
type aCase struct {
	name string
	setting
	steps []step
	// ours says that it is for Muster alone.
	ours bool
}

// step is a row of the table.
type step struct {
	name string
	goal float64 // of the rate, as a multiple of the other system's; 0: none is set
	run  func(ctx context.Context, l *lab) (Result, error)
}

// Zones as upstream's cases have them.
var (
	oneZone    = []string{"zone1"}
	threeZones = []string{"moon-1", "moon-2", "moon-3"}
)

const (
	// fewNodes are enough for what does not depend on their number. Upstream's case
	// of preemption is of that size.
	fewNodes = 1_000
	// selectedNamespaces have the pods that namespace selectors find.
	selectedNamespaces = 10
)

// quickFew and quickMany are what --quick has of the cases, with up to fewNodes
// and with more: what depends on the number of nodes is measured with many.
var (
	quickFew  = []string{"basic/", "preemption/beforehand", "deployments", "loss", "idle"}
	quickMany = []string{"basic/", "spread/required/beforehand", "affinity/required/beforehand", "anti-affinity/preferred/beforehand", "deployment/"}
)

// cases are those for clusters of so many compute nodes.
func (b *bench) cases(nodes int) []aCase {
	all := b.allCases(nodes)
	if !b.quick || len(b.only) > 0 {
		return all
	}
	chosen := quickMany
	if nodes <= fewNodes {
		chosen = quickFew
	}
	return slices.DeleteFunc(all, func(c aCase) bool {
		return !slices.ContainsFunc(chosen, func(begin string) bool { return strings.HasPrefix(c.steps[0].name, begin) })
	})
}

func (b *bench) allCases(nodes int) (all []aCase) {
	place := func(name string, goal float64, zones []string, p placing) {
		add := func(name string, goal float64, want setting, p placing) {
			all = append(all, aCase{name: name, setting: want, steps: []step{{name, goal, p.run}}})
		}
		add(name+"/create", goal/2, setting{nodes: nodes, zones: zones}, p)
		p.created = true
		add(name+"/beforehand", goal, setting{nodes: nodes, zones: zones, paused: true}, p)
	}
	place("basic", 10, nil, placing{pod: podDefault(), count: b.pods})
	half := b.pods / 2
	place("spread/required", 10, threeZones, placing{pod: podSpreading(corev1.DoNotSchedule), count: half, before: podDefault(), beforeCount: half})
	place("spread/preferred", 10, threeZones, placing{pod: podSpreading(corev1.ScheduleAnyway), count: half, before: podDefault(), beforeCount: half})
	like := func(name string, zones []string, a affine, before, count int) {
		p := placing{pod: a.pod(), count: count, before: a.pod(), beforeCount: before}
		if a.selector {
			p.namespaces = selectedNamespaces
		}
		place(name, 10, zones, p)
	}
	like("affinity/required", oneZone, podAffinity, half, half)
	like("affinity/preferred", nil, podPreferredAffinity, half, half)
	// One to a node.
	like("anti-affinity/required", nil, podAntiAffinity, nodes/5, min(half, nodes*2/5))
	like("anti-affinity/preferred", nil, podPreferredAntiAffinity, half, half)
	like("affinity/required/namespaces", oneZone, podAffinity.bySelector(), half, half)
	like("anti-affinity/required/namespaces", nil, podAntiAffinity.bySelector(), nodes/5, min(half, nodes*2/5))
	like("anti-affinity/preferred/namespaces", nil, podPreferredAntiAffinity.bySelector(), half, half)
	if nodes <= fewNodes {
		place("preemption", 0, nil, placing{pod: podHigh(), count: min(nodes, half), before: podLow(), beforeCount: 4 * nodes})
	}
	one := deploying{deployments: 1, replicas: b.pods / 5}
	many := deploying{deployments: b.pods / 10, replicas: 2}
	whole := setting{nodes: nodes, agents: true}
	all = append(all,
		aCase{name: "deployment", setting: whole, steps: []step{{"deployment/create", 8, one.create}, {"deployment/update", 0, one.update}}},
		aCase{name: "deployments", setting: whole, steps: []step{{"deployments/create", 0, many.create}}})
	if nodes <= fewNodes {
		each := deploying{deployments: 1, replicas: 2 * nodes}
		all = append(all,
			aCase{name: "loss", ours: b.quick, setting: setting{nodes: nodes, agents: true, beats: true, victims: victims},
				steps: []step{{"loss/fill", 0, each.create}, {"loss", 0, each.lose}}},
			aCase{name: "idle", setting: setting{nodes: nodes, agents: true, beats: true}, steps: []step{{"idle", 0, idleCase}}})
	}
	if nodes > fewNodes || len(b.only) > 0 {
		full := setting{nodes: nodes, agents: true, beats: true, victims: victims, limit: scaleLimit}
		all = append(all, aCase{name: "scale", ours: true, setting: full, steps: scaling{b.scalePods}.steps(nodes)})
	}
	return all
}

func (c aCase) String() string { return fmt.Sprintf("%s on %d nodes", c.name, c.nodes) }
