package cronjob

import (
	"errors"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/utils/ptr"
)

// ErrNeverRuns says that a cron job has no next run.
var ErrNeverRuns = errors.New("never")

// Next is the next job of a cron job, and when it is started; ErrNeverRuns, with the
// reason, if it is not.
func Next(cj *batchv1.CronJob, now time.Time) (*batchv1.Job, time.Time, error) {
	if ptr.Deref(cj.Spec.Suspend, false) {
		return nil, time.Time{}, fmt.Errorf("%w: it is suspended", ErrNeverRuns)
	}
	schedule, err := parse(cj)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("%w: %w", ErrNeverRuns, err)
	}
	at := schedule.Next(now)
	if at.IsZero() {
		return nil, at, fmt.Errorf("%w: no time comes that %q means", ErrNeverRuns, cj.Spec.Schedule)
	}
	return jobOf(cj, at), at, nil
}
