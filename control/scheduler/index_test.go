package scheduler

import (
	"fmt"
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// anyRule is a rule about other pods, any that a user could write.
func (w *world) anyRule() func(*corev1.Pod) {
	selects := func() *metav1.LabelSelector {
		switch w.r.IntN(6) {
		case 0:
			return &metav1.LabelSelector{}
		case 1:
			return nil
		case 2:
			return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
				{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"0"}}}}
		default:
			return &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint(w.r.IntN(3))}}
		}
	}
	key := []string{"zone", corev1.LabelHostname}[w.r.IntN(2)]
	if w.r.IntN(3) == 0 {
		c := corev1.TopologySpreadConstraint{
			TopologyKey: key, MaxSkew: int32(1 + w.r.IntN(2)), LabelSelector: selects(),
			WhenUnsatisfiable: []corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}[w.r.IntN(2)],
		}
		if w.r.IntN(4) == 0 && c.WhenUnsatisfiable == corev1.DoNotSchedule {
			c.MinDomains = ptr.To(int32(1 + w.r.IntN(3)))
		}
		if w.r.IntN(4) == 0 {
			c.NodeTaintsPolicy = ptr.To(corev1.NodeInclusionPolicyHonor)
		}
		if w.r.IntN(4) == 0 {
			c.NodeAffinityPolicy = ptr.To(corev1.NodeInclusionPolicyIgnore)
		}
		return func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
		}
	}
	term := corev1.PodAffinityTerm{TopologyKey: key, LabelSelector: selects()}
	switch w.r.IntN(4) {
	case 0:
		term.Namespaces = []string{fmt.Sprint("ns", w.r.IntN(2))}
	case 1:
		term.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": fmt.Sprint(w.r.IntN(2))}}
	}
	kind, weight := w.r.IntN(4), int32(1+w.r.IntN(100))
	return func(p *corev1.Pod) {
		if p.Spec.Affinity == nil {
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{}, PodAntiAffinity: &corev1.PodAntiAffinity{}}
		}
		near, apart := p.Spec.Affinity.PodAffinity, p.Spec.Affinity.PodAntiAffinity
		switch kind {
		case 0:
			near.RequiredDuringSchedulingIgnoredDuringExecution = append(near.RequiredDuringSchedulingIgnoredDuringExecution, term)
		case 1:
			apart.RequiredDuringSchedulingIgnoredDuringExecution = append(apart.RequiredDuringSchedulingIgnoredDuringExecution, term)
		case 2:
			near.PreferredDuringSchedulingIgnoredDuringExecution = append(near.PreferredDuringSchedulingIgnoredDuringExecution,
				corev1.WeightedPodAffinityTerm{Weight: weight, PodAffinityTerm: term})
		case 3:
			apart.PreferredDuringSchedulingIgnoredDuringExecution = append(apart.PreferredDuringSchedulingIgnoredDuringExecution,
				corev1.WeightedPodAffinityTerm{Weight: weight, PodAffinityTerm: term})
		}
	}
}

// picture is what an index counts, by names instead of numbers.
func picture(x *index) map[string]string {
	domains := func(t *topology, at func(int32) string) string {
		named := map[string]string{}
		for value, id := range t.ids {
			if s := at(id); s != "" {
				named[value] = s
			}
		}
		return fmt.Sprint(named)
	}
	all := map[string]string{}
	for key, t := range x.tallies {
		all["tally "+key] = fmt.Sprintln(t.some, t.least, t.domains, domains(t.topology, func(d int32) string {
			if n := t.at(d); n != 0 {
				return fmt.Sprint(n)
			}
			return ""
		}))
	}
	for key, t := range x.terms {
		all["term "+key] = domains(t.topology, func(d int32) string {
			if t.bar(d) {
				return fmt.Sprint("bars ", t.barring[d])
			}
			if w := t.worth(d, 1); w != 0 {
				return fmt.Sprint("favours ", w)
			}
			return ""
		})
	}
	return all
}

// checkIndex compares what is counted step by step with a fresh count.
func (w *world) checkIndex(fresh *cluster) {
	x := w.core.cluster.index
	for _, p := range w.pods {
		w.core.cluster.index.prepare(w.read(p))
		fresh.index.prepare(w.read(p))
	}
	got := picture(x)
	for key, want := range picture(fresh.index) {
		if got[key] != want {
			w.t.Fatalf("%q counts %s, want %s", key, got[key], want)
		}
	}
	for n := range x.nodes {
		if n.node == nil || w.nodes[n.name] == nil {
			w.t.Fatalf("%s is indexed and does not exist", n.name)
		}
	}
	idle := 0
	for _, t := range x.tallies {
		if t.pins == 0 {
			idle++
		}
		if len(t.parked) != t.pins {
			w.t.Fatalf("%q is pinned %d times by %d classes", t.key, t.pins, len(t.parked))
		}
	}
	pins := map[*kin]int{}
	for _, p := range w.core.cluster.pods {
		pins[p.kin]++
	}
	for e := range w.core.queue.parked.all() {
		pins[e.kin]++
	}
	for _, it := range w.core.cluster.nominations.of {
		pins[it.kin]++
	}
	idleKin := 0
	for _, k := range x.kin {
		if k.pins == 0 {
			idleKin++
		}
		if k.pins != pins[k] {
			w.t.Fatalf("%q is pinned %d times, want %d", k.key, k.pins, pins[k])
		}
	}
	if idle != x.idleTallies || idleKin != x.idleKin {
		w.t.Fatalf("%d idle tallies and %d idle kin, want %d and %d", x.idleTallies, x.idleKin, idle, idleKin)
	}
	if w.r.IntN(10) == 0 {
		// As if there were far too much of everything.
		x.idleKin += idleKinMost + 1
		w.core.cluster.tidy()
		for _, t := range x.terms {
			if t.pins == 0 {
				w.t.Fatalf("%q was kept though nobody carries it", t.key)
			}
		}
	}
}

// Lifting placed pods in any order, asking, and putting them back leaves no
// trace, and is no news to those who wait.
func TestLiftAndPutAreReversible(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(t, seed)
		w.rules = true
		for range 100 {
			w.step()
			w.decide(-1)
		}
		c := w.core.cluster
		before, clock := picture(c.index), c.index.clock
		c.try(func() {
			var lifted []*placed
			for _, p := range c.pods {
				if w.r.IntN(2) == 0 {
					c.lift(p.podInfo, p.on)
					lifted = append(lifted, p)
				}
			}
			w.r.Shuffle(len(lifted), func(i, j int) { lifted[i], lifted[j] = lifted[j], lifted[i] })
			for _, p := range lifted {
				c.put(p.podInfo, p.on)
			}
		})
		if now := picture(c.index); !maps.Equal(now, before) || c.index.clock != clock || len(c.index.heard) > 0 {
			t.Fatalf("seed %d: the index counts %v, want %v; %d heard", seed, now, before, len(c.index.heard))
		}
		w.checkSums()
	}
}
