package scheduler

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Room is what preemption would do on one node.
type Room struct {
	Node       string
	Victims    []*corev1.Pod // most important first
	Violations int           // of budgets
}

// MakeRoom says what could be evicted for a pod that fits nowhere: on each node
// where that would help, first the one that preemption would choose. Nothing is
// evicted.
func (s *Snapshot) MakeRoom(pod *corev1.Pod) (rooms []Room) {
	c := coreOf(s.cluster)
	c.budgets = s.budgets
	p := c.cluster.read(pod)
	if p.neverPreempts {
		return nil
	}
	best, _ := c.bestCandidate(p)
	if best == nil {
		return nil
	}
	why := &Diagnosis{Reasons: make(map[string]int)}
	rest := slices.SortedFunc(slices.Values(c.cluster.order), func(a, b *nodeInfo) int { return cmp.Compare(a.name, b.name) })
	rooms = append(rooms, roomOf(best))
	for _, n := range rest {
		if n == best.node {
			continue
		}
		if it := c.victims(p, n, why); it != nil {
			rooms = append(rooms, roomOf(it))
		}
	}
	return rooms
}

func roomOf(it *candidate) Room {
	r := Room{Node: it.node.name, Violations: it.violations}
	for _, v := range it.victims {
		r.Victims = append(r.Victims, v.pod)
	}
	return r
}
