package resource

import (
	"context"
	"maps"

	batchv1 "k8s.io/api/batch/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// Jobs own pods, which they find by a label with their own uid.
var Jobs = &Kind{
	Spec:       store.Jobs,
	Singular:   "job",
	Categories: []string{"all"},
	Strategy: strategy(store.Jobs, "", Rules[*batchv1.Job]{
		PrepareForCreate: func(_ context.Context, job *batchv1.Job) {
			if job.Spec.ManualSelector == nil || !*job.Spec.ManualSelector {
				selectOwnPods(job)
			}
			if len(job.Labels) == 0 {
				// A default that was filled in before its source was there.
				job.Labels = maps.Clone(job.Spec.Template.Labels)
			}
			job.Status = batchv1.JobStatus{}
			job.Generation = 1
			kube.DropDisabledJobFields(job, nil)
		},
		Validate: kube.ValidateJob,
		WarningsOnCreate: func(ctx context.Context, job *batchv1.Job) []string {
			return append(nameWarning("Pod names and hostnames", job.Name), kube.JobWarnings(ctx, job, nil)...)
		},
		PrepareForUpdate: func(_ context.Context, job, old *batchv1.Job) {
			job.Status = old.Status
			kube.DropDisabledJobFields(job, old)
			if !apiequality.Semantic.DeepEqual(job.Spec, old.Spec) {
				job.Generation = old.Generation + 1
			}
		},
		ValidateUpdate: kube.ValidateJobUpdate,
		WarningsOnUpdate: func(ctx context.Context, job, old *batchv1.Job) []string {
			if job.Generation == old.Generation {
				return nil
			}
			return kube.JobWarnings(ctx, job, old)
		},
		Options: kube.JobOptions,
		// What batch/v1 did before there were policies. kubectl always says.
		Dependents: rest.OrphanDependents,
	}),
	Subresources: []*Subresource{status(store.Jobs, Rules[*batchv1.Job]{
		PrepareForUpdate: func(_ context.Context, job, old *batchv1.Job) { job.Spec = old.Spec },
		ValidateUpdate:   kube.ValidateJobStatusUpdate,
		Options:          kube.JobOptions,
	})},
	onDelete: func(ctx context.Context, _ string, options *metav1.DeleteOptions) error {
		if options.PropagationPolicy == nil && options.OrphanDependents == nil { //nolint:staticcheck // old clients send it
			warning.AddWarning(ctx, "", "child pods are preserved by default when jobs are deleted; "+
				"set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning")
		}
		return nil
	},
}

// selectOwnPods labels the pods of a job with its name and uid and selects by
// the uid. What the user set is left for validation to judge.
func selectOwnPods(job *batchv1.Job) {
	labels := job.Spec.Template.Labels
	if labels == nil {
		labels = map[string]string{}
		job.Spec.Template.Labels = labels
	}
	for label, value := range map[string]string{
		"job-name":                 job.Name, // as it was called before labels had prefixes
		batchv1.JobNameLabel:       job.Name,
		"controller-uid":           string(job.UID),
		batchv1.ControllerUidLabel: string(job.UID),
	} {
		if _, set := labels[label]; !set {
			labels[label] = value
		}
	}
	if job.Spec.Selector == nil {
		job.Spec.Selector = &metav1.LabelSelector{}
	}
	if job.Spec.Selector.MatchLabels == nil {
		job.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, set := job.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !set {
		job.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(job.UID)
	}
}
