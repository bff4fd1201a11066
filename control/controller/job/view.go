package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
)

// view is a job and its pods at a moment, and what follows from them.
type view struct {
	job *batchv1.Job
	now time.Time

	pods        []*corev1.Pod // all that are its own
	active      []*corev1.Pod
	ready       int32
	terminating int32
	// uncounted are pods that have ended, are noted in the status, and whose finalizer
	// may still be there.
	uncounted map[types.UID]bool

	succeeded, failed int32 // with those that are about to be counted
	done, given       indexes
	before            indexes // done, as the status has it
	// delayed are the failed pods that the next attempts at their indexes follow.
	delayed map[int]*corev1.Pod
	// verdict is why the job is to end, nil while it goes on.
	verdict *batchv1.JobCondition
	// deadline is when it will have been active for too long, 0 for never.
	deadline time.Duration
}

// look works out what follows from a job's pods.
func look(job *batchv1.Job, pods []*corev1.Pod, now time.Time) *view {
	v := &view{job: job, pods: pods, now: now, uncounted: map[types.UID]bool{}}
	if u := job.Status.UncountedTerminatedPods; u != nil {
		for _, uid := range append(slices.Clone(u.Succeeded), u.Failed...) {
			v.uncounted[uid] = true
		}
	}
	v.succeeded, v.failed = job.Status.Succeeded, job.Status.Failed
	if u := job.Status.UncountedTerminatedPods; u != nil {
		v.succeeded += int32(len(u.Succeeded))
		v.failed += int32(len(u.Failed))
	}
	for _, pod := range pods {
		if controller.IsActive(pod) {
			v.active = append(v.active, pod)
			if _, ready := controller.ReadySince(pod); ready {
				v.ready++
			}
		} else if !controller.HasFinished(pod) {
			v.terminating++
		}
		if !v.isNew(pod) {
			continue
		}
		switch {
		case pod.Status.Phase == corev1.PodSucceeded:
			v.succeeded++
		case v.hasFailed(pod) && v.counts(pod):
			v.failed++
		}
	}
	if isIndexed(job) {
		v.lookAtIndexes()
	}
	v.judge()
	return v
}

// isNew: a pod whose end, should it have come, is not in the status yet.
func (v *view) isNew(pod *corev1.Pod) bool {
	return isTracked(pod) && !v.uncounted[pod.UID] && v.hasPlace(pod)
}

// isTracked: the finalizer keeps a pod until it is counted.
func isTracked(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
}

// hasPlace: of an indexed job only pods with an index count.
func (v *view) hasPlace(pod *corev1.Pod) bool {
	i := indexOf(pod)
	return !isIndexed(v.job) || i >= 0 && i < v.completions()
}

func (v *view) completions() int { return int(ptr.Deref(v.job.Spec.Completions, 0)) }

// hasFailed: a pod that is being deleted counts as failed at once, unless the job wants to
// know for certain before another is made.
func (v *view) hasFailed(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed ||
		!v.onlyReplacesFailed() && pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodSucceeded
}

func (v *view) onlyReplacesFailed() bool {
	return ptr.Deref(v.job.Spec.PodReplacementPolicy, "") == batchv1.Failed
}

// counts: a failure that the policy does not ignore.
func (v *view) counts(pod *corev1.Pod) bool {
	action, _ := failureRule(v.job.Spec.PodFailurePolicy, pod)
	return action != batchv1.PodFailurePolicyActionIgnore
}

func (v *view) lookAtIndexes() {
	v.before = parseIndexes(v.job.Status.CompletedIndexes, v.completions())
	var done []int
	for _, pod := range v.pods {
		if pod.Status.Phase == corev1.PodSucceeded && isTracked(pod) && v.hasPlace(pod) {
			done = append(done, indexOf(pod))
		}
	}
	v.done = v.before.with(done)
	v.succeeded = int32(v.done.total())
	if v.job.Spec.BackoffLimitPerIndex == nil {
		return
	}
	var given []int
	for _, pod := range v.pods {
		if !isTracked(pod) || !v.hasPlace(pod) || !v.hasFailed(pod) {
			continue
		}
		action, _ := failureRule(v.job.Spec.PodFailurePolicy, pod)
		before, _ := failuresOf(pod)
		if action == batchv1.PodFailurePolicyActionFailIndex ||
			action != batchv1.PodFailurePolicyActionIgnore && before >= int(*v.job.Spec.BackoffLimitPerIndex) {
			given = append(given, indexOf(pod))
		}
	}
	v.given = parseIndexes(ptr.Deref(v.job.Status.FailedIndexes, ""), v.completions()).with(given)
	active := map[int]bool{}
	for _, pod := range v.active {
		active[indexOf(pod)] = true
	}
	v.delayed = map[int]*corev1.Pod{}
	for _, pod := range v.pods {
		i := indexOf(pod)
		if !isTracked(pod) || !v.hasPlace(pod) || !v.hasFailed(pod) || v.done.has(i) || v.given.has(i) || active[i] {
			continue
		}
		other := v.delayed[i]
		if other == nil {
			v.delayed[i] = pod
			continue
		}
		_, had := failuresOf(other)
		if _, has := failuresOf(pod); had <= has && !finishedAt(pod).Before(finishedAt(other)) {
			v.delayed[i] = pod
		}
	}
}

