package cronjob

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/store"
)

// plan is what to do about a cron job.
type plan struct {
	remove []*batchv1.Job // before create
	create *batchv1.Job   // nil for none
	status batchv1.CronJobStatus
	told   []told
	again  time.Duration // 0 for never
}

// told is an event.
type told struct{ typ, reason, message string }

func (p *plan) tell(typ, reason, format string, args ...any) {
	p.told = append(p.told, told{typ, reason, fmt.Sprintf(format, args...)})
}

// makePlan looks at a cron job and the jobs that it has. What was started is told by
// the jobs themselves, and so is not started again should the status lag.
func makePlan(cj *batchv1.CronJob, jobs []*batchv1.Job, now time.Time) plan {
	p := plan{status: *cj.Status.DeepCopy()}
	last, active := p.count(cj, jobs)
	if cj.DeletionTimestamp != nil {
		return p
	}
	p.remove = surplus(cj, jobs)
	if zone := cj.Spec.TimeZone; zone != nil {
		if _, err := time.LoadLocation(*zone); err != nil {
			p.tell(corev1.EventTypeWarning, "UnknownTimeZone", "invalid timeZone: %q: %s", *zone, err)
			return p
		}
	}
	if ptr.Deref(cj.Spec.Suspend, false) {
		return p
	}
	schedule, err := parse(cj)
	if err != nil {
		p.tell(corev1.EventTypeWarning, "UnparseableSchedule", "unparseable schedule: %q : %s", cj.Spec.Schedule, err)
		return p
	}
	if strings.Contains(cj.Spec.Schedule, "TZ") {
		p.tell(corev1.EventTypeWarning, "UnsupportedSchedule", "CRON_TZ or TZ used in schedule %q is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", cj.Spec.Schedule)
	}
	p.again = next(schedule, now)
	at, many, err := due(cj, schedule, last, now)
	if err != nil {
		p.tell(corev1.EventTypeWarning, "InvalidSchedule", "invalid schedule: %s : %s", cj.Spec.Schedule, err)
		return p
	}
	if at.IsZero() {
		return p
	}
	if many {
		p.tell(corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	switch {
	case cj.Spec.StartingDeadlineSeconds != nil && at.Add(time.Duration(*cj.Spec.StartingDeadlineSeconds)*time.Second).Before(now):
		p.tell(corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", at.UTC().Format(time.RFC1123Z))
		return p
	case cj.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(active) > 0:
		p.tell(corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return p
	case cj.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent:
		p.remove = append(p.remove, active...)
	}
	p.create = jobOf(cj, at)
	return p
}

// count brings the status up to date with the jobs, and says when the last one was
// scheduled, and which are active.
func (p *plan) count(cj *batchv1.CronJob, jobs []*batchv1.Job) (last time.Time, active []*batchv1.Job) {
	last = cj.CreationTimestamp.Time
	if cj.Status.LastScheduleTime != nil {
		last = cj.Status.LastScheduleTime.Time
	}
	slices.SortFunc(jobs, byStart)
	p.status.Active = nil
	present := map[string]bool{}
	for _, job := range jobs {
		present[string(job.UID)] = true
		was := slices.ContainsFunc(cj.Status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == job.UID })
		scheduled, ours := scheduledAt(job)
		if ours && scheduled.After(last) {
			last = scheduled
			p.status.LastScheduleTime = ptr.To(metav1.NewTime(scheduled))
		}
		end := ended(job)
		switch {
		case end == nil && ours:
			active = append(active, job)
			p.status.Active = append(p.status.Active, refOf(job))
		case end == nil:
			p.tell(corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", job.Name)
		default:
			if was {
				p.tell(corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", job.Name, end.Type)
			}
			if at := job.Status.CompletionTime; end.Type == batchv1.JobComplete && at != nil &&
				(p.status.LastSuccessfulTime == nil || at.After(p.status.LastSuccessfulTime.Time)) {
				p.status.LastSuccessfulTime = at
			}
		}
	}
	for _, ref := range cj.Status.Active {
		if !present[string(ref.UID)] {
			p.tell(corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
		}
	}
	return last, active
}

// scheduledAt is the time that a job was started for, if it was started for one.
func scheduledAt(job *batchv1.Job) (time.Time, bool) {
	at, err := time.Parse(time.RFC3339, job.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
	return at, err == nil
}

func ended(job *batchv1.Job) *batchv1.JobCondition {
	for i := range job.Status.Conditions {
		if c := &job.Status.Conditions[i]; (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

func byStart(a, b *batchv1.Job) int {
	start := func(job *batchv1.Job) time.Time {
		if job.Status.StartTime == nil {
			return job.CreationTimestamp.Time
		}
		return job.Status.StartTime.Time
	}
	return cmp.Or(start(a).Compare(start(b)), cmp.Compare(a.Name, b.Name))
}

func refOf(job *batchv1.Job) corev1.ObjectReference {
	return corev1.ObjectReference{
		Kind: store.Jobs.Kind.Kind, APIVersion: batchv1.SchemeGroupVersion.String(),
		Namespace: job.Namespace, Name: job.Name, UID: job.UID, ResourceVersion: job.ResourceVersion,
	}
}

// surplus are the oldest jobs that have ended, beyond what is to be kept of each kind.
func surplus(cj *batchv1.CronJob, jobs []*batchv1.Job) []*batchv1.Job {
	var remove []*batchv1.Job
	for typ, limit := range map[batchv1.JobConditionType]*int32{
		batchv1.JobComplete: cj.Spec.SuccessfulJobsHistoryLimit, batchv1.JobFailed: cj.Spec.FailedJobsHistoryLimit,
	} {
		var those []*batchv1.Job
		for _, job := range jobs {
			if end := ended(job); end != nil && end.Type == typ && job.DeletionTimestamp == nil {
				those = append(those, job)
			}
		}
		if limit != nil && len(those) > int(*limit) {
			remove = append(remove, those[:len(those)-int(*limit)]...)
		}
	}
	return remove
}

// jobOf makes the job for a scheduled time. Its name follows from the time, so it is
// made once however often that is tried.
func jobOf(cj *batchv1.CronJob, at time.Time) *batchv1.Job {
	zone, err := time.LoadLocation(ptr.Deref(cj.Spec.TimeZone, ""))
	if err != nil {
		zone = time.UTC
	}
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       cj.Namespace,
			Name:            fmt.Sprintf("%s-%d", cj.Name, at.Unix()/60),
			Labels:          maps.Clone(cj.Spec.JobTemplate.Labels),
			Annotations:     maps.Clone(cj.Spec.JobTemplate.Annotations),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cj, store.CronJobs.Kind)},
		},
		Spec: *cj.Spec.JobTemplate.Spec.DeepCopy(),
	}
	metav1.SetMetaDataAnnotation(&job.ObjectMeta, batchv1.CronJobScheduledTimestampAnnotation, at.In(zone).Format(time.RFC3339))
	return job
}
