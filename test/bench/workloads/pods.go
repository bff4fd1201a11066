package main

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Pods are those of upstream's scheduler_perf (test/integration/scheduler_perf
// of k8s.io/kubernetes), so that figures can be held against others'.

// Namespaces as there: what is there before is in the first, what is measured
// in the second.
const (
	namespaceBefore   = "sched-0"
	namespaceMeasured = "sched-1"
	// What Deployments make is in one of its own.
	namespaceDeployed = "deployed"
)

// team is the label that namespace selectors look for.
var team = map[string]string{"team": "devops"}

// podDefault is pod-default.yaml.
func podDefault() *corev1.Pod {
	return podOf("100m", nil)
}

// podOf asks for so much of a processor, and as much memory as upstream's do.
func podOf(cpu string, labels map[string]string) *corev1.Pod {
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("500Mi")}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "pause", Image: "registry.k8s.io/pause:3.10.2", Ports: []corev1.ContainerPort{{ContainerPort: 80}},
			Resources: corev1.ResourceRequirements{Requests: room, Limits: room},
		}}},
	}
}

// podSpreading is pod-with-topology-spreading.yaml, or the preferred one.
func podSpreading(action corev1.UnsatisfiableConstraintAction) *corev1.Pod {
	blue := map[string]string{"color": "blue"}
	p := podOf("100m", blue)
	p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: action, LabelSelector: &metav1.LabelSelector{MatchLabels: blue},
	}}
	return p
}

// affine is how pods of one colour like each other, or don't.
type affine struct {
	color     string
	key       string // of the topology
	anti      bool
	preferred bool
	// selector says that the namespaces are chosen by their labels instead of named.
	selector bool
}

// The files of upstream's that these are.
var (
	podAffinity              = affine{color: "blue", key: corev1.LabelTopologyZone}             // pod-with-pod-affinity.yaml
	podAntiAffinity          = affine{color: "green", key: corev1.LabelHostname, anti: true}    // pod-with-pod-anti-affinity.yaml
	podPreferredAffinity     = affine{color: "red", key: corev1.LabelHostname, preferred: true} // pod-with-preferred-pod-affinity.yaml
	podPreferredAntiAffinity = affine{color: "yellow", key: corev1.LabelHostname, anti: true, preferred: true}
)

// bySelector is the pod of the file that ends in -ns-selector.yaml.
func (a affine) bySelector() affine {
	a.selector = true
	return a
}

func (a affine) pod() *corev1.Pod {
	labels := map[string]string{"color": a.color}
	p := podOf("100m", labels)
	term := corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{MatchLabels: labels}, TopologyKey: a.key}
	if a.selector {
		term.NamespaceSelector = &metav1.LabelSelector{MatchLabels: team}
	} else {
		term.Namespaces = []string{namespaceMeasured, namespaceBefore}
	}
	required, preferred := []corev1.PodAffinityTerm{term}, []corev1.WeightedPodAffinityTerm(nil)
	if a.preferred {
		required, preferred = nil, []corev1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: term}}
	}
	p.Spec.Affinity = &corev1.Affinity{}
	if a.anti {
		p.Spec.Affinity.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: required, PreferredDuringSchedulingIgnoredDuringExecution: preferred}
	} else {
		p.Spec.Affinity.PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: required, PreferredDuringSchedulingIgnoredDuringExecution: preferred}
	}
	return p
}

// podLow is pod-low-priority.yaml: four of them fill a node, and they go at once.
func podLow() *corev1.Pod {
	p := podOf("900m", nil)
	p.Spec.TerminationGracePeriodSeconds = new(int64)
	return p
}

// podHigh is pod-high-priority.yaml: it needs the room of three of those.
func podHigh() *corev1.Pod {
	p := podOf("3", nil)
	p.Spec.PriorityClassName = highPriority
	return p
}

func podName(i int) string { return fmt.Sprintf("pod-%06d", i) }
