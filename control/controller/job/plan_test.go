package job

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a job and its pods without a cluster: pass does what the controller does,
// and may be interrupted after any of its writes.
type world struct {
	job  *batchv1.Job
	pods []*corev1.Pod
	made int
	now  time.Time
	// left is how many more writes succeed before one pass is interrupted, -1 for none.
	left int
}

func makeWorld(change ...func(*batchv1.JobSpec)) *world {
	w := &world{now: start, left: -1, job: &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "work", UID: "job"},
		Spec: batchv1.JobSpec{
			Parallelism: ptr.To(int32(2)), Completions: ptr.To(int32(3)), BackoffLimit: ptr.To(int32(6)),
		},
	}}
	for _, f := range change {
		f(&w.job.Spec)
	}
	return w
}

func indexed(s *batchv1.JobSpec) { s.CompletionMode = ptr.To(batchv1.IndexedCompletion) }

func (w *world) write() bool {
	if w.left < 0 {
		return true
	}
	w.left--
	return w.left >= 0
}

// pass reconciles once; wait is when it wants to be called again.
func (w *world) pass() (wait time.Duration) {
	if _, ended := finished(w.job); ended {
		return 0
	}
	p := look(w.job, w.pods, w.now).decide()
	for _, pod := range p.remove {
		if p.uncounted {
			if !w.write() {
				return
			}
			pod.Finalizers = nil
		}
		if !w.write() {
			return
		}
		pod.DeletionTimestamp = ptr.To(metav1.NewTime(w.now))
	}
	for _, a := range p.create {
		if !w.write() {
			return
		}
		w.made++
		t := a.template(w.job)
		w.pods = append(w.pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprint("p", w.made), UID: types.UID(fmt.Sprint("p", w.made)), CreationTimestamp: metav1.NewTime(w.now),
			Annotations: t.Annotations, Labels: t.Labels, Finalizers: t.Finalizers,
		}, Status: corev1.PodStatus{Phase: corev1.PodPending}})
	}
	w.sweep()
	o := look(w.job, w.pods, w.now).track()
	if !w.write() {
		return
	}
	w.job.Status = o.status
	for _, pod := range o.release {
		if !w.write() {
			return
		}
		pod.Finalizers = nil
	}
	w.sweep()
	return p.again
}

// sweep removes pods that are deleted and that nothing keeps.
func (w *world) sweep() {
	var left []*corev1.Pod
	for _, pod := range w.pods {
		if pod.DeletionTimestamp == nil || len(pod.Finalizers) > 0 {
			left = append(left, pod)
		}
	}
	w.pods = left
}

func (w *world) active() (active []*corev1.Pod) {
	for _, pod := range w.pods {
		if controller.IsActive(pod) {
			active = append(active, pod)
		}
	}
	return active
}

func (w *world) finish(pod *corev1.Pod, phase corev1.PodPhase, code int32) {
	pod.Status.Phase = phase
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(w.now)}}}}
}

// run passes, finishing all active pods each time as f says, until the job ends.
func (w *world) run(t *testing.T, f func(pod *corev1.Pod) (corev1.PodPhase, int32)) string {
	t.Helper()
	for range 200 {
		wait := w.pass()
		if _, ended := finished(w.job); ended {
			c := w.job.Status.Conditions[len(w.job.Status.Conditions)-1]
			return fmt.Sprintf("%s %s", c.Type, c.Reason)
		}
		for _, pod := range w.active() {
			phase, code := f(pod)
			w.finish(pod, phase, code)
		}
		w.now = w.now.Add(wait + time.Second)
	}
	t.Fatalf("does not end: %+v", w.job.Status)
	return ""
}

func succeed(*corev1.Pod) (corev1.PodPhase, int32) { return corev1.PodSucceeded, 0 }
func fail(*corev1.Pod) (corev1.PodPhase, int32)    { return corev1.PodFailed, 1 }
func failIndexes(bad ...int) func(*corev1.Pod) (corev1.PodPhase, int32) {
	return func(pod *corev1.Pod) (corev1.PodPhase, int32) {
		for _, i := range bad {
			if indexOf(pod) == i {
				return corev1.PodFailed, 1
			}
		}
		return corev1.PodSucceeded, 0
	}
}

