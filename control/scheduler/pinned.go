package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A pod may name the nodes that it takes, as those of a DaemonSet do. Only these are
// looked at then, so that a DaemonSet's pods cost no more in a cluster of thousands
// of nodes. It is what upstream's NodeAffinity does before it filters.

const (
	// notPinned is what all other nodes are said to lack.
	notPinned = "node(s) didn't satisfy plugin(s) [NodeAffinity]"
	// contradicting terms name no node that would do for them.
	contradicting = "pod affinity terms conflict"
)

// pinnedTo are the names of the nodes that the pod requires, in order; nil if it does
// not name any. It is empty if each term contradicts itself.
func pinnedTo(pod *corev1.Pod) []string {
	a := nodeAffinityOf(pod)
	if a == nil || a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	names := []string{}
	for _, term := range a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		pinned, of := false, []string(nil)
		for _, field := range term.MatchFields {
			if field.Key != metav1.ObjectNameField || field.Operator != corev1.NodeSelectorOpIn {
				continue
			}
			if !pinned {
				pinned, of = true, slices.Clone(field.Values)
				continue
			}
			of = slices.DeleteFunc(of, func(name string) bool { return !slices.Contains(field.Values, name) })
		}
		if !pinned {
			return nil // any of the terms will do
		}
		names = append(names, of...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// among are the nodes to look at for a pod that filters are asked about, and how
// many there are elsewhere.
func (c *cluster) among(p *podInfo) (nodes []*nodeInfo, elsewhere int) {
	if p.pinned == nil || !slices.ContainsFunc(c.filters, func(f filter) bool { return f.name() == nodeAffinity{}.name() }) {
		return c.order, 0
	}
	c.pinned = c.pinned[:0]
	for _, name := range p.pinned {
		if n := c.nodes[name]; n != nil && n.node != nil {
			c.pinned = append(c.pinned, n)
		}
	}
	return c.pinned, len(c.order) - len(c.pinned)
}
