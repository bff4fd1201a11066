package deployment

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of conditions, which clients know: upstream's.
const (
	reasonCreated      = "NewReplicaSetCreated"
	reasonFound        = "FoundNewReplicaSet"
	reasonUpdated      = "ReplicaSetUpdated"
	reasonCreateFailed = "ReplicaSetCreateError"
	reasonComplete     = "NewReplicaSetAvailable"
	reasonTimedOut     = "ProgressDeadlineExceeded"
	reasonPaused       = "DeploymentPaused"
	reasonResumed      = "DeploymentResumed"
	reasonEnough       = "MinimumReplicasAvailable"
	reasonTooFew       = "MinimumReplicasUnavailable"
)

// newStatus counts up the replica sets as the plan leaves them, and judges the
// progress since the status before. It also says when time alone will change it.
func newStatus(r *rollout, before appsv1.DeploymentStatus, progress bool, now time.Time) (appsv1.DeploymentStatus, time.Duration) {
	all := r.all()
	status := appsv1.DeploymentStatus{
		ObservedGeneration:  r.d.Generation,
		Replicas:            sum(all, func(set *appsv1.ReplicaSet) int32 { return set.Status.Replicas }),
		ReadyReplicas:       sum(all, func(set *appsv1.ReplicaSet) int32 { return set.Status.ReadyReplicas }),
		AvailableReplicas:   sum(all, available),
		TerminatingReplicas: terminating(all),
		CollisionCount:      before.CollisionCount,
		Conditions:          slices.Clone(before.Conditions),
	}
	if r.fresh != nil {
		status.UpdatedReplicas = r.fresh.Status.Replicas
	}
	status.UnavailableReplicas = max(0, sum(all, replicas)-status.AvailableReplicas)
	if status.AvailableReplicas >= r.want()-r.unavailable() {
		setCondition(&status, newCondition(appsv1.DeploymentAvailable, corev1.ConditionTrue, reasonEnough, "Deployment has minimum availability.", now))
	} else {
		setCondition(&status, newCondition(appsv1.DeploymentAvailable, corev1.ConditionFalse, reasonTooFew, "Deployment does not have minimum availability.", now))
	}
	if !progress {
		return status, 0
	}
	if failure := replicaFailure(r); failure != nil {
		setCondition(&status, *failure)
	} else {
		removeCondition(&status, appsv1.DeploymentReplicaFailure)
	}
	return status, judgeProgress(r, &status, now)
}

// terminating is nil when one of the replica sets has not said how many of its
// pods are.
func terminating(sets []*appsv1.ReplicaSet) *int32 {
	n := int32(0)
	for _, set := range sets {
		switch {
		case set.Status.TerminatingReplicas != nil:
			n += *set.Status.TerminatingReplicas
		case set.Status.ObservedGeneration != 0:
			return nil
		}
	}
	return &n
}

// replicaFailure is what a replica set says about pods that cannot be made, the
// new one's word first.
func replicaFailure(r *rollout) *appsv1.DeploymentCondition {
	sets := r.old
	if r.fresh != nil {
		sets = append([]*appsv1.ReplicaSet{r.fresh}, r.old...)
	}
	for _, set := range sets {
		for _, c := range set.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				return &appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
					LastUpdateTime: c.LastTransitionTime, LastTransitionTime: c.LastTransitionTime,
				}
			}
		}
	}
	return nil
}

