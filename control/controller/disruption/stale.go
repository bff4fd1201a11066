package disruption

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
)

// staleAfter is how long a pod may be about to be disrupted, as its condition says,
// without being deleted. Then whoever wrote that has given it up, or has died.
const staleAfter = 2 * time.Minute

// staleIn is when what a pod's condition says is taken back; false if it is not to be. A
// node's own word stands, because how long it takes is the node's affair.
func staleIn(pod *corev1.Pod, now time.Time) (time.Duration, bool) {
	if pod.DeletionTimestamp != nil || controller.HasFinished(pod) {
		return 0, false
	}
	c := disruptionTarget(pod)
	if c == nil || c.Status != corev1.ConditionTrue || c.Reason == corev1.PodReasonTerminationByKubelet {
		return 0, false
	}
	return max(staleAfter-now.Sub(c.LastTransitionTime.Time), 0), true
}

func disruptionTarget(pod *corev1.Pod) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.DisruptionTarget {
			return c
		}
	}
	return nil
}

// clearStale takes back what nobody acts on any more.
func (c *Controller) clearStale(ctx context.Context, key types.NamespacedName) error {
	pod, ok := c.caches.Pods.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	wait, stale := staleIn(pod, time.Now())
	switch {
	case !stale:
		return nil
	case wait > 0:
		c.stale.AddAfter(key, wait)
		return nil
	}
	return controller.Change(ctx, c.registry, resource.Pods, pod, "status", func(now *corev1.Pod) bool {
		if wait, stale := staleIn(now, time.Now()); !stale || wait > 0 {
			return false
		}
		*disruptionTarget(now) = corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse,
			ObservedGeneration: now.Generation, LastTransitionTime: metav1.Now(),
		}
		return true
	})
}
