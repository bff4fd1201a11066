package replication

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
)

// burst bounds how many pods one reconcile creates or deletes, so that one huge
// controller does not keep others waiting.
const burst = 500

// plan is what brings a set's pods to what it asks for.
type plan struct {
	// adopt are pods that match and nobody keeps; release are its own that
	// ceased to match. Both come first: the rest counts on them.
	adopt, release []*corev1.Pod
	create         int
	remove         []*corev1.Pod
	// more says that burst has cut create or remove short.
	more   bool
	status appsv1.ReplicaSetStatus
	// again is when a pod will have been ready long enough to be available, 0 for
	// no such pod.
	again time.Duration
}

// makePlan looks at a set, the pods that it keeps, those in its namespace that
// nobody keeps, and, if some have to go, the pods of sets with the same controller.
// Pods that have finished or are being deleted do not count: they are replaced at once.
func makePlan(set *appsv1.ReplicaSet, kept, loose []*corev1.Pod, siblings func() []*corev1.Pod, now time.Time) plan {
	var p plan
	selector := selectorOf(set)
	deleting := set.DeletionTimestamp != nil
	var active []*corev1.Pod
	terminating := int32(0)
	for _, pod := range kept {
		switch {
		case !selector.Matches(labels.Set(pod.Labels)):
			if !deleting {
				p.release = append(p.release, pod)
			}
		case controller.IsActive(pod):
			active = append(active, pod)
		case !controller.HasFinished(pod):
			terminating++
		}
	}
	for _, pod := range loose {
		if !deleting && controller.IsActive(pod) && selector.Matches(labels.Set(pod.Labels)) {
			p.adopt = append(p.adopt, pod)
			active = append(active, pod)
		}
	}

	if want := int(ptr.Deref(set.Spec.Replicas, 1)); !deleting {
		switch {
		case len(active) < want:
			p.create = min(want-len(active), burst)
			p.more = want-len(active) > burst
		case len(active) > want:
			surplus := len(active) - want
			rank(active, append(siblings(), active...), now)
			p.remove = slices.Clone(active[:min(surplus, burst)])
			p.more = surplus > burst
		}
	}
	p.status, p.again = countUp(set, active, now)
	p.status.TerminatingReplicas = &terminating
	return p
}

// selectorOf selects nothing for a set without a selector, or with one that does
// not parse, which validation lets nobody store.
func selectorOf(set *appsv1.ReplicaSet) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

// countUp is the set's status, with the conditions that it has, and when it will
// change for no other reason than time.
func countUp(set *appsv1.ReplicaSet, active []*corev1.Pod, now time.Time) (appsv1.ReplicaSetStatus, time.Duration) {
	status := appsv1.ReplicaSetStatus{
		Replicas:           int32(len(active)),
		ObservedGeneration: set.Generation,
		Conditions:         set.Status.Conditions,
	}
	var again time.Duration
	template := labels.SelectorFromSet(set.Spec.Template.Labels)
	for _, pod := range active {
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		left, ready := controller.AvailableIn(pod, set.Spec.MinReadySeconds, now)
		if !ready {
			continue
		}
		status.ReadyReplicas++
		if left <= 0 {
			status.AvailableReplicas++
		} else if again == 0 || left < again {
			again = left
		}
	}
	return status, again
}

// setFailure notes in status that bringing the pods about failed, or that it
// does no longer.
func setFailure(status *appsv1.ReplicaSetStatus, reason string, err error, now time.Time) {
	at := slices.IndexFunc(status.Conditions, func(c appsv1.ReplicaSetCondition) bool {
		return c.Type == appsv1.ReplicaSetReplicaFailure
	})
	switch {
	case err == nil && at >= 0:
		status.Conditions = slices.Delete(slices.Clone(status.Conditions), at, at+1)
		if len(status.Conditions) == 0 {
			status.Conditions = nil
		}
	case err != nil && at < 0:
		status.Conditions = append(slices.Clone(status.Conditions), appsv1.ReplicaSetCondition{
			Type:               appsv1.ReplicaSetReplicaFailure,
			Status:             corev1.ConditionTrue,
			LastTransitionTime: metav1.NewTime(now),
			Reason:             reason,
			Message:            err.Error(),
		})
	}
}
