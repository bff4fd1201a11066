package cronjob

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 3, 4, 5, 6, 30, 0, time.UTC) // a Wednesday

func makeCron(schedule string, change ...func(*batchv1.CronJob)) *batchv1.CronJob {
	cj := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "tick", CreationTimestamp: metav1.NewTime(now.Add(-90 * time.Second))},
		Spec: batchv1.CronJobSpec{
			Schedule: schedule, ConcurrencyPolicy: batchv1.AllowConcurrent,
			SuccessfulJobsHistoryLimit: ptr.To(int32(3)), FailedJobsHistoryLimit: ptr.To(int32(1)),
			JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: test.Pod("x").Spec}}},
		},
	}
	cj.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	for _, f := range change {
		f(cj)
	}
	return cj
}

func last(at time.Time) func(*batchv1.CronJob) {
	return func(cj *batchv1.CronJob) { cj.Status.LastScheduleTime = ptr.To(metav1.NewTime(at)) }
}

func policy(p batchv1.ConcurrencyPolicy) func(*batchv1.CronJob) {
	return func(cj *batchv1.CronJob) { cj.Spec.ConcurrencyPolicy = p }
}

// jobAt is a job for a scheduled time that is active, or has ended as typ says.
func jobAt(cj *batchv1.CronJob, at time.Time, typ batchv1.JobConditionType) *batchv1.Job {
	job := jobOf(cj, at)
	job.UID = types.UID(job.Name)
	job.CreationTimestamp = metav1.NewTime(at)
	if typ != "" {
		job.Status.Conditions = []batchv1.JobCondition{{Type: typ, Status: corev1.ConditionTrue}}
	}
	return job
}

func TestPlan(t *testing.T) {
	minute := time.Date(2026, 3, 4, 5, 6, 0, 0, time.UTC)
	cj := makeCron("* * * * *")
	for _, c := range []struct {
		what   string
		cj     *batchv1.CronJob
		jobs   []*batchv1.Job
		create time.Time // zero for none
		remove int
		active int
		event  string
		again  time.Duration
	}{
		{what: "what is due is started", cj: cj, create: minute, again: 30 * time.Second},
		{what: "once", cj: cj, jobs: []*batchv1.Job{jobAt(cj, minute, "")}, active: 1, again: 30 * time.Second},
		{what: "not again once it has ended, though the status lags", cj: cj, jobs: []*batchv1.Job{jobAt(cj, minute, batchv1.JobComplete)}, again: 30 * time.Second},
		{what: "nor what the status says was started", cj: makeCron("* * * * *", last(minute)), again: 30 * time.Second},
		{what: "nothing before the first time", cj: makeCron("0 * * * *"), again: 53*time.Minute + 30*time.Second},
		{what: "in a zone of its own", cj: makeCron("6 6 * * *", func(cj *batchv1.CronJob) { cj.Spec.TimeZone = ptr.To("Europe/Berlin") }), create: minute, again: 24*time.Hour - 30*time.Second},
		{what: "an unknown zone", cj: makeCron("* * * * *", func(cj *batchv1.CronJob) { cj.Spec.TimeZone = ptr.To("Moon/Crater") }), event: "UnknownTimeZone"},
		{what: "no schedule at all", cj: makeCron("often"), event: "UnparseableSchedule"},
		{what: "one that makes the parser panic", cj: makeCron("TZ=0"), event: "UnparseableSchedule"},
		{what: "one that never comes", cj: makeCron("0 0 30 2 *")},
		{what: "suspended", cj: makeCron("* * * * *", func(cj *batchv1.CronJob) { cj.Spec.Suspend = ptr.To(true) })},
		{what: "being deleted", cj: makeCron("* * * * *", func(cj *batchv1.CronJob) { cj.DeletionTimestamp = ptr.To(metav1.NewTime(now)) })},
		{what: "of many missed times the last counts", cj: makeCron("* * * * *", last(now.Add(-1000*time.Hour))), create: minute, event: "TooManyMissedTimes", again: 30 * time.Second},
		{what: "missed times that are not equally far apart", cj: makeCron("0 0 1 2,3 *", last(now.Add(-400*24*time.Hour))), create: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), again: time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC).Sub(now)},
		{what: "too late", cj: makeCron("* * * * *", func(cj *batchv1.CronJob) { cj.Spec.StartingDeadlineSeconds = ptr.To(int64(10)) }), again: 30 * time.Second},
		{what: "forbidden beside another", cj: makeCron("* * * * *", policy(batchv1.ForbidConcurrent)), jobs: []*batchv1.Job{jobAt(cj, minute.Add(-time.Minute), "")}, active: 1, event: "JobAlreadyActive", again: 30 * time.Second},
		{what: "in place of another", cj: makeCron("* * * * *", policy(batchv1.ReplaceConcurrent)), jobs: []*batchv1.Job{jobAt(cj, minute.Add(-time.Minute), "")}, create: minute, remove: 1, active: 1, again: 30 * time.Second},
		{what: "history is trimmed", cj: cj, jobs: []*batchv1.Job{jobAt(cj, minute, batchv1.JobFailed), jobAt(cj, minute.Add(-time.Minute), batchv1.JobFailed), jobAt(cj, minute.Add(-2*time.Minute), batchv1.JobComplete)}, remove: 1, again: 30 * time.Second},
		{what: "somebody's job", cj: cj, jobs: []*batchv1.Job{{ObjectMeta: metav1.ObjectMeta{Name: "by-hand"}}}, create: minute, event: "UnexpectedJob", again: 30 * time.Second},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := makePlan(c.cj, c.jobs, now)
			got := time.Time{}
			if p.create != nil {
				got, _ = scheduledAt(p.create)
				if want := fmt.Sprint("tick-", got.Unix()/60); p.create.Name != want {
					t.Errorf("name %q, want %q", p.create.Name, want)
				}
			}
			if !got.Equal(c.create) || len(p.remove) != c.remove || len(p.status.Active) != c.active {
				t.Errorf("starts for %v, removes %d, %d active, want %v, %d, %d", got, len(p.remove), len(p.status.Active), c.create, c.remove, c.active)
			}
			if want := c.again; want > 0 && p.again != want+settle || want == 0 && p.again != 0 {
				t.Errorf("looks again in %v, want %v", p.again, want)
			}
			var reasons []string
			for _, e := range p.told {
				reasons = append(reasons, e.reason)
			}
			if got := strings.Join(reasons, " "); got != c.event {
				t.Errorf("events %q, want %q", got, c.event)
			}
		})
	}
}

