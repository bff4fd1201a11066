package disruption

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/musterhq/muster/control/controller"
)

// disruptionTimeout is how long a pod that was given leave to go is taken for gone.
const disruptionTimeout = 2 * time.Minute

// expected are the pods of a budget's owners: how many there should be, and whether
// some of the budget's pods have no owner, so that nobody can say.
type expected struct {
	count     int32
	unmanaged bool
}

// needsOwners: a share of pods, or a number that may lack, is counted from what
// their owners ask for; a number that must be there is not.
func needsOwners(spec *policyv1.PodDisruptionBudgetSpec) bool {
	return spec.MaxUnavailable != nil || spec.MinAvailable != nil && spec.MinAvailable.Type == intstr.String
}

// makeStatus works out a budget's status from the pods that it selects, and when it
// will change for no other reason than time, 0 for never.
func makeStatus(budget *policyv1.PodDisruptionBudget, pods []*corev1.Pod, owners expected, now time.Time) (policyv1.PodDisruptionBudgetStatus, time.Duration) {
	status := policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: budget.Generation,
		ExpectedPods:       owners.count,
		DisruptedPods:      map[string]metav1.Time{},
	}
	// What does not parse is refused when it is stored, and counts as 0.
	scaled := func(n *intstr.IntOrString) int32 {
		count, _ := intstr.GetScaledValueFromIntOrPercent(n, int(owners.count), true)
		return int32(count)
	}
	switch spec := budget.Spec; {
	case spec.MaxUnavailable != nil:
		status.DesiredHealthy = max(0, owners.count-scaled(spec.MaxUnavailable))
	case spec.MinAvailable != nil && spec.MinAvailable.Type == intstr.String:
		status.DesiredHealthy = scaled(spec.MinAvailable)
	case spec.MinAvailable != nil:
		status.DesiredHealthy, status.ExpectedPods = spec.MinAvailable.IntVal, int32(len(pods))
	}
	var again time.Duration
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil {
			continue
		}
		if at, going := budget.Status.DisruptedPods[pod.Name]; going {
			if left := at.Add(disruptionTimeout).Sub(now); left >= 0 {
				status.DisruptedPods[pod.Name] = at
				if left += time.Millisecond; again == 0 || left < again {
					again = left
				}
				continue
			}
		}
		if _, ready := controller.ReadySince(pod); ready {
			status.CurrentHealthy++
		}
	}
	// Without pods nothing may go: the first may be there before this is looked at again.
	if allowed := status.CurrentHealthy - status.DesiredHealthy; status.ExpectedPods > 0 && allowed > 0 {
		status.DisruptionsAllowed = allowed
	}
	status.Conditions = append(status.Conditions, budget.Status.Conditions...)
	c := metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason,
		ObservedGeneration: budget.Generation, LastTransitionTime: metav1.NewTime(now),
	}
	if status.DisruptionsAllowed > 0 {
		c.Status, c.Reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
	}
	meta.SetStatusCondition(&status.Conditions, c)
	return status, again
}

// failedStatus allows nothing while nobody can say how many pods there should be.
func failedStatus(budget *policyv1.PodDisruptionBudget, err error, now time.Time) policyv1.PodDisruptionBudgetStatus {
	status := *budget.Status.DeepCopy()
	status.DisruptionsAllowed = 0
	meta.SetStatusCondition(&status.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: err.Error(), ObservedGeneration: status.ObservedGeneration, LastTransitionTime: metav1.NewTime(now),
	})
	return status
}
