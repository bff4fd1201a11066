package replication

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/controller"
)

// rank puts those pods first that are missed least when some have to go, in
// upstream's order. Related are they and the pods that do the same work.
func rank(pods, related []*corev1.Pod, now time.Time) {
	// Of pods beside others of that work on one node, one goes first.
	beside := make(map[string]int)
	for _, pod := range related {
		if controller.IsActive(pod) {
			beside[pod.Spec.NodeName]++
		}
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(
			cmp.Compare(boolInt(a.Spec.NodeName != ""), boolInt(b.Spec.NodeName != "")),
			cmp.Compare(phaseOrder[a.Status.Phase], phaseOrder[b.Status.Phase]),
			compareReady(a, b),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(beside[b.Spec.NodeName], beside[a.Spec.NodeName]),
			compareReadyTime(a, b, now),
			cmp.Compare(restarts(b), restarts(a)),
			compareAge(a.CreationTimestamp.Time, b.CreationTimestamp.Time, now),
			cmp.Compare(a.UID, b.UID),
		)
	})
}

var phaseOrder = map[corev1.PodPhase]int{corev1.PodPending: 0, corev1.PodUnknown: 1, corev1.PodRunning: 2}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func compareReady(a, b *corev1.Pod) int {
	_, readyA := controller.ReadySince(a)
	_, readyB := controller.ReadySince(b)
	return cmp.Compare(boolInt(readyA), boolInt(readyB))
}

func compareReadyTime(a, b *corev1.Pod, now time.Time) int {
	sinceA, readyA := controller.ReadySince(a)
	sinceB, readyB := controller.ReadySince(b)
	if !readyA || !readyB {
		return 0
	}
	return compareAge(sinceA, sinceB, now)
}

// compareAge puts the younger first, where ages of the same order of magnitude
// count as the same: always taking the youngest would empty the newest node.
// A time that is not known counts as youngest.
func compareAge(a, b, now time.Time) int {
	if a.IsZero() || b.IsZero() {
		return cmp.Compare(boolInt(!a.IsZero()), boolInt(!b.IsZero()))
	}
	return cmp.Compare(magnitude(now.Sub(a)), magnitude(now.Sub(b)))
}

func magnitude(age time.Duration) int64 {
	if age <= 0 {
		return -1
	}
	return int64(math.Log2(float64(age)))
}

// deletionCost is what users say a pod is worth; a value that does not parse
// says nothing.
func deletionCost(pod *corev1.Pod) int64 {
	cost, err := strconv.ParseInt(pod.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return cost
}

func restarts(pod *corev1.Pod) int32 {
	var most int32
	for _, c := range pod.Status.ContainerStatuses {
		most = max(most, c.RestartCount)
	}
	return most
}
