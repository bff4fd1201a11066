package nodelifecycle

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// judged are the conditions that become Unknown when an agent is lost.
var judged = []corev1.NodeConditionType{
	corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
}

func conditionOf(node *corev1.Node, typ corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if c := &node.Status.Conditions[i]; c.Type == typ {
			return c
		}
	}
	return nil
}

func isReady(node *corev1.Node) bool {
	c := conditionOf(node, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// needsUnknown says whether a lost node is still stored as one that reports.
func needsUnknown(node *corev1.Node) bool {
	return slices.ContainsFunc(judged, func(typ corev1.NodeConditionType) bool {
		c := conditionOf(node, typ)
		return c == nil || c.Status != corev1.ConditionUnknown
	})
}

// setUnknown makes the judged conditions Unknown, in upstream's words.
func setUnknown(node *corev1.Node, now time.Time) {
	for _, typ := range judged {
		c := conditionOf(node, typ)
		if c == nil {
			node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{
				Type: typ, Status: corev1.ConditionUnknown,
				Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: metav1.NewTime(now),
			})
			continue
		}
		if c.Status == corev1.ConditionUnknown {
			continue
		}
		c.Status = corev1.ConditionUnknown
		c.Reason, c.Message = "NodeStatusUnknown", "Kubelet stopped posting node status."
		c.LastTransitionTime = metav1.NewTime(now)
	}
}

// managed are the taints that follow from the rest of the node: those of this
// key and effect are this controller's, all others are left alone.
var managed = []corev1.Taint{
	{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeDiskPressure, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodePIDPressure, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeNetworkUnavailable, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute},
}

// applies says whether a managed taint follows from the node's state. A node
// that has not reported yet has none: the scheduler takes it for not ready anyway.
func applies(node *corev1.Node, taint *corev1.Taint) bool {
	is := func(typ corev1.NodeConditionType, status corev1.ConditionStatus) bool {
		c := conditionOf(node, typ)
		return c != nil && c.Status == status
	}
	switch taint.Key {
	case corev1.TaintNodeNotReady:
		return is(corev1.NodeReady, corev1.ConditionFalse)
	case corev1.TaintNodeUnreachable:
		return is(corev1.NodeReady, corev1.ConditionUnknown)
	case corev1.TaintNodeMemoryPressure:
		return is(corev1.NodeMemoryPressure, corev1.ConditionTrue)
	case corev1.TaintNodeDiskPressure:
		return is(corev1.NodeDiskPressure, corev1.ConditionTrue)
	case corev1.TaintNodePIDPressure:
		return is(corev1.NodePIDPressure, corev1.ConditionTrue)
	case corev1.TaintNodeNetworkUnavailable:
		return is(corev1.NodeNetworkUnavailable, corev1.ConditionTrue)
	case corev1.TaintNodeUnschedulable:
		return node.Spec.Unschedulable
	}
	return false
}

// wantedTaints are the node's taints as they should be, and whether they differ
// from those that it has. With hold no pod shall be evicted for the node's
// readiness: its NoExecute taints are left out.
func wantedTaints(node *corev1.Node, hold bool, now time.Time) ([]corev1.Taint, bool) {
	changed := false
	var taints []corev1.Taint
	has := func(t *corev1.Taint) bool {
		return slices.ContainsFunc(taints, func(o corev1.Taint) bool { return o.Key == t.Key && o.Effect == t.Effect })
	}
	wanted := func(t *corev1.Taint) bool {
		return applies(node, t) && !(hold && t.Effect == corev1.TaintEffectNoExecute)
	}
	for _, t := range node.Spec.Taints {
		ours := slices.ContainsFunc(managed, func(o corev1.Taint) bool { return o.Key == t.Key && o.Effect == t.Effect })
		if ours && !wanted(&t) {
			changed = true
			continue
		}
		taints = append(taints, t)
	}
	for _, t := range managed {
		if wanted(&t) && !has(&t) {
			t.TimeAdded = &metav1.Time{Time: now}
			taints = append(taints, t)
			changed = true
		}
	}
	return taints, changed
}

// notReadySince is since when a node is known not to be ready.
func notReadySince(node *corev1.Node) (time.Time, bool) {
	c := conditionOf(node, corev1.NodeReady)
	if c == nil || c.Status == corev1.ConditionTrue {
		return time.Time{}, false
	}
	return c.LastTransitionTime.Time, true
}

// countsAsReady says whether a pod is stored as ready since before its node
// ceased to be.
func countsAsReady(pod *corev1.Pod, since time.Time) bool {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && !c.LastTransitionTime.After(since)
		}
	}
	return false
}

func setNotReady(pod *corev1.Pod, now time.Time) {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady {
			c.Status = corev1.ConditionFalse
			c.LastTransitionTime = metav1.NewTime(now)
		}
	}
}
