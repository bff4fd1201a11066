package kube

import (
	"context"

	batchv1 "k8s.io/api/batch/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/pkg/api/job"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/batch"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	"k8s.io/kubernetes/pkg/apis/batch/validation"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/utils/ptr"
)

// DropDisabledJobFields drops what j uses of disabled features and old, which
// is nil for a new job, did not.
func DropDisabledJobFields(j, old *batchv1.Job) {
	in := internal[*batch.Job](j)
	var was *batch.JobSpec
	if old != nil {
		was = &internal[*batch.Job](old).Spec
	} else if !utilfeature.DefaultFeatureGate.Enabled(features.JobManagedBy) {
		in.Spec.ManagedBy = nil
	}
	dropDisabledJobSpec(&in.Spec, was)
	external(in, j)
}

// DropDisabledCronJobFields does the same for the jobs that a cron job makes.
func DropDisabledCronJobFields(c, old *batchv1.CronJob) {
	in := internal[*batch.CronJob](c)
	var was *batch.JobSpec
	if old != nil {
		was = &internal[*batch.CronJob](old).Spec.JobTemplate.Spec
	}
	dropDisabledJobSpec(&in.Spec.JobTemplate.Spec, was)
	external(in, c)
}

func dropDisabledJobSpec(spec, was *batch.JobSpec) {
	job.DropDisabledFields(spec, was)
	if was == nil {
		podutil.DropDisabledTemplateFields(&spec.Template, nil)
		return
	}
	podutil.DropDisabledTemplateFields(&spec.Template, &was.Template)
}

// ValidateJob says what is wrong with a new job.
func ValidateJob(_ context.Context, j *batchv1.Job) field.ErrorList {
	in := internal[*batch.Job](j)
	return validation.ValidateJobCreate(in, validation.JobValidationOptions{
		PodValidationOptions:  podutil.GetValidationOptionsFromPodTemplate(&in.Spec.Template, nil),
		RequirePrefixedLabels: true,
	})
}

// ValidateJobUpdate says what of j must not differ from old so. The pod
// template of a job that has not begun, or is suspended, may change in part.
func ValidateJobUpdate(_ context.Context, j, old *batchv1.Job) field.ErrorList {
	in, was := internal[*batch.Job](j), internal[*batch.Job](old)
	options := validation.JobValidationOptions{
		PodValidationOptions: podutil.GetValidationOptionsFromPodTemplate(&in.Spec.Template, &was.Spec.Template),
	}
	options.AllowInvalidLabelValueInSelector = options.AllowInvalidLabelValueInSelector || metav1validation.LabelSelectorHasInvalidLabelValue(was.Spec.Selector)

	suspended := ptr.Deref(was.Spec.Suspend, false)
	notStarted := was.Status.StartTime == nil
	quiet := suspended && (notStarted || validation.IsConditionTrue(was.Status.Conditions, batch.JobSuspended)) && was.Status.Active == 0
	options.AllowMutableSchedulingDirectives = suspended && notStarted
	if utilfeature.DefaultFeatureGate.Enabled(features.MutablePodResourcesForSuspendedJobs) {
		options.AllowMutablePodResources = quiet
	}
	if utilfeature.DefaultFeatureGate.Enabled(features.MutableSchedulingDirectivesForSuspendedJobs) {
		options.AllowMutableSchedulingDirectives = quiet
	}

	_, hadName := was.Spec.Template.Labels[batch.JobNameLabel]
	_, hadUID := was.Spec.Template.Labels[batch.ControllerUidLabel]
	options.RequirePrefixedLabels = hadName && hadUID
	return validation.ValidateJobUpdate(in, was, options)
}

// ValidateJobStatusUpdate says what of a job's status must not differ from old so.
func ValidateJobStatusUpdate(_ context.Context, j, old *batchv1.Job) field.ErrorList {
	in, was := internal[*batch.Job](j), internal[*batch.Job](old)
	if !utilfeature.DefaultFeatureGate.Enabled(features.JobManagedBy) {
		return validation.ValidateJobUpdateStatus(in, was, validation.JobStatusValidationOptions{})
	}
	return validation.ValidateJobUpdateStatus(in, was, jobStatusOptions(in, was))
}

