package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/nodedeclaredfeatures"
	"k8s.io/component-helpers/nodedeclaredfeatures/features"
)

// declaredFeatures refuses nodes that do not say in status.declaredFeatures that
// they can do what the pod asks for, of what not every agent can do yet: an agent
// would take the pod and pass over what it does not know.
type declaredFeatures struct{}

func (declaredFeatures) name() string            { return "NodeDeclaredFeatures" }
func (declaredFeatures) applies(p *podInfo) bool { return len(p.features) > 0 }

func (declaredFeatures) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	for _, feature := range p.features {
		if !slices.Contains(n.node.Status.DeclaredFeatures, feature) {
			return append(reasons, "node(s) didn't match Pod's required features")
		}
	}
	return reasons
}

// featuresOf are what the pod asks of an agent, by upstream's list; nil for nearly
// every pod. The list holds nothing that all agents of this version can do.
func featuresOf(pod *corev1.Pod) (names []string) {
	info := nodedeclaredfeatures.PodInfo{Spec: &pod.Spec}
	for _, f := range features.AllFeatures {
		if f.InferForScheduling(&info) {
			names = append(names, f.Name())
		}
	}
	return names
}
