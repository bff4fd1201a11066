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

// reports tells users why their pods wait: the condition PodScheduled=False, the
// node that a pod is nominated to, and an event, written beside the decisions and
// only when what they say is new. It holds the last report of each pod that is not
// written yet.
type reports struct {
	scheduler *Scheduler
	loop      *controller.Loop[types.NamespacedName]

	mu      sync.Mutex
	waiting map[types.NamespacedName]report
}

type report struct {
	uid             types.UID
	reason, message string  // "": the condition stays as it is
	nominated       *string // nil: that stays as it is
}

// reasonPaused is the reason of a pod's condition while scheduling is paused.
const reasonPaused = "SchedulingPaused"

func newReports(s *Scheduler) *reports {
	r := &reports{scheduler: s, waiting: make(map[types.NamespacedName]report)}
	r.loop = controller.NewLoop("scheduler-reports", reportWorkers, s.log, r.write)
	return r
}

// tell asks for a report about a pod; it never waits.
func (r *reports) tell(pod *corev1.Pod, rep report) {
	rep.uid = pod.UID
	k := key(pod)
	r.mu.Lock()
	defer r.mu.Unlock()
	if before, ok := r.waiting[k]; ok && before.uid == rep.uid && rep.nominated == nil {
		rep.nominated = before.nominated
	} else if !ok && rep.told(pod) {
		return
	}
	r.waiting[k] = rep
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
	var news bool
	_, _, err := r.scheduler.registry.Update(ctx, resource.Pods, k.Namespace, k.Name, "status", func(current store.Object) (store.Object, error) {
		pod := current.(*corev1.Pod)
		if pod.UID != rep.uid || pod.Spec.NodeName != "" || pod.DeletionTimestamp != nil || rep.told(pod) {
			return nil, errSettled
		}
		if news = !rep.said(pod); news {
			setUnscheduled(pod, rep.reason, rep.message, metav1.Now())
		}
		if rep.nominated != nil {
			pod.Status.NominatedNodeName = *rep.nominated
		}
		told = pod
		return pod, nil
	}, resource.UpdateOptions{})
	switch {
	case err == nil && !news:
	case err == nil:
		r.scheduler.eventsBy(told).Event(store.Pods, told, corev1.EventTypeWarning, "FailedScheduling", rep.message)
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

// told says whether the pod's status has all of it already.
func (rep *report) told(pod *corev1.Pod) bool {
	return rep.said(pod) && (rep.nominated == nil || pod.Status.NominatedNodeName == *rep.nominated)
}

// said says whether the pod's condition does.
func (rep *report) said(pod *corev1.Pod) bool {
	if rep.reason == "" {
		return true
	}
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodScheduled {
			return c.Status == corev1.ConditionFalse && c.Reason == rep.reason && c.Message == rep.message
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
