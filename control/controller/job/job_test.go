package job

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func lead(m *test.Term) {
	m.Run(New(Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run)
}

func work(change ...func(*batchv1.JobSpec)) *batchv1.Job {
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "work"},
		Spec: batchv1.JobSpec{
			Parallelism: ptr.To(int32(2)), Completions: ptr.To(int32(4)), BackoffLimit: ptr.To(int32(6)),
			Template: corev1.PodTemplateSpec{Spec: test.Pod("x").Spec},
		},
	}
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	for _, f := range change {
		f(&job.Spec)
	}
	return job
}

// agents end every pod in the phase that is asked for, until the function that they
// return is called.
func agents(m *test.Term, phase func(*corev1.Pod) corev1.PodPhase) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			for _, p := range test.List[*corev1.Pod](m, store.Pods) {
				if controller.IsActive(p) {
					// It may be deleted meanwhile.
					_, _, _ = m.Registry.Update(ctx, resource.Pods, p.Namespace, p.Name, "status", func(current store.Object) (store.Object, error) {
						current.(*corev1.Pod).Status.Phase = phase(p)
						return current, nil
					}, resource.UpdateOptions{})
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	return func() { cancel(); done.Wait() }
}

func wantEnd(t *testing.T, m *test.Term, typ batchv1.JobConditionType, succeeded, failed int32) {
	t.Helper()
	test.Eventually(t, func() string {
		job, ok := test.Get[*batchv1.Job](m, store.Jobs, "default", "work")
		if c := condition(&job.Status, typ); !ok || c == nil || job.Status.Succeeded != succeeded || job.Status.Failed != failed {
			return fmt.Sprintf("status %+v, want %s with %d succeeded, %d failed", job.Status, typ, succeeded, failed)
		}
		for _, p := range test.List[*corev1.Pod](m, store.Pods) {
			if isTracked(p) {
				return "pod " + p.Name + " is not let go"
			}
		}
		return ""
	})
}

func TestRunsToTheEndAndRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		lead(m)
		stop := agents(m, func(*corev1.Pod) corev1.PodPhase { return corev1.PodSucceeded })
		test.Create(m, resource.Jobs, work(indexed))
		wantEnd(t, m, batchv1.JobComplete, 4, 0)
		stop()
		seen := map[string]bool{}
		for _, p := range test.List[*corev1.Pod](m, store.Pods) {
			seen[p.Labels[batchv1.JobCompletionIndexAnnotation]] = true
			if p.Spec.Hostname != "work-"+p.Labels[batchv1.JobCompletionIndexAnnotation] || len(p.Spec.Containers[0].Env) != 1 {
				t.Errorf("pod %s has host name %q and variables %v, want its index", p.Name, p.Spec.Hostname, p.Spec.Containers[0].Env)
			}
		}
		if len(seen) != 4 {
			t.Errorf("pods for indexes %v, want 4", seen)
		}
		before := m.Settled(time.Second)
		time.Sleep(24 * time.Hour)
		if after := m.Registry.Store().Revision(); after != before {
			t.Errorf("%d writes while nothing happened", after-before)
		}
	})
}

func TestFailsAfterItsLimitAndExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		lead(m)
		stop := agents(m, func(*corev1.Pod) corev1.PodPhase { return corev1.PodFailed })
		test.Create(m, resource.Jobs, work(func(s *batchv1.JobSpec) {
			s.BackoffLimit, s.Parallelism, s.TTLSecondsAfterFinished = ptr.To(int32(1)), ptr.To(int32(1)), ptr.To(int32(60))
		}))
		time.Sleep(15 * time.Second)
		wantEnd(t, m, batchv1.JobFailed, 0, 2)
		stop()
		time.Sleep(61 * time.Second)
		if job, there := test.Get[*batchv1.Job](m, store.Jobs, "default", "work"); there && job.DeletionTimestamp == nil {
			t.Error("the job is there after its time to live")
		}
	})
}

// A job that is deleted, or whose pods are orphaned, lets its pods go: their finalizer
// would keep them for ever.
func TestDeletedJobLetsItsPodsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		lead(m)
		test.Create(m, resource.Jobs, work())
		time.Sleep(time.Second)
		m.Delete(resource.Jobs, "default", "work", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)})
		test.Eventually(t, func() string {
			for _, p := range test.List[*corev1.Pod](m, store.Pods) {
				if isTracked(p) {
					return "pod " + p.Name + " is not let go"
				}
			}
			return ""
		})
	})
}

func TestLeaderDiesAtAnyWrite(t *testing.T) {
	var stop func()
	test.LeaderDiesAtAnyWrite(t, 24, func(t *testing.T, user *test.Term) {
		stop = agents(user, func(*corev1.Pod) corev1.PodPhase { return corev1.PodSucceeded })
		test.Create(user, resource.Jobs, work())
	}, lead, func(t *testing.T, m *test.Term) {
		wantEnd(t, m, batchv1.JobComplete, 4, 0)
		stop()
		if got := len(test.List[*corev1.Pod](m, store.Pods)); got != 4 {
			t.Errorf("%d pods, want 4", got)
		}
	})
}
