package scheduler

import (
	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
)

// taintToleration refuses nodes with a NoSchedule or NoExecute taint that the
// pod does not tolerate, and prefers those with fewer such PreferNoSchedule
// taints.
//
// Readiness is part of it: a node whose Ready condition is not True counts as
// tainted not-ready:NoSchedule before the node lifecycle controller has written
// that taint, so that no pod slips in between and tolerations mean the same
// before and after.
type taintToleration struct{}

func (taintToleration) name() string          { return "TaintToleration" }
func (taintToleration) applies(*podInfo) bool { return true }

func (taintToleration) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	for i := range n.hardTaints {
		if !tolerates(p.pod.Spec.Tolerations, &n.hardTaints[i]) {
			return append(reasons, "node(s) had untolerated taint(s)")
		}
	}
	return reasons
}

func (taintToleration) tells(*podInfo) bool { return true }

func (taintToleration) scores(_ *cluster, p *podInfo, nodes []*nodeInfo, scores []int64) []int64 {
	from := len(scores)
	for _, n := range nodes {
		var untolerated int64
		for i := range n.softTaints {
			if !tolerates(p.softTolerations, &n.softTaints[i]) {
				untolerated++
			}
		}
		scores = append(scores, untolerated)
	}
	normalizeByMax(scores[from:], true)
	return scores
}

func tolerates(tolerations []corev1.Toleration, taint *corev1.Taint) bool {
	for i := range tolerations {
		if tolerations[i].ToleratesTaint(logr.Discard(), taint, true) {
			return true
		}
	}
	return false
}

// taintsOf splits a node's taints into those that refuse pods and those that
// only put them off.
func taintsOf(node *corev1.Node) (hard, soft []corev1.Taint) {
	told := false // that the node is not ready
	for _, t := range node.Spec.Taints {
		switch t.Effect {
		case corev1.TaintEffectPreferNoSchedule:
			soft = append(soft, t)
		case corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute:
			hard = append(hard, t)
			told = told || t.Effect == corev1.TaintEffectNoSchedule &&
				(t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable)
		}
	}
	if !told && !ready(node) {
		hard = append(hard, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
	}
	return hard, soft
}

func ready(node *corev1.Node) bool {
	for i := range node.Status.Conditions {
		if c := &node.Status.Conditions[i]; c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
