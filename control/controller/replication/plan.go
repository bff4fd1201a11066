package replication

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// burst bounds how many pods one reconcile creates or deletes, so that one huge
// controller does not keep others waiting.
const burst = 500

// plan is what brings a controller's pods to what it asks for.
type plan struct {
	// adopt are pods that match and nobody keeps; release are its own that
	// ceased to match. Both come first: the rest counts on them.
	adopt, release []*corev1.Pod
	create         int
	remove         []*corev1.Pod
	// more says that burst has cut create or remove short.
	more   bool
	status corev1.ReplicationControllerStatus
	// again is when a pod will have been ready long enough to be available, 0 for
	// no such pod.
	again time.Duration
}

// makePlan looks at a controller, the pods that it keeps, and those in its
// namespace that nobody keeps. Pods that have finished or are being deleted do
// not count: they are replaced at once.
func makePlan(rc *corev1.ReplicationController, kept, loose []*corev1.Pod, now time.Time) plan {
	var p plan
	selector := labels.SelectorFromSet(rc.Spec.Selector)
	if len(rc.Spec.Selector) == 0 {
		selector = labels.Nothing()
	}
	deleting := rc.DeletionTimestamp != nil
	var active []*corev1.Pod
	for _, pod := range kept {
		switch {
		case !selector.Matches(labels.Set(pod.Labels)):
			if !deleting {
				p.release = append(p.release, pod)
			}
		case isActive(pod):
			active = append(active, pod)
		}
	}
	for _, pod := range loose {
		if !deleting && isActive(pod) && selector.Matches(labels.Set(pod.Labels)) {
			p.adopt = append(p.adopt, pod)
			active = append(active, pod)
		}
	}

	if want := wanted(rc); !deleting {
		switch {
		case len(active) < want:
			p.create = min(want-len(active), burst)
			p.more = want-len(active) > burst
		case len(active) > want:
			surplus := len(active) - want
			rank(active, now)
			p.remove = slices.Clone(active[:min(surplus, burst)])
			p.more = surplus > burst
		}
	}
	p.status, p.again = countUp(rc, active, now)
	return p
}

// wanted is spec.replicas, 1 when it is left out.
func wanted(rc *corev1.ReplicationController) int {
	if rc.Spec.Replicas == nil {
		return 1
	}
	return int(*rc.Spec.Replicas)
}

func isActive(pod *corev1.Pod) bool {
	return pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed && pod.DeletionTimestamp == nil
}

// countUp is the controller's status, with the conditions that it has, and when
// it will change for no other reason than time.
func countUp(rc *corev1.ReplicationController, active []*corev1.Pod, now time.Time) (corev1.ReplicationControllerStatus, time.Duration) {
	status := corev1.ReplicationControllerStatus{
		Replicas:           int32(len(active)),
		ObservedGeneration: rc.Generation,
		Conditions:         rc.Status.Conditions,
	}
	var again time.Duration
	settle := time.Duration(rc.Spec.MinReadySeconds) * time.Second
	var template labels.Selector = labels.Everything()
	if rc.Spec.Template != nil {
		template = labels.SelectorFromSet(rc.Spec.Template.Labels)
	}
	for _, pod := range active {
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		since, ready := readySince(pod)
		if !ready {
			continue
		}
		status.ReadyReplicas++
		left := time.Duration(0)
		if settle > 0 {
			left = since.Add(settle).Sub(now)
		}
		if left <= 0 {
			status.AvailableReplicas++
		} else if again == 0 || left < again {
			again = left
		}
	}
	return status, again
}

func readySince(pod *corev1.Pod) (time.Time, bool) {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady {
			return c.LastTransitionTime.Time, c.Status == corev1.ConditionTrue
		}
	}
	return time.Time{}, false
}

// setFailure notes in status that bringing the pods about failed, or that it
// does no longer.
func setFailure(status *corev1.ReplicationControllerStatus, reason string, err error, now time.Time) {
	at := slices.IndexFunc(status.Conditions, func(c corev1.ReplicationControllerCondition) bool {
		return c.Type == corev1.ReplicationControllerReplicaFailure
	})
	switch {
	case err == nil && at >= 0:
		status.Conditions = slices.Delete(slices.Clone(status.Conditions), at, at+1)
		if len(status.Conditions) == 0 {
			status.Conditions = nil
		}
	case err != nil && at < 0:
		status.Conditions = append(slices.Clone(status.Conditions), corev1.ReplicationControllerCondition{
			Type:               corev1.ReplicationControllerReplicaFailure,
			Status:             corev1.ConditionTrue,
			LastTransitionTime: metav1.NewTime(now),
			Reason:             reason,
			Message:            err.Error(),
		})
	}
}
