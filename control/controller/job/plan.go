package job

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
)

const (
	// burst bounds how many pods one reconcile makes or deletes.
	burst = 500
	// uncountedMost bounds the pods that a status notes before they are counted.
	uncountedMost = 500
)

// plan is what to do about a job's pods.
type plan struct {
	create []attempt
	remove []*corev1.Pod
	// uncounted says that the removed ones are not failures: nobody wants them any more.
	uncounted bool
	// again is when there will be more to do, 0 for never.
	again time.Duration
}

// attempt is a pod to make: for an index, or for none (-1), after others for that
// index had failed so often.
type attempt struct {
	index            int
	failures         int
	ignored          int
	tellsOfItsFailed bool
}

// decide works out which pods to make and to delete.
func (v *view) decide() plan {
	switch {
	case v.verdict != nil:
		return plan{remove: v.active}
	case v.job.DeletionTimestamp != nil:
		return plan{}
	case suspended(v.job):
		return plan{remove: v.active, uncounted: true}
	}
	want, active := v.wanted(), int32(len(v.active))
	if remove := v.surplus(int(max(0, active-want))); len(remove) > 0 {
		return plan{remove: remove[:min(len(remove), burst)], uncounted: true, again: v.deadline}
	}
	missing := want - active
	if v.onlyReplacesFailed() {
		missing -= v.terminating
	}
	if missing <= 0 {
		return plan{again: v.deadline}
	}
	perIndex := v.job.Spec.BackoffLimitPerIndex != nil
	if !perIndex {
		failures, last := v.failuresInARow()
		if wait := backOff(failures, last, v.now); wait > 0 {
			return plan{again: sooner(wait, v.deadline)}
		}
	}
	p := plan{again: v.deadline}
	if !isIndexed(v.job) {
		for range min(missing, burst) {
			p.create = append(p.create, attempt{index: -1})
		}
		return p
	}
	for _, i := range v.pending(int(min(missing, burst))) {
		a := attempt{index: i}
		if perIndex {
			a.tellsOfItsFailed = true
			if last := v.delayed[i]; last != nil {
				counted, all := failuresOf(last)
				if wait := backOff(all+1, finishedAt(last), v.now); wait > 0 {
					p.again = sooner(p.again, wait)
					continue
				}
				a.failures, a.ignored = counted, all-counted
				if v.counts(last) {
					a.failures++
				} else {
					a.ignored++
				}
			}
		}
		p.create = append(p.create, a)
	}
	return p
}

// sooner is the shorter of two waits, of which 0 is none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// wanted is how many pods should be active.
func (v *view) wanted() int32 {
	parallelism := ptr.Deref(v.job.Spec.Parallelism, 1)
	if v.job.Spec.Completions == nil {
		// Any success is the beginning of the end: those that run are waited for.
		if v.succeeded > 0 {
			return int32(len(v.active))
		}
		return parallelism
	}
	return max(0, min(*v.job.Spec.Completions-v.succeeded, parallelism))
}

// surplus are active pods to delete: those with an index that another has, or that
// is beyond the job's, and then as many more as to make it atLeast.
func (v *view) surplus(atLeast int) []*corev1.Pod {
	left := slices.Clone(v.active)
	slices.SortFunc(left, missedLeast)
	var remove []*corev1.Pod
	if isIndexed(v.job) {
		last := map[int]*corev1.Pod{} // the one of its index that is missed most stays
		for _, pod := range left {
			last[indexOf(pod)] = pod
		}
		left = slices.DeleteFunc(left, func(pod *corev1.Pod) bool {
			gone := !v.hasPlace(pod) || last[indexOf(pod)] != pod
			if gone {
				remove = append(remove, pod)
			}
			return gone
		})
	}
	if more := atLeast - len(remove); more > 0 {
		remove = append(remove, left[:min(more, len(left))]...)
	}
	return remove
}

