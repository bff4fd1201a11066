package scheduler

import (
	corev1 "k8s.io/api/core/v1"
)

// nodeUnschedulable refuses cordoned nodes, unless the pod tolerates the taint
// that stands for it.
type nodeUnschedulable struct{}

var cordoned = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}

func (nodeUnschedulable) name() string          { return "NodeUnschedulable" }
func (nodeUnschedulable) applies(*podInfo) bool { return true }

func (nodeUnschedulable) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	if n.node.Spec.Unschedulable && !tolerates(p.pod.Spec.Tolerations, &cordoned) {
		return append(reasons, "node(s) were unschedulable")
	}
	return reasons
}