func TestEnds(t *testing.T) {
	rule := func(action batchv1.PodFailurePolicyAction) func(*batchv1.JobSpec) {
		return func(s *batchv1.JobSpec) {
			s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{1}}}}}
		}
	}
	perIndex := func(n int32) func(*batchv1.JobSpec) {
		return func(s *batchv1.JobSpec) {
			s.BackoffLimitPerIndex, s.BackoffLimit = &n, ptr.To(int32(1<<30))
		}
	}
	for _, c := range []struct {
		what              string
		change            []func(*batchv1.JobSpec)
		pods              func(*corev1.Pod) (corev1.PodPhase, int32)
		want              string
		succeeded, failed int32
		done, given       string
		made              int
	}{
		{what: "as many succeed as asked for", pods: succeed, want: "Complete CompletionsReached", succeeded: 3, made: 3},
		{what: "one success is enough without completions", change: []func(*batchv1.JobSpec){func(s *batchv1.JobSpec) { s.Completions = nil }}, pods: succeed, want: "Complete CompletionsReached", succeeded: 2, made: 2},
		{what: "too many failures", change: []func(*batchv1.JobSpec){func(s *batchv1.JobSpec) { s.BackoffLimit = ptr.To(int32(2)) }}, pods: fail, want: "Failed BackoffLimitExceeded", failed: 4, made: 4},
		{what: "a failure that ends the job", change: []func(*batchv1.JobSpec){rule(batchv1.PodFailurePolicyActionFailJob)}, pods: fail, want: "Failed PodFailurePolicy", failed: 2, made: 2},
		{what: "each index once", change: []func(*batchv1.JobSpec){indexed}, pods: succeed, want: "Complete CompletionsReached", succeeded: 3, done: "0-2", made: 3},
		{what: "an index is given up", change: []func(*batchv1.JobSpec){indexed, perIndex(1)}, pods: failIndexes(1), want: "Failed FailedIndexes", succeeded: 2, failed: 2, done: "0,2", given: "1", made: 4},
		{what: "an index is given up at once", change: []func(*batchv1.JobSpec){indexed, perIndex(5), rule(batchv1.PodFailurePolicyActionFailIndex)}, pods: failIndexes(1), want: "Failed FailedIndexes", succeeded: 2, failed: 1, done: "0,2", given: "1", made: 3},
		{what: "too many indexes are", change: []func(*batchv1.JobSpec){indexed, perIndex(0), func(s *batchv1.JobSpec) { s.MaxFailedIndexes = ptr.To(int32(0)) }}, pods: failIndexes(0, 1), want: "Failed MaxFailedIndexesExceeded", failed: 2, given: "0,1", made: 2},
		{what: "some indexes are enough", change: []func(*batchv1.JobSpec){indexed, func(s *batchv1.JobSpec) {
			s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("0-1"), SucceededCount: ptr.To(int32(1))}}}
		}}, pods: succeed, want: "Complete SuccessPolicy", succeeded: 2, done: "0,1", made: 2},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := makeWorld(c.change...)
			got := w.run(t, c.pods)
			s := w.job.Status
			if got != c.want || s.Succeeded != c.succeeded || s.Failed != c.failed || w.made != c.made {
				t.Errorf("ended %s with %d succeeded, %d failed of %d, want %s with %d, %d of %d", got, s.Succeeded, s.Failed, w.made, c.want, c.succeeded, c.failed, c.made)
			}
			if s.CompletedIndexes != c.done || ptr.Deref(s.FailedIndexes, "") != c.given {
				t.Errorf("indexes done %q, given up %q, want %q, %q", s.CompletedIndexes, ptr.Deref(s.FailedIndexes, ""), c.done, c.given)
			}
			if (s.CompletionTime != nil) != (c.want[0] == 'C') || s.StartTime == nil || s.Active != 0 {
				t.Errorf("status %+v, want a start, no pods, and a completion only if complete", s)
			}
		})
	}
}

