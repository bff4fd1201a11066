package scheduler

import (
	"context"
	"errors"
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const reportWorkers = 4

// reports tells users why their pods wait: the condition PodScheduled=False and
// an event, written beside the decisions and only when what they say is new. It
// holds the last message of each pod that is not written yet.
type reports struct {
	scheduler *Scheduler
	loop      *controller.Loop[types.NamespacedName]

	mu      sync.Mutex
	waiting map[types.NamespacedName]report
}

type report struct {
	uid             types.UID
	reason, message string
}

// reasonPaused is the reason of a pod's condition while scheduling is paused.
const reasonPaused = "SchedulingPaused"

func newReports(s *Scheduler) *reports {
	r := &reports{scheduler: s, waiting: make(map[types.NamespacedName]report)}
	r.loop = controller.NewLoop("scheduler-reports", reportWorkers, s.log, r.write)
	return r
}

// tell asks for a report; it never waits.
func (r *reports) tell(pod *corev1.Pod, reason, message string) {
	if says(pod, reason, message) {
		return
	}
	k := key(pod)
	r.mu.Lock()
	r.waiting[k] = report{pod.UID, reason, message}
	r.mu.Unlock()
	r.loop.Add(k)
}

// withdraw drops the reports of a reason that are not written yet.
func (r *reports) withdraw(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.waiting, func(_ types.NamespacedName, rep report) bool { return rep.reason == reason })
}

// errSettled: there is nothing (any more) to report.
var errSettled = errors.New("settled")

func (r *reports) write(ctx context.Context, k types.NamespacedName) error {
	r.mu.Lock()
	rep, ok := r.waiting[k]
	r.mu.Unlock()
	if !ok {
		return nil
	}
	var told *corev1.Pod
	_, _, err := r.scheduler.registry.Update(ctx, resource.Pods, k.Namespace, k.Name, "status", func(current store.Object) (store.Object, error) {
		pod := current.(*corev1.Pod)
		if pod.UID != rep.uid || pod.Spec.NodeName != "" || pod.DeletionTimestamp != nil || says(pod, rep.reason, rep.message) {
			return nil, errSettled
		}
		setUnscheduled(pod, rep.reason, rep.message, metav1.Now())
		told = pod
		return pod, nil
	}, resource.UpdateOptions{})
	switch {
	case err == nil:
		r.scheduler.events.Event(store.Pods, told, corev1.EventTypeWarning, "FailedScheduling", rep.message)
	case errors.Is(err, errSettled), apierrors.IsNotFound(err):
	default:
		return err
	}
	r.mu.Lock()
	if r.waiting[k] == rep {
		delete(r.waiting, k)
	}
	r.mu.Unlock()
	return nil
}

// says reports whether the pod's condition tells this already.
func says(pod *corev1.Pod, reason, message string) bool {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodScheduled {
			return c.Status == corev1.ConditionFalse && c.Reason == reason && c.Message == message
		}
	}
	return false
}

// setUnscheduled changes the pod, which must be the caller's own.
func setUnscheduled(pod *corev1.Pod, reason, message string, now metav1.Time) {
	condition := corev1.PodCondition{
		Type:               corev1.PodScheduled,
		ObservedGeneration: pod.Generation,
		Status:             corev1.ConditionFalse,
		LastTransitionTime: now,
		Reason:             reason,
		Message:            message,
	}
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		if c.Type != corev1.PodScheduled {
			continue
		}
		if c.Status == condition.Status {
			condition.LastTransitionTime = c.LastTransitionTime
		}
		*c = condition
		return
	}
	pod.Status.Conditions = append(pod.Status.Conditions, condition)
}
