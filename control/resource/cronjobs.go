package resource

import (
	"context"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// CronJobs own jobs.
var CronJobs = &Kind{
	Spec:       store.CronJobs,
	Singular:   "cronjob",
	ShortNames: []string{"cj"},
	Categories: []string{"all"},
	Strategy: strategy(store.CronJobs, "", Rules[*batchv1.CronJob]{
		PrepareForCreate: func(_ context.Context, c *batchv1.CronJob) {
			c.Status = batchv1.CronJobStatus{}
			c.Generation = 1
			kube.DropDisabledCronJobFields(c, nil)
		},
		Validate: kube.ValidateCronJob,
		WarningsOnCreate: func(ctx context.Context, c *batchv1.CronJob) []string {
			return append(nameWarning("Pod names and hostnames", c.Name), kube.CronJobWarnings(ctx, c, nil)...)
		},
		PrepareForUpdate: func(_ context.Context, c, old *batchv1.CronJob) {
			c.Status = old.Status
			kube.DropDisabledCronJobFields(c, old)
			if !apiequality.Semantic.DeepEqual(c.Spec, old.Spec) {
				c.Generation = old.Generation + 1
			}
		},
		ValidateUpdate: kube.ValidateCronJobUpdate,
		WarningsOnUpdate: func(ctx context.Context, c, old *batchv1.CronJob) []string {
			var warnings []string
			if c.Generation != old.Generation {
				warnings = kube.CronJobWarnings(ctx, c, old)
			}
			if strings.Contains(c.Spec.Schedule, "TZ") {
				// The path is upstream's, word for word.
				warnings = append(warnings, "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, "+
					"see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details")
			}
			return warnings
		},
		Options: kube.JobOptions,
	}),
	Subresources: []*Subresource{status(store.CronJobs, Rules[*batchv1.CronJob]{
		PrepareForUpdate: func(_ context.Context, c, old *batchv1.CronJob) { c.Spec = old.Spec },
		Options:          kube.JobOptions,
	})},
}
