package scheduler

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What anybody may write down ten thousand times in a pod must cost the scheduler
// about ten thousand times what it costs once: each of these took it a minute when it
// took the square of it. They get the answer that they ask for, and the pod behind them
// gets its node.
func TestRulesByTheThousand(t *testing.T) {
	const many = 10_000
	values := make([]string, many)
	for i := range values {
		values[i] = fmt.Sprint("v", i)
	}
	affinity := func(a corev1.Affinity) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Affinity = &a } }
	in := func(values ...string) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: values}}}
	}
	var (
		terms       []corev1.NodeSelectorTerm
		preferred   []corev1.PreferredSchedulingTerm
		apps, hosts []corev1.PodAffinityTerm
		spread      []corev1.TopologySpreadConstraint
		tolerations []corev1.Toleration
	)
	for _, v := range values {
		terms = append(terms, in(v))
		preferred = append(preferred, corev1.PreferredSchedulingTerm{Weight: 1, Preference: in(v)})
		app := &metav1.LabelSelector{MatchLabels: map[string]string{"app": v}}
		apps = append(apps, corev1.PodAffinityTerm{TopologyKey: corev1.LabelHostname, LabelSelector: app})
		hosts = append(hosts, corev1.PodAffinityTerm{TopologyKey: v, LabelSelector: app})
		spread = append(spread, corev1.TopologySpreadConstraint{TopologyKey: v, MaxSkew: 1, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: app})
		tolerations = append(tolerations, corev1.Toleration{Key: v, Operator: corev1.TolerationOpExists})
	}
	required := func(terms ...corev1.NodeSelectorTerm) func(*corev1.Pod) {
		return affinity(corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms}}})
	}
	for name, test := range map[string]struct {
		rules  func(*corev1.Pod)
		placed bool
	}{
		"node terms":                 {required(terms...), false},
		"values of a node term":      {required(in(values...)), false},
		"preferred node terms":       {affinity(corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: preferred}}), true},
		"affinity terms":             {affinity(corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: apps}}), false},
		"affinity terms, topologies": {affinity(corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: hosts}}), false},
		"anti-affinity terms":        {affinity(corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: apps}}), true},
		"spread constraints":         {func(p *corev1.Pod) { p.Spec.TopologySpreadConstraints = spread }, false},
		"tolerations":                {func(p *corev1.Pod) { p.Spec.Tolerations = tolerations }, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCore(sampleDefault)
			for _, n := range nodeNames(100) {
				c.setNode(makeNode(n, tainted("slow", corev1.TaintEffectPreferNoSchedule)))
			}
			for _, p := range []*corev1.Pod{makePod("hostile", test.rules), makePod("simple")} {
				c.setPod(p)
				d, ok := c.next()
				if want := test.placed || p.Name == "simple"; !ok || d.entry.pod.Name != p.Name || (d.node != "") != want {
					t.Fatalf("%s: decided %v, on node %q, want placed %v", p.Name, ok, d.node, want)
				}
			}
		})
	}
}