// missedLeast puts unbound before bound pods, waiting before running, not ready before ready,
// and the younger before the older.
func missedLeast(a, b *corev1.Pod) int {
	rank := func(pod *corev1.Pod) int {
		r := 0
		if pod.Spec.NodeName != "" {
			r += 4
		}
		if pod.Status.Phase == corev1.PodRunning {
			r += 2
		}
		if _, ready := controller.ReadySince(pod); ready {
			r++
		}
		return r
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// pending are the first indexes that are neither done, nor given up, nor tried now.
func (v *view) pending(most int) []int {
	busy := map[int]bool{}
	for _, pod := range v.pods {
		if controller.IsActive(pod) || v.onlyReplacesFailed() && !controller.HasFinished(pod) {
			busy[indexOf(pod)] = true
		}
	}
	var found []int
	for i := 0; i < v.completions() && len(found) < most; {
		switch next := v.given.after(v.done.after(i)); {
		case next != i:
			i = next
			continue
		case !busy[i]:
			found = append(found, i)
		}
		i++
	}
	return found
}

// outcome is the status to store, and what may be done once it is.
type outcome struct {
	status batchv1.JobStatus
	// release are pods that are in the status now: their finalizer may go.
	release []*corev1.Pod
	ended   *batchv1.JobCondition // the job ends with this status
}

// track works out the status. Pods are counted in two steps, so that none is counted
// twice or not at all, whatever happens in between: noted in the status by their uid;
// and counted once their finalizer, which keeps them there, is gone.
func (v *view) track() outcome {
	o := outcome{status: *v.job.Status.DeepCopy()}
	s := &o.status
	if s.UncountedTerminatedPods == nil {
		s.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	v.setSuspended(s)
	s.Active, s.Ready, s.Terminating = int32(len(v.active)), ptr.To(v.ready), ptr.To(v.terminating)

	tracked := map[types.UID]bool{}
	for _, pod := range v.pods {
		if isTracked(pod) {
			tracked[pod.UID] = true
		}
	}
	count := func(uids *[]types.UID, counter *int32) {
		before := len(*uids)
		*uids = slices.DeleteFunc(slices.Clone(*uids), func(uid types.UID) bool { return !tracked[uid] })
		*counter += int32(before - len(*uids))
		if len(*uids) == 0 {
			*uids = nil
		}
	}
	succeeded := s.Succeeded
	count(&s.UncountedTerminatedPods.Succeeded, &succeeded)
	count(&s.UncountedTerminatedPods.Failed, &s.Failed)
	full := v.noteEnded(&o)
	if isIndexed(v.job) {
		var counted []int
		for _, pod := range o.release {
			if pod.Status.Phase == corev1.PodSucceeded && v.hasPlace(pod) {
				counted = append(counted, indexOf(pod))
			}
		}
		done := v.before.with(counted)
		s.Succeeded, s.CompletedIndexes = int32(done.total()), done.String()
		if v.job.Spec.BackoffLimitPerIndex != nil {
			s.FailedIndexes = ptr.To(v.given.String())
		}
	} else {
		s.Succeeded = succeeded
	}
	v.end(&o, full)
	return o
}

// setSuspended notes when the job began to be active, or ceased to.
func (v *view) setSuspended(s *batchv1.JobStatus) {
	now := metav1.NewTime(v.now)
	if s.StartTime == nil && !suspended(v.job) {
		s.StartTime = &now
	}
	if v.verdict != nil || v.job.DeletionTimestamp != nil {
		return
	}
	c := condition(s, batchv1.JobSuspended)
	switch {
	case suspended(v.job) && (c == nil || c.Status != corev1.ConditionTrue):
		setCondition(s, *newCondition(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended", v.now))
		s.StartTime = nil
	case !suspended(v.job) && c != nil && c.Status == corev1.ConditionTrue:
		setCondition(s, *newCondition(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed", v.now))
		s.StartTime = &now
	}
}

// noteEnded notes pods that have ended, and says which may go. It is true when there
// are more than can be noted at once.
func (v *view) noteEnded(o *outcome) (full bool) {
	u := o.status.UncountedTerminatedPods
	noted := 0
	for _, pod := range v.pods {
		if !isTracked(pod) || !v.mayGo(pod) {
			continue
		}
		if noted+len(u.Succeeded)+len(u.Failed) >= uncountedMost {
			return true
		}
		o.release = append(o.release, pod)
		switch {
		case v.uncounted[pod.UID]:
		case pod.Status.Phase == corev1.PodSucceeded:
			if !isIndexed(v.job) {
				u.Succeeded = append(u.Succeeded, pod.UID)
			} else {
				noted++ // by its index
			}
		case v.hasFailed(pod) || v.verdict != nil && v.verdict.Type != batchv1.JobSuccessCriteriaMet:
			if v.hasPlace(pod) && v.counts(pod) {
				u.Failed = append(u.Failed, pod.UID)
			}
		}
	}
	return false
}

// mayGo: a pod has ended, or nobody waits for its end. The last failed pod of an index
// stays until another is there, which is told how often it failed.
func (v *view) mayGo(pod *corev1.Pod) bool {
	if v.job.DeletionTimestamp != nil || v.verdict != nil || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	return v.hasFailed(pod) && v.delayed[indexOf(pod)] != pod
}

// end brings a verdict about: first the reason is stored, and then, once all pods are
// counted and gone, that the job has ended.
func (v *view) end(o *outcome, full bool) {
	verdict := v.verdict
	if verdict == nil || len(v.active) > 0 {
		return // as long as pods are active their deletion failed
	}
	s := &o.status
	if verdict.Type == batchv1.JobFailureTarget || verdict.Type == batchv1.JobSuccessCriteriaMet {
		if condition(s, verdict.Type) == nil {
			s.Conditions = append(s.Conditions, *verdict)
		}
		typ := batchv1.JobFailed
		if verdict.Type == batchv1.JobSuccessCriteriaMet {
			typ = batchv1.JobComplete
		}
		verdict = newCondition(typ, corev1.ConditionTrue, verdict.Reason, verdict.Message, v.now)
	}
	u := s.UncountedTerminatedPods
	if full || len(o.release) > 0 || len(u.Succeeded)+len(u.Failed) > 0 || v.terminating > 0 {
		return
	}
	setCondition(s, *verdict)
	if verdict.Type == batchv1.JobComplete {
		s.CompletionTime = &verdict.LastTransitionTime
	}
	o.ended = verdict
}

func setCondition(s *batchv1.JobStatus, c batchv1.JobCondition) {
	if now := condition(s, c.Type); now != nil {
		*now = c
		return
	}
	s.Conditions = append(s.Conditions, c)
}

// template makes the template of one attempt.
func (a attempt) template(job *batchv1.Job) *corev1.PodTemplateSpec {
	t := job.Spec.Template.DeepCopy()
	if !slices.Contains(t.Finalizers, batchv1.JobTrackingFinalizer) {
		t.Finalizers = append(t.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if a.index < 0 {
		return t
	}
	addIndexVariable(t.Spec.InitContainers)
	addIndexVariable(t.Spec.Containers)
	index := strconv.Itoa(a.index)
	metav1.SetMetaDataAnnotation(&t.ObjectMeta, batchv1.JobCompletionIndexAnnotation, index)
	metav1.SetMetaDataLabel(&t.ObjectMeta, batchv1.JobCompletionIndexAnnotation, index)
	if a.tellsOfItsFailed {
		metav1.SetMetaDataAnnotation(&t.ObjectMeta, batchv1.JobIndexFailureCountAnnotation, strconv.Itoa(a.failures))
		if a.ignored > 0 {
			metav1.SetMetaDataAnnotation(&t.ObjectMeta, batchv1.JobIndexIgnoredFailureCountAnnotation, strconv.Itoa(a.ignored))
		}
	}
	t.Spec.Hostname = job.Name + "-" + index
	return t
}