func TestIgnoredFailuresAreNotCounted(t *testing.T) {
	w := makeWorld(func(s *batchv1.JobSpec) {
		s.BackoffLimit = ptr.To(int32(0))
		s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
			Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}}}}
	})
	n := 0
	got := w.run(t, func(pod *corev1.Pod) (corev1.PodPhase, int32) {
		if n++; n <= 5 {
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}
			return corev1.PodFailed, 137
		}
		return corev1.PodSucceeded, 0
	})
	if got != "Complete CompletionsReached" || w.job.Status.Failed != 0 {
		t.Errorf("ended %s with %d failed, want complete with 0", got, w.job.Status.Failed)
	}
}

func TestWaitsLongerAfterEachFailure(t *testing.T) {
	w := makeWorld(func(s *batchv1.JobSpec) { s.Parallelism = ptr.To(int32(1)) })
	for _, want := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
		w.pass()
		for _, pod := range w.active() {
			w.finish(pod, corev1.PodFailed, 1)
		}
		w.pass()
		if got := w.pass(); got != want || len(w.active()) != 0 {
			t.Errorf("waits %v with %d pods, want %v with none", got, len(w.active()), want)
		}
		w.now = w.now.Add(want)
	}
}

func TestSuspendsAndHasADeadline(t *testing.T) {
	w := makeWorld(func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds = ptr.To(int64(60)) })
	w.pass()
	w.job.Spec.Suspend = ptr.To(true)
	w.pass()
	if c := condition(&w.job.Status, batchv1.JobSuspended); c == nil || c.Status != corev1.ConditionTrue || w.job.Status.StartTime != nil || len(w.active()) != 0 || w.job.Status.Failed != 0 {
		t.Errorf("status %+v with %d pods, want suspended, with none, none of them failed", w.job.Status, len(w.active()))
	}
	w.now = w.now.Add(time.Hour)
	w.job.Spec.Suspend = ptr.To(false)
	if wait := w.pass(); len(w.active()) != 2 || !w.job.Status.StartTime.Time.Equal(w.now) {
		t.Errorf("%d pods since %v, looks again in %v, want 2 since now", len(w.active()), w.job.Status.StartTime, wait)
	}
	w.now = w.now.Add(time.Minute)
	w.pass()
	w.pass()
	if c := w.job.Status.Conditions[len(w.job.Status.Conditions)-1]; c.Type != batchv1.JobFailed || c.Reason != "DeadlineExceeded" || w.job.Status.Failed != 2 {
		t.Errorf("condition %+v with %d failed, want failed for its deadline, with both pods", c, w.job.Status.Failed)
	}
}

// Passes are interrupted at any write, and pods end as they please: in the end each
// success and each failure is counted exactly once, and no index ran to success twice
// for want of counting.
func TestCountsAreExactWhateverHappens(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 6))
		w := makeWorld(func(s *batchv1.JobSpec) {
			s.Completions, s.Parallelism = ptr.To(int32(1+r.IntN(8))), ptr.To(int32(1+r.IntN(4)))
			s.BackoffLimit = ptr.To(int32(1000))
			if r.IntN(2) == 0 {
				s.CompletionMode = ptr.To(batchv1.IndexedCompletion)
			}
			if r.IntN(2) == 0 {
				s.PodReplacementPolicy = ptr.To(batchv1.Failed)
			}
		})
		succeeded, failed, ended := int32(0), int32(0), false
		for range 2000 {
			if w.left = -1; r.IntN(3) == 0 {
				w.left = r.IntN(5)
			}
			wait := w.pass()
			if _, ended = finished(w.job); ended {
				break
			}
			w.now = w.now.Add(wait + time.Second)
			if n := len(w.active()); n > int(*w.job.Spec.Parallelism) {
				t.Fatalf("seed %d: %d pods active, want at most %d", seed, n, *w.job.Spec.Parallelism)
			}
			for _, pod := range w.active() {
				switch r.IntN(4) {
				case 0:
					w.finish(pod, corev1.PodSucceeded, 0)
					succeeded++
				case 1:
					w.finish(pod, corev1.PodFailed, 1)
					failed++
				}
			}
		}
		s := w.job.Status
		if !ended || s.Succeeded != *w.job.Spec.Completions || s.Succeeded != succeeded || s.Failed != failed {
			t.Fatalf("seed %d: ended %v with %d succeeded, %d failed, want %d and %d of %d", seed, ended, s.Succeeded, s.Failed, succeeded, failed, *w.job.Spec.Completions)
		}
		for _, pod := range w.pods {
			if isTracked(pod) {
				t.Fatalf("seed %d: pod %s is never let go", seed, pod.Name)
			}
		}
	}
}

