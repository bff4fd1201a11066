package controller

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
)

// IsActive says that a pod counts: it has not finished and is not being deleted.
func IsActive(pod *corev1.Pod) bool {
	return !HasFinished(pod) && pod.DeletionTimestamp == nil
}

// HasFinished says that none of a pod's containers will run again.
func HasFinished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// ReadySince says whether a pod is ready, and since when that is as it is.
func ReadySince(pod *corev1.Pod) (time.Time, bool) {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady {
			return c.LastTransitionTime.Time, c.Status == corev1.ConditionTrue
		}
	}
	return time.Time{}, false
}

// AvailableIn says whether a pod is ready, and how long it takes until it will
// have been for minReadySeconds; it is available when that is 0 or less.
func AvailableIn(pod *corev1.Pod, minReadySeconds int32, now time.Time) (time.Duration, bool) {
	since, ready := ReadySince(pod)
	if !ready || minReadySeconds == 0 {
		return 0, ready
	}
	return since.Add(time.Duration(minReadySeconds) * time.Second).Sub(now), true
}

// ClaimsOf are the names of the claims that a pod uses, with those that are made
// for it.
func ClaimsOf(pod *corev1.Pod) []string {
	var names []string
	for i := range pod.Spec.Volumes {
		switch volume := &pod.Spec.Volumes[i]; {
		case volume.PersistentVolumeClaim != nil:
			names = append(names, volume.PersistentVolumeClaim.ClaimName)
		case volume.Ephemeral != nil:
			names = append(names, ephemeral.VolumeClaimName(pod, volume))
		}
	}
	return names
}