// jobStatusOptions are upstream's: whoever runs the job, its status must make
// sense to those who read it. A rule holds for what changes, so that a status
// that broke it before, or because the spec changed since, can be mended.
func jobStatusOptions(job, old *batch.Job) validation.JobStatusValidationOptions {
	now, before := &job.Status, &old.Status
	changed := func(t batch.JobConditionType) bool {
		return validation.IsConditionTrue(before.Conditions, t) != validation.IsConditionTrue(now.Conditions, t)
	}
	var (
		indexed          = ptr.Deref(job.Spec.CompletionMode, batch.NonIndexedCompletion) == batch.IndexedCompletion
		finished         = validation.IsJobFinished(old) != validation.IsJobFinished(job)
		complete         = validation.IsJobComplete(old) != validation.IsJobComplete(job)
		failed           = validation.IsJobFailed(old) != validation.IsJobFailed(job)
		failureTarget    = changed(batch.JobFailureTarget)
		success          = changed(batch.JobSuccessCriteriaMet)
		completedIndexes = before.CompletedIndexes != now.CompletedIndexes
		failedIndexes    = !ptr.Equal(before.FailedIndexes, now.FailedIndexes)
		active           = before.Active != now.Active
		startTime        = !ptr.Equal(before.StartTime, now.StartTime)
		completionTime   = !ptr.Equal(before.CompletionTime, now.CompletionTime)
		uncounted        = !apiequality.Semantic.DeepEqual(before.UncountedTerminatedPods, now.UncountedTerminatedPods)
		ready            = !ptr.Equal(before.Ready, now.Ready)
		terminating      = !ptr.Equal(before.Terminating, now.Terminating)

		nothingToDo = ptr.Equal(job.Spec.Suspend, new(true)) && ptr.Equal(job.Spec.Completions, new(int32(0)))
		resuming    = validation.IsConditionTrue(before.Conditions, batch.JobSuspended) && validation.IsConditionFalse(now.Conditions, batch.JobSuspended)
	)
	return validation.JobStatusValidationOptions{
		// An indexed job with as many pods as completions can be scaled down.
		RejectDecreasingSucceededCounter:             !indexed || !ptr.Equal(job.Spec.Completions, job.Spec.Parallelism),
		RejectDecreasingFailedCounter:                true,
		RejectDisablingTerminalCondition:             true,
		RejectInvalidCompletedIndexes:                completedIndexes,
		RejectInvalidFailedIndexes:                   failedIndexes,
		RejectCompletedIndexesForNonIndexedJob:       completedIndexes,
		RejectFailedIndexesForNoBackoffLimitPerIndex: failedIndexes,
		RejectFailedIndexesOverlappingCompleted:      failedIndexes || completedIndexes,
		RejectFailedJobWithoutFailureTarget:          failed || failedIndexes,
		RejectCompleteJobWithoutSuccessCriteriaMet:   complete || success,
		RejectFinishedJobWithActivePods:              finished || active,
		RejectFinishedJobWithoutStartTime:            (finished || startTime) && !nothingToDo,
		RejectFinishedJobWithUncountedTerminatedPods: finished || uncounted,
		RejectStartTimeUpdateForUnsuspendedJob:       startTime && !resuming,
		RejectCompletionTimeBeforeStartTime:          startTime || completionTime,
		RejectMutatingCompletionTime:                 true,
		RejectNotCompleteJobWithCompletionTime:       complete || completionTime,
		RejectCompleteJobWithoutCompletionTime:       complete || completionTime,
		RejectCompleteJobWithFailedCondition:         complete || failed,
		RejectCompleteJobWithFailureTargetCondition:  complete || failureTarget,
		RejectMoreReadyThanActivePods:                ready || active,
		RejectFinishedJobWithTerminatingPods:         finished || terminating,
	}
}

// ValidateCronJob says what is wrong with a new cron job.
func ValidateCronJob(_ context.Context, c *batchv1.CronJob) field.ErrorList {
	in := internal[*batch.CronJob](c)
	return validation.ValidateCronJobCreate(in, podutil.GetValidationOptionsFromPodTemplate(&in.Spec.JobTemplate.Spec.Template, nil))
}

// ValidateCronJobUpdate says what of c must not differ from old so.
func ValidateCronJobUpdate(_ context.Context, c, old *batchv1.CronJob) field.ErrorList {
	in, was := internal[*batch.CronJob](c), internal[*batch.CronJob](old)
	return validation.ValidateCronJobUpdate(in, was,
		podutil.GetValidationOptionsFromPodTemplate(&in.Spec.JobTemplate.Spec.Template, &was.Spec.JobTemplate.Spec.Template))
}

// JobWarnings is what a user of j should hear though it is valid. old is nil
// for a new job.
func JobWarnings(ctx context.Context, j, old *batchv1.Job) []string {
	in := internal[*batch.Job](j)
	var was *batch.JobSpec
	if old != nil {
		was = &internal[*batch.Job](old).Spec
	}
	return job.WarningsForJobSpec(ctx, field.NewPath("spec"), &in.Spec, was)
}

// CronJobWarnings does the same for the jobs that a cron job makes.
func CronJobWarnings(ctx context.Context, c, old *batchv1.CronJob) []string {
	in := internal[*batch.CronJob](c)
	var was *batch.JobSpec
	if old != nil {
		was = &internal[*batch.CronJob](old).Spec.JobTemplate.Spec
	}
	return job.WarningsForJobSpec(ctx, field.NewPath("spec", "jobTemplate", "spec"), &in.Spec.JobTemplate.Spec, was)
}

// JobOptions are the options that the declarative rules of jobs and of the jobs
// in cron jobs refer to.
func JobOptions() map[string]bool {
	gate := features.WorkloadWithJob
	return map[string]bool{string(gate): utilfeature.DefaultFeatureGate.Enabled(gate)}
}
