package scheduler

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestSnapshotTellsEveryRefusalAndScore(t *testing.T) {
	s := NewSnapshot(State{
		Nodes: []*corev1.Node{
			makeNode("c"),
			makeNode("a", tainted("k", "NoSchedule"), allocatable("cpu", "1", "memory", "1Gi", "pods", "0")),
			makeNode("b"),
		},
		Pods: []*corev1.Pod{
			makePod("q", on("b"), requesting("cpu", "2", "memory", "4Gi")),
			makePod("ended", on("c"), requesting("cpu", "4"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
			makePod("waiting", requesting("cpu", "4")),
		},
	})
	pod := makePod("p", requesting("cpu", "2", "memory", "4Gi"))
	got := s.Ask(pod)
	if got.Best != "c" || len(got.Nodes) != 3 || got.Nodes[0].Node != "a" || got.Nodes[2].Node != "c" {
		t.Fatalf("got %+v, want a, b, c with c the best", got)
	}
	refusals := got.Nodes[0].Refusals
	if len(refusals) != 2 || refusals[0].Filter != "TaintToleration" || refusals[1].Filter != "NodeResourcesFit" ||
		!slices.Equal(refusals[1].Reasons, []string{"Too many pods", "Insufficient cpu", "Insufficient memory"}) {
		t.Errorf("a refuses with %+v, want its taint and all that is short", refusals)
	}
	for _, n := range got.Nodes[1:] {
		var sum int64
		for _, score := range n.Scores {
			sum += score.Weighted
		}
		if len(n.Refusals) > 0 || len(n.Scores) < 2 || n.Total != sum {
			t.Errorf("%+v, want no refusal and a total of %d", n, sum)
		}
	}

	s.Assume(pod, "c")
	other := makePod("other", requesting("cpu", "3"))
	if got := s.Ask(other); got.Best != "" || pod.Spec.NodeName != "" {
		t.Errorf("with c half full: %q is the best, want none; the pod says %q, want it unchanged", got.Best, pod.Spec.NodeName)
	}
	s.Remove(pod)
	if got := s.Ask(other); got.Best != "c" {
		t.Errorf("with c empty again: %q is the best, want c", got.Best)
	}
}
