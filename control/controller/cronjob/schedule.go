package cronjob

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // zones must not depend on what a control node has installed

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
)

// manyMissed is from how many missed times on a clock that jumped is likelier than a
// control plane that was away.
const manyMissed = 100

// settle is how long after a scheduled time it is looked for: clocks may wake early.
const settle = 100 * time.Millisecond

// parse reads a schedule in the time zone of its cron job, UTC by default. Some strings
// make the library panic; they are errors like others.
func parse(cj *batchv1.CronJob) (schedule cron.Schedule, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("invalid schedule: %v", p)
		}
	}()
	text := cj.Spec.Schedule
	switch {
	case strings.Contains(text, "TZ"):
	case cj.Spec.TimeZone != nil:
		text = "TZ=" + *cj.Spec.TimeZone + " " + text
	default:
		text = "TZ=UTC " + text
	}
	return cron.ParseStandard(text)
}

// due finds the last scheduled time that has passed and was not acted on, if there is
// one, and whether suspiciously many passed before it.
func due(cj *batchv1.CronJob, schedule cron.Schedule, last time.Time, now time.Time) (at time.Time, many bool, err error) {
	if cj.Spec.StartingDeadlineSeconds != nil {
		if earliest := now.Add(-time.Duration(*cj.Spec.StartingDeadlineSeconds) * time.Second); earliest.After(last) {
			last = earliest
		}
	}
	first := schedule.Next(last)
	second := schedule.Next(first)
	switch {
	case first.IsZero() || now.Before(first):
		return time.Time{}, false, nil
	case second.IsZero() || now.Before(second):
		return first, false, nil
	}
	apart := second.Sub(first).Round(time.Second)
	if apart < time.Second {
		return time.Time{}, false, errors.New("time difference between two schedules is less than 1 second")
	}
	// Far in the past it would take long to count up to now: begin a little before.
	// Times need not be equally far apart, so the estimate may be too late.
	missed := int64(now.Sub(first)/apart) + 1
	from := first.Add(time.Duration(missed-2) * apart)
	for t := schedule.Next(from); !t.IsZero() && !t.After(now); t = schedule.Next(t) {
		at = t
	}
	if at.IsZero() {
		at = lastBefore(schedule, first, now)
	}
	return at, missed > manyMissed, nil
}

// lastBefore is the last time of a schedule that is not after now, and not before first, which is
// one. Counting up to it could take minutes, where a clock jumped by years.
func lastBefore(schedule cron.Schedule, first, now time.Time) time.Time {
	at, low, high := first, first, now // the next after low is not after now, that after high is
	for high.Sub(low) > time.Second {
		middle := low.Add(high.Sub(low) / 2)
		if t := schedule.Next(middle); t.IsZero() || t.After(now) {
			high = middle
		} else {
			at, low = t, middle
		}
	}
	return at
}

// next is how long it is to the next scheduled time, 0 if there is none.
func next(schedule cron.Schedule, now time.Time) time.Duration {
	t := schedule.Next(now)
	if t.IsZero() {
		return 0
	}
	return t.Add(settle).Sub(now)
}
