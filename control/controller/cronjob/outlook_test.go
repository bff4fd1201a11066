package cronjob

import (
	"errors"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/utils/ptr"
)

func TestNextIsTheNextRun(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	job, at, err := Next(makeCron("0 12 * * *", func(cj *batchv1.CronJob) { cj.Spec.TimeZone = ptr.To("Europe/Berlin") }), now)
	if want := time.Date(2026, 1, 2, 11, 0, 0, 0, time.UTC); err != nil || !at.Equal(want) || job == nil {
		t.Errorf("got %v, %v, want a job at %v", at, err, want)
	}
	for name, cj := range map[string]*batchv1.CronJob{
		"suspended":            makeCron("0 12 * * *", func(cj *batchv1.CronJob) { cj.Spec.Suspend = ptr.To(true) }),
		"the 30th of February": makeCron("0 0 30 2 *"),
		"no schedule":          makeCron("often"),
	} {
		if job, _, err := Next(cj, now); !errors.Is(err, ErrNeverRuns) || job != nil {
			t.Errorf("%s: got %v, want %v", name, err, ErrNeverRuns)
		}
	}
}