func TestIndexesReadAsTheyAreWritten(t *testing.T) {
	for text, want := range map[string]string{"": "", "0": "0", "0,1": "0,1", "0-2,4,6-7": "0-2,4,6,7", "3-99": "3-9", "x,2,-1,5-y": "2"} {
		if got := parseIndexes(text, 10).String(); got != want {
			t.Errorf("%q reads as %q, want %q", text, got, want)
		}
	}
}

func TestIndexesAreASet(t *testing.T) {
	const most = 40
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 8))
		draw := func() (indexes, map[int]bool) {
			var x indexes
			set := map[int]bool{}
			for range r.IntN(4) {
				first := r.IntN(most)
				more := []int{first, r.IntN(most)}
				x = x.with(more)
				set[more[0]], set[more[1]] = true, true
				if last := first + r.IntN(8); last < most {
					x = append(x, indexRange{first, last}).joined()
					for i := first; i <= last; i++ {
						set[i] = true
					}
				}
			}
			return x, set
		}
		x, set := draw()
		y, other := draw()
		both := 0
		for i := range most {
			if x.has(i) != set[i] {
				t.Fatalf("seed %d: %v has %d: %v", seed, x, i, x.has(i))
			}
			next := i
			for set[next] {
				next++
			}
			if got := x.after(i); got != next {
				t.Fatalf("seed %d: %v after %d: %d, want %d", seed, x, i, got, next)
			}
			if set[i] && other[i] {
				both++
			}
		}
		if x.total() != len(set) || x.both(y) != both || !slices.Equal(parseIndexes(x.String(), most), x) {
			t.Fatalf("seed %d: %v has %d, %d in %v, and reads back as %v", seed, x, x.total(), x.both(y), y, parseIndexes(x.String(), most))
		}
	}
}

// A job may have more completions than there is memory for.
func TestJobOfBillionsGoesOn(t *testing.T) {
	w := makeWorld(indexed, func(s *batchv1.JobSpec) {
		s.Completions, s.Parallelism = ptr.To(int32(math.MaxInt32)), ptr.To(int32(3))
	})
	w.job.Status.CompletedIndexes = "0-9,11-2147483640"
	w.job.Status.StartTime = ptr.To(metav1.NewTime(start))
	w.pass()
	var made []int
	for _, pod := range w.pods {
		made = append(made, indexOf(pod))
	}
	slices.Sort(made)
	if want := []int{10, 2147483641, 2147483642}; !slices.Equal(made, want) {
		t.Fatalf("pods of indexes %v are made, want %v", made, want)
	}
	w.finish(w.pods[slices.IndexFunc(w.pods, func(pod *corev1.Pod) bool { return indexOf(pod) == 10 })], corev1.PodSucceeded, 0)
	for range 4 {
		w.pass()
	}
	if s := w.job.Status; s.CompletedIndexes != "0-2147483640" || s.Succeeded != 2147483641 {
		t.Errorf("%d succeeded, %s, want all but the last ones", s.Succeeded, s.CompletedIndexes)
	}
}
