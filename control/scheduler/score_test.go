package scheduler

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestScoresPrefer(t *testing.T) {
	preferring := func(key, value string, weight int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: weight,
					Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
						{Key: key, Operator: "In", Values: []string{value}}}}}}}}
		}
	}
	for _, c := range []struct {
		what  string
		pod   *corev1.Pod
		nodes []*corev1.Node
		pods  []*corev1.Pod
		want  string
	}{
		{what: "the node with more left", pod: makePod("p", requesting("cpu", "1")),
			nodes: []*corev1.Node{makeNode("a"), makeNode("b")},
			pods:  []*corev1.Pod{makePod("q", on("a"), requesting("cpu", "1", "memory", "2Gi"))}, want: "b"},
		{what: "the node with fewer pods, when none requests anything", pod: makePod("p"),
			nodes: []*corev1.Node{makeNode("a"), makeNode("b")},
			pods:  []*corev1.Pod{makePod("q", on("a"))}, want: "b"},
		{what: "the larger share left, not the larger amount", pod: makePod("p", requesting("cpu", "1")),
			nodes: []*corev1.Node{makeNode("a", allocatable("cpu", "32", "memory", "64Gi", "pods", "110")), makeNode("b")},
			pods:  []*corev1.Pod{makePod("q", on("a"), requesting("cpu", "16", "memory", "32Gi"))}, want: "b"},
		{what: "fewer of the same controller over more left", pod: makePod("p", ownedBy("rc")),
			nodes: []*corev1.Node{makeNode("a"), makeNode("b")},
			pods: []*corev1.Pod{makePod("q", on("a"), ownedBy("rc")),
				makePod("r", on("b"), ownedBy("other"), requesting("cpu", "1", "memory", "2Gi"))}, want: "b"},
		{what: "no PreferNoSchedule taint over fewer of the same controller", pod: makePod("p", ownedBy("rc")),
			nodes: []*corev1.Node{makeNode("a", tainted("k", "PreferNoSchedule")), makeNode("b")},
			pods:  []*corev1.Pod{makePod("q", on("b"), ownedBy("rc"))}, want: "b"},
		{what: "a tolerated PreferNoSchedule taint does not count", pod: makePod("p", ownedBy("rc"), tolerating("k", "")),
			nodes: []*corev1.Node{makeNode("a", tainted("k", "PreferNoSchedule")), makeNode("b")},
			pods:  []*corev1.Pod{makePod("q", on("b"), ownedBy("rc"))}, want: "a"},
		{what: "preferred affinity", pod: makePod("p", preferring("disk", "ssd", 10)),
			nodes: []*corev1.Node{makeNode("a"), makeNode("b", labelled("disk", "ssd"))},
			pods:  []*corev1.Pod{makePod("q", on("b"), requesting("cpu", "1", "memory", "2Gi"))}, want: "b"},
		{what: "the node that has the image", pod: makePod("p"),
			nodes: []*corev1.Node{makeNode("a"), makeNode("b", having("image:latest", 4000<<20))}, want: "b"},
		{what: "a small image does not count", pod: makePod("p"),
			nodes: []*corev1.Node{makeNode("a"), makeNode("b", having("image:latest", 20<<20))},
			pods:  []*corev1.Pod{makePod("q", on("b"))}, want: "a"},
		{what: "balance between cpu and memory", pod: makePod("p", requesting("cpu", "1", "memory", "100Mi")),
			// Both have half of everything left in sum; on a it is memory that is used.
			nodes: []*corev1.Node{makeNode("a"), makeNode("b")},
			pods: []*corev1.Pod{makePod("q", on("a"), requesting("cpu", "1", "memory", "6Gi")),
				makePod("r", on("b"), requesting("cpu", "3", "memory", "2Gi"))}, want: "a"},
	} {
		t.Run(c.what, func(t *testing.T) {
			for _, order := range [][]*corev1.Node{c.nodes, {c.nodes[1], c.nodes[0]}} {
				cl := newCluster(100)
				keep(cl, "rc")
				for _, n := range order {
					cl.setNode(n)
				}
				for _, p := range c.pods {
					cl.bound(p)
				}
				if n, d := cl.place(newPodInfo(c.pod, usual)); d != nil || n.name != c.want {
					t.Errorf("placed on %v (%v), want %s", n, d, c.want)
				}
			}
		})
	}
}

func having(image string, size int64) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{image}, SizeBytes: size})
	}
}

func TestNormalizeByMax(t *testing.T) {
	for _, c := range []struct {
		in, plain, reversed []int64
	}{
		{[]int64{0, 0}, []int64{0, 0}, []int64{100, 100}},
		{[]int64{1, 2, 4}, []int64{25, 50, 100}, []int64{75, 50, 0}},
		{nil, nil, nil},
	} {
		plain, reversed := slices.Clone(c.in), slices.Clone(c.in)
		normalizeByMax(plain, false)
		normalizeByMax(reversed, true)
		if !slices.Equal(plain, c.plain) || !slices.Equal(reversed, c.reversed) {
			t.Errorf("%v: got %v and %v, want %v and %v", c.in, plain, reversed, c.plain, c.reversed)
		}
	}
}

func TestBinPackFillsOneNodeAfterTheOther(t *testing.T) {
	c := newCluster(100)
	c.algorithm = BinPack
	for _, name := range nodeNames(5) {
		c.setNode(makeNode(name))
	}
	used := map[string]int{}
	for i := range 8 {
		p := newPodInfo(makePod(nodeNames(8)[i], requesting("cpu", "1", "memory", "2Gi")), usual)
		n, d := c.place(p)
		if d != nil {
			t.Fatal(d)
		}
		c.assume(p, n)
		used[n.name]++
	}
	if len(used) != 2 {
		t.Errorf("8 pods that fill two nodes lie on %v", used)
	}
}

// Equal pods on equal nodes must end up evenly, also when only a sample of the
// nodes is looked at.
func TestPlaceSpreadsEvenly(t *testing.T) {
	for _, sample := range []int{3, 10, 1000} {
		c := newCluster(sample)
		keep(c, "rc")
		for _, name := range nodeNames(50) {
			c.setNode(makeNode(name))
		}
		for i := range 500 {
			p := newPodInfo(makePod(string(rune('a'+i%26))+nodeNames(500)[i], ownedBy("rc"), requesting("cpu", "100m")), usual)
			n, d := c.place(p)
			if d != nil {
				t.Fatal(d)
			}
			c.assume(p, n)
		}
		for _, n := range c.order {
			if got := len(n.pods); got < 8 || got > 12 {
				t.Errorf("sample %d: %d pods on %s, want about 10", sample, got, n.name)
			}
		}
	}
}
