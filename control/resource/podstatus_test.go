package resource

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// A pod that was created with its node named was scheduled by nobody: kubelets,
// and agents, say that it is.
func TestNodesSayThatPodsAreScheduledWhichNobodyScheduled(t *testing.T) {
	condition := func(status corev1.ConditionStatus) []corev1.PodCondition {
		return []corev1.PodCondition{{Type: corev1.PodScheduled, Status: status}}
	}
	for _, c := range []struct {
		name             string
		reported, stored []corev1.PodCondition
		want             corev1.ConditionStatus
	}{
		{"never scheduled", condition(corev1.ConditionTrue), nil, corev1.ConditionTrue},
		{"scheduled, whatever the node says", condition(corev1.ConditionFalse), condition(corev1.ConditionTrue), corev1.ConditionTrue},
		{"not scheduled, whatever the node says", condition(corev1.ConditionTrue), condition(corev1.ConditionFalse), corev1.ConditionFalse},
		{"a node cannot say that it is not", condition(corev1.ConditionFalse), nil, ""},
	} {
		var got corev1.ConditionStatus
		for _, condition := range mergeConditions(c.reported, c.stored) {
			got = condition.Status
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