// judgeProgress sets the condition Progressing of a rollout. One that was complete
// stays so: pods that fail later are not a rollout that is stuck.
func judgeProgress(r *rollout, status *appsv1.DeploymentStatus, now time.Time) (again time.Duration) {
	if !hasDeadline(r.d) {
		removeCondition(status, appsv1.DeploymentProgressing)
		return 0
	}
	what := fmt.Sprintf("Deployment %q", r.d.Name)
	if r.fresh != nil {
		what = fmt.Sprintf("ReplicaSet %q", r.fresh.Name)
	}
	deadline := time.Duration(*r.d.Spec.ProgressDeadlineSeconds) * time.Second
	current := condition(status, appsv1.DeploymentProgressing)
	done := current != nil && current.Reason == reasonComplete
	switch {
	case done && status.Replicas == status.UpdatedReplicas:
		return 0
	case complete(r.d, status):
		setCondition(status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonComplete, what+" has successfully progressed.", now))
		return 0
	case progressed(&r.d.Status, status):
		c := newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonUpdated, what+" is progressing.", now)
		if current != nil && current.Status == corev1.ConditionTrue {
			c.LastTransitionTime = current.LastTransitionTime
		}
		// Set even for the same reason: its time is what the deadline counts from.
		removeCondition(status, appsv1.DeploymentProgressing)
		setCondition(status, c)
		return deadline + time.Second
	case current == nil || done || current.Reason == reasonTimedOut:
		return 0
	}
	left := current.LastUpdateTime.Add(deadline).Sub(now)
	if left >= 0 {
		return left + time.Second
	}
	setCondition(status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, what+" has timed out progressing.", now))
	return 0
}

// complete: all pods that are wanted are of the present template and available,
// and there are no others.
func complete(d *appsv1.Deployment, status *appsv1.DeploymentStatus) bool {
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	return status.UpdatedReplicas == want && status.Replicas == want && status.AvailableReplicas == want &&
		status.ObservedGeneration >= d.Generation
}

func progressed(before, now *appsv1.DeploymentStatus) bool {
	return now.UpdatedReplicas > before.UpdatedReplicas ||
		now.Replicas-now.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		now.ReadyReplicas > before.ReadyReplicas ||
		now.AvailableReplicas > before.AvailableReplicas
}

// setPaused says in status that the deployment was paused or resumed, from when on
// the deadline counts anew.
func setPaused(d *appsv1.Deployment, status *appsv1.DeploymentStatus, now time.Time) {
	c := condition(status, appsv1.DeploymentProgressing)
	if !hasDeadline(d) || c != nil && c.Reason == reasonTimedOut {
		return
	}
	paused := c != nil && c.Reason == reasonPaused
	switch {
	case d.Spec.Paused && !paused:
		setCondition(status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused", now))
	case !d.Spec.Paused && paused:
		setCondition(status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed", now))
	}
}

// noteFresh says in status that there is a new replica set to wait for.
func noteFresh(r *rollout, status *appsv1.DeploymentStatus, now time.Time) {
	if r.fresh == nil || !hasDeadline(r.d) {
		return
	}
	switch {
	case slices.ContainsFunc(r.steps, func(s step) bool { return s.create }):
		setCondition(status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonCreated, fmt.Sprintf("Created new replica set %q", r.fresh.Name), now))
	case condition(status, appsv1.DeploymentProgressing) == nil:
		setCondition(status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonFound, fmt.Sprintf("Found new replica set %q", r.fresh.Name), now))
	}
}

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != noLimit
}

func newCondition(typ appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string, now time.Time) appsv1.DeploymentCondition {
	at := metav1.NewTime(now)
	return appsv1.DeploymentCondition{Type: typ, Status: status, Reason: reason, Message: message, LastUpdateTime: at, LastTransitionTime: at}
}

func condition(status *appsv1.DeploymentStatus, typ appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == typ {
			return &status.Conditions[i]
		}
	}
	return nil
}

// setCondition leaves a condition with the same status and reason as it is.
func setCondition(status *appsv1.DeploymentStatus, c appsv1.DeploymentCondition) {
	if now := condition(status, c.Type); now != nil {
		if now.Status == c.Status && now.Reason == c.Reason {
			return
		}
		if now.Status == c.Status {
			c.LastTransitionTime = now.LastTransitionTime
		}
	}
	removeCondition(status, c.Type)
	status.Conditions = append(status.Conditions, c)
}

func removeCondition(status *appsv1.DeploymentStatus, typ appsv1.DeploymentConditionType) {
	status.Conditions = slices.DeleteFunc(slices.Clone(status.Conditions), func(c appsv1.DeploymentCondition) bool { return c.Type == typ })
}