// judge finds why a job is to end. What the status says already stands.
func (v *view) judge() {
	spec, status := &v.job.Spec, &v.job.Status
	fail := func(reason, message string) {
		v.verdict = newCondition(batchv1.JobFailureTarget, corev1.ConditionTrue, reason, message, v.now)
	}
	met, target := condition(status, batchv1.JobSuccessCriteriaMet), condition(status, batchv1.JobFailureTarget)
	switch {
	case met != nil && met.Status == corev1.ConditionTrue:
		v.verdict = met
		return
	case target != nil && target.Status == corev1.ConditionTrue:
		v.verdict = newCondition(batchv1.JobFailed, corev1.ConditionTrue, target.Reason, target.Message, v.now)
		return
	}
	for _, pod := range v.pods {
		if !v.hasFailed(pod) {
			continue
		}
		if action, why := failureRule(spec.PodFailurePolicy, pod); action == batchv1.PodFailurePolicyActionFailJob {
			fail(batchv1.JobReasonPodFailurePolicy, why)
			return
		}
	}
	limit := ptr.Deref(spec.BackoffLimit, 6)
	switch {
	case v.failed > limit || v.restartedTooOften(limit):
		fail(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
		return
	case spec.ActiveDeadlineSeconds != nil && status.StartTime != nil && !suspended(v.job):
		v.deadline = status.StartTime.Add(time.Duration(*spec.ActiveDeadlineSeconds) * time.Second).Sub(v.now)
		if v.deadline <= 0 {
			v.deadline = 0
			fail(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
			return
		}
	}
	if isIndexed(v.job) {
		given := v.given.total()
		switch {
		case spec.BackoffLimitPerIndex != nil && spec.MaxFailedIndexes != nil && given > int(*spec.MaxFailedIndexes):
			fail(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
			return
		case given > 0 && given+v.done.total() >= v.completions():
			fail(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
			return
		}
		if why, ok := success(spec.SuccessPolicy, v.done, v.completions()); ok {
			v.verdict = newCondition(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, batchv1.JobReasonSuccessPolicy, why, v.now)
			return
		}
	}
	enough := v.succeeded > 0
	if spec.Completions != nil {
		enough = v.succeeded >= *spec.Completions
	}
	if enough && len(v.active) == 0 {
		v.verdict = newCondition(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods", v.now)
	}
}

// restartedTooOften: where containers are restarted in place, restarts are what counts.
func (v *view) restartedTooOften(limit int32) bool {
	if v.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	restarts := int32(0)
	for _, pod := range v.pods {
		if pod.Status.Phase != corev1.PodRunning && pod.Status.Phase != corev1.PodPending {
			continue
		}
		for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
			for _, c := range list {
				restarts += c.RestartCount
			}
		}
	}
	return restarts > 0 && restarts >= limit
}

func suspended(job *batchv1.Job) bool { return ptr.Deref(job.Spec.Suspend, false) }

func newCondition(typ batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string, now time.Time) *batchv1.JobCondition {
	at := metav1.NewTime(now)
	return &batchv1.JobCondition{Type: typ, Status: status, Reason: reason, Message: message, LastProbeTime: at, LastTransitionTime: at}
}

func condition(status *batchv1.JobStatus, typ batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == typ {
			return &status.Conditions[i]
		}
	}
	return nil
}

// finished says whether a job has ended, and when.
func finished(job *batchv1.Job) (time.Time, bool) {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time, true
		}
	}
	return time.Time{}, false
}