func lead(m *test.Term) {
	m.Run(New(Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run)
}

func TestStartsOneEachTimeWhoeverLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := storetest.New(t)
		m := test.Begin(t, s)
		lead(m)
		test.Create(m, resource.CronJobs, makeCron("*/10 * * * *"))
		time.Sleep(65 * time.Minute)
		m.End()
		time.Sleep(25 * time.Minute) // nobody leads, two times pass
		m = test.Resume(t, s)
		lead(m)
		time.Sleep(11 * time.Minute)
		seen := map[string]bool{}
		for _, job := range test.List[*batchv1.Job](m, store.Jobs) {
			seen[job.Annotations[batchv1.CronJobScheduledTimestampAnnotation]] = true
		}
		jobs := test.List[*batchv1.Job](m, store.Jobs)
		if len(jobs) != len(seen) || len(jobs) < 8 || len(jobs) > 9 {
			t.Errorf("%d jobs for %d times, want 8 or 9: each time but one or two that nobody led at", len(jobs), len(seen))
		}
		cj, _ := test.Get[*batchv1.CronJob](m, store.CronJobs, "default", "tick")
		if len(cj.Status.Active) != len(jobs) || cj.Status.LastScheduleTime == nil {
			t.Errorf("status %+v, want %d active", cj.Status, len(jobs))
		}
		before := m.Settled(time.Second)
		time.Sleep(5 * time.Minute)
		if after := m.Registry.Store().Revision(); after != before {
			t.Errorf("%d writes between two times", after-before)
		}
	})
}

func TestLeaderDiesAtAnyWrite(t *testing.T) {
	test.LeaderDiesAtAnyWrite(t, 4, func(t *testing.T, user *test.Term) {
		test.Create(user, resource.CronJobs, makeCron("* * * * *"))
		time.Sleep(59 * time.Second)
	}, lead, func(t *testing.T, m *test.Term) {
		time.Sleep(30 * time.Second)
		cj, _ := test.Get[*batchv1.CronJob](m, store.CronJobs, "default", "tick")
		if jobs := test.List[*batchv1.Job](m, store.Jobs); len(jobs) != 1 || len(cj.Status.Active) != 1 {
			t.Errorf("%d jobs, status %+v, want one", len(jobs), cj.Status)
		}
	})
}
