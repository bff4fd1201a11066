package scheduler

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What a pod lacks is said so that somebody can act on it, and what is least to change
// comes first.
func TestExplainSaysWhatWouldHelp(t *testing.T) {
	c := newCore(100)
	c.setNode(makeNode("full"))
	c.setNode(makeNode("small", allocatable("cpu", "1", "memory", "8Gi", "pods", "110")))
	c.setNode(makeNode("tainted", tainted("gpu", "NoSchedule")))
	c.setNode(makeNode("away", unready, func(n *corev1.Node) { n.Spec.Unschedulable = true }))
	c.setNode(makeNode("zoned", labelled("zone", "b")))
	for _, n := range []string{"full", "tainted", "away", "zoned"} {
		if n != "zoned" {
			c.setNode(func() *corev1.Node {
				node := c.cluster.nodes[n].node.DeepCopy()
				node.Labels["zone"] = "a"
				return node
			}())
		}
	}
	c.setPod(makePod("low", on("full"), requesting("cpu", "3"), usingPort("", "TCP", 80)))
	pod := makePod("p", requesting("cpu", "1500m"), usingPort("", "TCP", 80), priority(5), func(p *corev1.Pod) {
		p.Spec.NodeSelector = map[string]string{"zone": "a"}
	})
	c.setPod(pod)
	x := &Explanation{Pod: pod, Needs: map[string][]string{}}
	all(c) // it decides on evictions
	before := len(c.cluster.gained)
	x.fill(c)
	if x.State != PodPreempting || x.Nominated != "full" || x.Preemption.Why != terminating {
		t.Errorf("state %s, nominated to %q, preemption %+v; want it to wait for room on full", x.State, x.Nominated, x.Preemption)
	}
	for node, want := range map[string][]string{
		"full":    {"500m more cpu free (of 4)", "host port 80/TCP free (default/low has it)"},
		"small":   {"a node with 1500m cpu (it has 1 in all)", "label zone=a on the node"},
		"tainted": {"a toleration for gpu:NoSchedule"},
		"away":    {"the node ready", "the node uncordoned"},
		"zoned":   {"label zone=a on the node (it is b)"},
	} {
		if got := x.Needs[node]; !slices.Equal(got, want) {
			t.Errorf("%s: needs %q, want %q", node, got, want)
		}
	}
	if want := []string{"tainted", "zoned", "full", "away", "small"}; !slices.Equal(x.Closest, want) {
		t.Errorf("closest %q, want %q", x.Closest, want)
	}
	if len(c.cluster.gained) != before || len(c.evicting) != 1 {
		t.Error("an explanation changed something")
	}
}

// Of a pod that has a node it says how the nodes would be judged without it.
func TestExplainLeavesOutThePodItself(t *testing.T) {
	c := newCore(100)
	c.setNode(makeNode("n", allocatable("cpu", "2", "memory", "8Gi", "pods", "1")))
	pod := makePod("p", on("n"), requesting("cpu", "2"))
	c.setPod(pod)
	x := &Explanation{Pod: pod, Needs: map[string][]string{}}
	x.fill(c)
	if x.State != PodBound || x.Node != "n" || x.Answer.Best != "n" || len(x.Needs) != 0 {
		t.Errorf("%+v, want it bound to the best node", x)
	}
	if n := c.cluster.nodes["n"]; n.requested.milliCPU != 2000 || len(n.pods) != 1 {
		t.Errorf("the node counts %+v afterwards", n.requested)
	}
}

// Gated, foreign and finished pods are not the scheduler's, and it says so.
func TestExplainSaysWhoseTurnItIs(t *testing.T) {
	c := newCore(100)
	c.setNode(makeNode("n", allocatable("pods", "0")))
	for want, pod := range map[PodState]*corev1.Pod{
		PodGated:         makePod("a", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }),
		PodForeign:       makePod("b", func(p *corev1.Pod) { p.Spec.SchedulerName = "other" }),
		PodFinished:      makePod("c", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }),
		PodUnschedulable: makePod("d"),
	} {
		c.setPod(pod)
		all(c)
		x := &Explanation{Pod: pod, Needs: map[string][]string{}}
		x.fill(c)
		if x.State != want {
			t.Errorf("%s: state %q, want %q", pod.Name, x.State, want)
		}
	}
}
