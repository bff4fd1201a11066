package scheduler

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
)

func selecting(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{key: value} }
}

func matching(key, value string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
}

// apart from pods of the app, in the same zone.
func apart(app string, change ...func(*corev1.PodAffinityTerm)) func(*corev1.Pod) {
	term := corev1.PodAffinityTerm{TopologyKey: "zone", LabelSelector: matching("app", app)}
	for _, f := range change {
		f(&term)
	}
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}}
	}
}

// near pods of the app, in the same zone.
func near(app string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
				{TopologyKey: "zone", LabelSelector: matching("app", app)}}}}
	}
}

// evenly over zones, counting all nodes whichever the pod itself takes.
func evenly(app string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			TopologyKey: "zone", MaxSkew: 1, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: matching("app", app),
			NodeAffinityPolicy: ptr.To(corev1.NodeInclusionPolicyIgnore),
		}}
	}
}

// What happens on one node lets pods in on another, of the same domain or any.
// Nothing happens on the node itself, so nothing else would wake who waits.
func TestPodsKeptOutByOthersFollow(t *testing.T) {
	zoned := func(name, zone string, change ...func(*corev1.Node)) *corev1.Node {
		return makeNode(name, append(change, labelled("zone", zone))...)
	}
	onN2 := selecting(corev1.LabelHostname, "n2")
	for _, c := range []struct {
		what    string
		placed  []*corev1.Pod
		waiting []*corev1.Pod
		then    func(*core)
		want    int // of those that waited
	}{
		{what: "who bars them goes: one after the other", placed: []*corev1.Pod{makePod("a", on("n1"), apart("x"))},
			waiting: []*corev1.Pod{makePod("p", named("app", "x"), onN2), makePod("q", named("app", "x"), onN2), makePod("r", named("app", "x"), onN2)},
			then:    func(c *core) { c.removePod("pod-a") }, want: 3},
		{what: "who they avoid goes", placed: []*corev1.Pod{makePod("a", on("n1"), named("app", "x"))},
			waiting: []*corev1.Pod{makePod("p", apart("x"), onN2), makePod("q", apart("x"), onN2)},
			then:    func(c *core) { c.removePod("pod-a") }, want: 2},
		{what: "who they need comes", waiting: []*corev1.Pod{makePod("p", near("x"), onN2), makePod("q", near("x"), onN2)},
			then: func(c *core) { c.setPod(makePod("a", on("n1"), named("app", "x"))) }, want: 2},
		{what: "who they need gets its label", placed: []*corev1.Pod{makePod("a", on("n1"))}, waiting: []*corev1.Pod{makePod("p", near("x"), onN2)},
			then: func(c *core) { c.setPod(makePod("a", on("n1"), named("app", "x"))) }, want: 1},
		{what: "the only one of its like goes, and they may begin anew",
			placed:  []*corev1.Pod{makePod("a", on("n3"), named("app", "x"))},
			waiting: []*corev1.Pod{makePod("p", near("x"), named("app", "x"), onN2)},
			then:    func(c *core) { c.removePod("pod-a") }, want: 1},
		{what: "the emptiest domain fills", placed: []*corev1.Pod{makePod("a", on("n2"), named("app", "x"))},
			waiting: []*corev1.Pod{makePod("p", named("app", "x"), evenly("x"), onN2), makePod("q", named("app", "x"), evenly("x"), onN2)},
			then:    func(c *core) { c.setPod(makePod("b", on("n3"), named("app", "x"))) }, want: 1},
		{what: "another node of the fullest domain empties", placed: []*corev1.Pod{makePod("a", on("n1"), named("app", "x"))},
			waiting: []*corev1.Pod{makePod("p", named("app", "x"), evenly("x"), onN2)},
			then:    func(c *core) { c.removePod("pod-a") }, want: 1},
		{what: "one of the fullest domain is on its way out", placed: []*corev1.Pod{makePod("a", on("n1"), named("app", "x"))},
			waiting: []*corev1.Pod{makePod("p", named("app", "x"), evenly("x"), onN2)},
			then: func(c *core) {
				c.setPod(makePod("a", on("n1"), named("app", "x"), func(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.Now()) }))
			}, want: 1},
		{what: "the emptiest domain goes", placed: []*corev1.Pod{makePod("a", on("n2"), named("app", "x"))},
			waiting: []*corev1.Pod{makePod("p", named("app", "x"), evenly("x"), onN2)},
			then:    func(c *core) { c.removeNode("n3") }, want: 1},
		{what: "a namespace is relabelled", placed: []*corev1.Pod{makePod("a", on("n1"), named("app", "x"))},
			waiting: []*corev1.Pod{makePod("p", onN2, apart("x", func(t *corev1.PodAffinityTerm) { t.NamespaceSelector = matching("team", "") }))},
			then:    func(c *core) { c.cluster.index.setNamespace("default", labels.Set{"team": "b"}) }, want: 1},
		{what: "one's own label goes", placed: []*corev1.Pod{makePod("a", on("n1"), apart("x"))},
			waiting: []*corev1.Pod{makePod("p", named("app", "x"), onN2)},
			then:    func(c *core) { c.setPod(makePod("p", onN2)) }, want: 1},
		{what: "somebody comes who bars one of two who wait for room",
			placed:  []*corev1.Pod{makePod("full", on("n2"), requesting("cpu", "4"))},
			waiting: []*corev1.Pod{makePod("p", named("app", "x"), onN2, requesting("cpu", "3")), makePod("q", onN2, requesting("cpu", "3"))},
			then: func(c *core) {
				c.setPod(makePod("a", on("n1"), apart("x")))
				c.removePod("pod-full")
			}, want: 1},
	} {
		t.Run(c.what, func(t *testing.T) {
			core := newCore(100)
			core.cluster.index.setNamespace("default", labels.Set{"team": ""})
			for _, n := range []*corev1.Node{zoned("n1", "a"), zoned("n2", "a"), zoned("n3", "b")} {
				core.setNode(n)
			}
			for _, p := range slices.Concat(c.placed, c.waiting) {
				core.setPod(p)
			}
			for {
				d, ok := core.next()
				if !ok {
					break
				}
				if d.diagnosis == nil {
					t.Fatalf("%s went to %s at once", d.entry.pod.Name, d.node)
				}
			}
			c.then(core)
			placed := 0
			for range 10 {
				d, ok := core.next()
				if !ok {
					break
				}
				if d.node == "n2" {
					placed++
				}
			}
			if placed != c.want {
				t.Errorf("%d placed, want %d", placed, c.want)
			}
		})
	}
}

// Ten thousand pods wait for others to go: one that goes wakes no more than can
// take its place, and one that does not.
func TestWhoIsKeptOutByOthersIsNotWokenInVain(t *testing.T) {
	c := newCore(100)
	c.setNode(makeNode("n1", labelled("zone", "a")))
	c.setPod(makePod("first", on("n1"), named("app", "x")))
	for i := range 10_000 {
		c.setPod(makePod(fmt.Sprint("p", i), named("app", "x"), apart("x")))
	}
	for {
		if _, ok := c.next(); !ok {
			break
		}
	}
	c.removePod("pod-first")
	decisions, placed := 0, 0
	for {
		d, ok := c.next()
		if !ok {
			break
		}
		if decisions++; d.node != "" {
			placed++
		}
	}
	if placed != 1 || decisions > 2 {
		t.Errorf("%d of %d decisions placed a pod, want 1 of at most 2", placed, decisions)
	}
}
