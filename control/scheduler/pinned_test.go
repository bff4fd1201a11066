package scheduler

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// naming requires any of the terms, each of which is a list of requirements of the
// node's name: "in a" or "not a".
func naming(terms ...[][]string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		selector := &corev1.NodeSelector{}
		for _, requirements := range terms {
			var term corev1.NodeSelectorTerm
			for _, words := range requirements {
				operator := corev1.NodeSelectorOpIn
				if words[0] == "not" {
					operator = corev1.NodeSelectorOpNotIn
				}
				term.MatchFields = append(term.MatchFields, corev1.NodeSelectorRequirement{Key: "metadata.name", Operator: operator, Values: words[1:]})
			}
			selector.NodeSelectorTerms = append(selector.NodeSelectorTerms, term)
		}
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: selector}}
	}
}

// What upstream says is in the order of its prefilters: only nodes that are named
// say anything for themselves.
func TestOnlyNodesThatThePodNamesAreLookedAt(t *testing.T) {
	for name, c := range map[string]struct {
		pod  func(*corev1.Pod)
		node string
		want string
	}{
		"one":                   {naming([][]string{{"in", "n7"}}), "n7", ""},
		"either term":           {naming([][]string{{"in", "gone"}}, [][]string{{"in", "n3"}}), "n3", ""},
		"all of a term":         {naming([][]string{{"in", "n2"}, {"in", "n2"}}), "n2", ""},
		"a term without a name": {naming([][]string{{"in", "gone"}}, [][]string{{"not", "full"}}), "any", ""},
		"full":                  {naming([][]string{{"in", "full"}}), "", "0/11 nodes are available: 1 Insufficient cpu, 10 node(s) didn't satisfy plugin(s) [NodeAffinity]."},
		"gone":                  {naming([][]string{{"in", "gone"}}), "", "0/11 nodes are available: 11 node(s) didn't satisfy plugin(s) [NodeAffinity]."},
		"contradiction":         {naming([][]string{{"in", "n1"}, {"in", "n2"}}), "", "0/11 nodes are available: pod affinity terms conflict."},
	} {
		t.Run(name, func(t *testing.T) {
			cl := newCluster(2)
			for i := range 10 {
				cl.setNode(makeNode(fmt.Sprintf("n%d", i)))
			}
			cl.setNode(makeNode("full", allocatable("cpu", "0", "pods", "10")))
			n, why := cl.place(newPodInfo(makePod("p", c.pod, requesting("cpu", "1")), usual))
			switch {
			case c.node == "any" && n == nil, c.node != "any" && c.node != "" && (n == nil || n.name != c.node):
				t.Errorf("got %v, %v, want %s", n, why, c.node)
			case c.node == "" && (why == nil || why.Error() != c.want):
				t.Errorf("got  %v\nwant %s", why, c.want)
			case c.node != "any" && cl.next != 0:
				t.Errorf("the next search starts at %d, want 0: pods that name their node say nothing of where others go", cl.next)
			}
		})
	}
}

// A DaemonSet's pod may evict from its node, and nobody from another.
func TestAPodPreemptsOnlyWhereItIsPinned(t *testing.T) {
	c := newCore(100)
	for i := range 5 {
		name := fmt.Sprintf("n%d", i)
		c.cluster.setNode(makeNode(name, allocatable("cpu", "1", "pods", "10")))
		c.cluster.bound(makePod("low-"+name, on(name), requesting("cpu", "1")))
	}
	pod := makePod("daemon", naming([][]string{{"in", "n3"}}), requesting("cpu", "1"), priority(10))
	best, why := c.bestCandidate(newPodInfo(pod, usual))
	if best == nil || best.node.name != "n3" {
		t.Fatalf("got %v, %v, want n3", best, why)
	}
	c.cluster.bound(makePod("high", on("n4"), requesting("cpu", "1"), priority(10)))
	c.cluster.removeNode("n3")
	if best, why := c.bestCandidate(newPodInfo(pod, usual)); best != nil || why.Error() != "0/4 nodes are available: 4 Preemption is not helpful for scheduling." {
		t.Errorf("without its node: got %v, %v", best, why)
	}
}
