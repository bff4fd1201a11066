package resource

import (
	"bytes"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/kube"
)

// PodStatusUpdate is what a node reports of a pod that is bound to it.
type PodStatusUpdate struct {
	Namespace, Name string
	UID             types.UID
	Node            string
	Status          corev1.PodStatus
}

// agentConditions are the conditions that only the pod's node knows: one that a
// report leaves out is gone.
var agentConditions = []corev1.PodConditionType{
	corev1.PodReady, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReadyToStartContainers,
}

// UpdatePodStatus stores one report. A pod that is gone, or that is not this
// one or not this node's any more, is NotFound: the node should let it go.
func (r *Registry) UpdatePodStatus(ctx context.Context, report PodStatusUpdate) error {
	return r.UpdatePodStatuses(ctx, []PodStatusUpdate{report})[0]
}

// UpdatePodStatuses stores many reports, at most one of each pod, with one
// batch of writes, and answers for each. A report that changes nothing writes nothing. The parts of a status
// that are not the node's to say are kept: see mergePodStatus.
func (r *Registry) UpdatePodStatuses(ctx context.Context, reports []PodStatusUpdate) []error {
	changes := make([]podChange, len(reports))
	for i, report := range reports {
		changes[i] = podChange{namespace: report.Namespace, name: report.Name, apply: func(pod *corev1.Pod) error {
			if pod.UID != report.UID || pod.Spec.NodeName != report.Node {
				return apierrors.NewNotFound(Pods.Spec.Resource, report.Name)
			}
			old := *pod
			pod.Status = mergePodStatus(&report.Status, &old.Status)
			kube.Default(pod) // podIP and podIPs agree
			if errs := kube.ValidatePodStatusUpdate(ctx, pod, &old); len(errs) > 0 {
				return apierrors.NewInvalid(Pods.Spec.Kind.GroupKind(), pod.Name, errs)
			}
			recordReport(pod, &old)
			return nil
		}}
	}
	return r.changePods(ctx, false, changes)
}

// recordReport takes from others what a report changes of the status that they
// own. A status that is nobody's stays so: the kubelet's entry would double the
// bytes of a pod's managed fields, and only a user who applies to a pod's status
// what its node says could tell.
func recordReport(pod, old *corev1.Pod) {
	for _, m := range old.ManagedFields {
		if m.FieldsV1 != nil && bytes.Contains(m.FieldsV1.GetRawBytes(), []byte(`"f:status"`)) {
			Pods.manageFields("status", old, pod, "kubelet")
			Pods.keepTimes("status", pod, old)
			return
		}
	}
}

// mergePodStatus is the stored status with a node's report taken over. A node
// has no say in whether the pod was scheduled, in conditions that others set,
// or in an end that has already been declared: a pod counted as failed was
// replaced, and must not come back to life.
func mergePodStatus(report, stored *corev1.PodStatus) corev1.PodStatus {
	merged := *report.DeepCopy()
	merged.Conditions = mergeConditions(report.Conditions, stored.Conditions)
	merged.NominatedNodeName = stored.NominatedNodeName
	merged.QOSClass = stored.QOSClass
	keepPodStatus(&merged, stored)
	if stored.Phase == corev1.PodFailed || stored.Phase == corev1.PodSucceeded {
		merged.Phase, merged.Reason, merged.Message = stored.Phase, stored.Reason, stored.Message
	}
	if merged.StartTime == nil {
		merged.StartTime = stored.StartTime
	}
	return merged
}

// mergeConditions keeps the stored order, so that a report that says the same
// again changes no byte.
func mergeConditions(reported, stored []corev1.PodCondition) []corev1.PodCondition {
	var merged []corev1.PodCondition
	find := func(list []corev1.PodCondition, t corev1.PodConditionType) int {
		return slices.IndexFunc(list, func(c corev1.PodCondition) bool { return c.Type == t })
	}
	for _, old := range stored {
		at := find(reported, old.Type)
		switch {
		case old.Type == corev1.PodScheduled:
			merged = append(merged, old)
		case at >= 0:
			merged = append(merged, reported[at])
		case !slices.Contains(agentConditions, old.Type):
			merged = append(merged, old)
		}
	}
	for _, c := range reported {
		// Only of a pod that was created with its node does the node say it first.
		if find(stored, c.Type) < 0 && (c.Type != corev1.PodScheduled || c.Status == corev1.ConditionTrue) {
			merged = append(merged, c)
		}
	}
	return merged
}
