package cronjob

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/utils/ptr"
)

// counting counts how often a schedule is asked for its next time.
type counting struct {
	cron.Schedule
	calls *int
}

func (c counting) Next(t time.Time) time.Time {
	*c.calls++
	return c.Schedule.Next(t)
}

// A clock that jumps by years, to a time long after the schedule's last one, must not make
// the leader count all the minutes between.
func TestMissedTimesAreNotCountedOneByOne(t *testing.T) {
	for text, want := range map[string]time.Time{
		"* * * * 1-5":  time.Date(2026, 3, 6, 23, 59, 0, 0, time.UTC), // now is a Sunday
		"* * * 4-12 *": time.Date(2025, 12, 31, 23, 59, 0, 0, time.UTC),
		"* * 29 2 *":   time.Date(2024, 2, 29, 23, 59, 0, 0, time.UTC),
		"*/7 3 * * *":  time.Date(2026, 3, 8, 3, 56, 0, 0, time.UTC),
		"@every 90s":   time.Date(2026, 3, 8, 5, 6, 0, 0, time.UTC),
		"0 0 1 1 *":    time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		cj := makeCron(text)
		schedule, err := parse(cj)
		if err != nil {
			t.Fatal(err)
		}
		calls := 0
		at, _, err := due(cj, counting{schedule, &calls}, time.Date(2006, 1, 2, 0, 0, 0, 0, time.UTC), time.Date(2026, 3, 8, 5, 6, 30, 0, time.UTC))
		if err != nil || !at.Equal(want) {
			t.Errorf("%s: %v (%v), want %v", text, at, err, want)
		}
		if calls > 100 {
			t.Errorf("%s: asked %d times for the next time, want some tens", text, calls)
		}
	}
}

// However the clock jumps, forward by years or back by days, and whoever leads: a job for each
// time at most, never for a time that has not come, and somebody looks again.
func TestNoTimeIsActedOnTwiceHoweverTheClockJumps(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	for _, text := range []string{"* * * * *", "*/5 * * * 1-5", "30 2 * * *", "0 0 29 2 *", "@hourly"} {
		for _, zone := range []string{"UTC", "Europe/Berlin", "America/St_Johns"} {
			cj := makeCron(text, func(cj *batchv1.CronJob) { cj.Spec.TimeZone = ptr.To(zone) })
			clock, started := now, map[string]time.Time{}
			for range 300 {
				switch random.IntN(6) {
				case 0:
					clock = clock.Add(time.Duration(random.Int64N(int64(3 * 365 * 24 * time.Hour))))
				case 1:
					clock = clock.Add(-time.Duration(random.Int64N(int64(40 * 24 * time.Hour))))
				default:
					clock = clock.Add(time.Duration(random.Int64N(int64(2 * time.Hour))))
				}
				p := makePlan(cj, nil, clock)
				if p.again <= 0 {
					t.Fatalf("%s in %s at %v: nobody looks again", text, zone, clock)
				}
				if p.create == nil {
					continue
				}
				at, _ := scheduledAt(p.create)
				if at.After(clock) {
					t.Fatalf("%s in %s at %v: a job for %v", text, zone, clock, at)
				}
				if _, twice := started[p.create.Name]; twice {
					t.Fatalf("%s in %s at %v: a second job for %v", text, zone, clock, at)
				}
				started[p.create.Name] = at
				last(at)(cj)
			}
			if len(started) < 3 {
				t.Errorf("%s in %s: %d jobs in all", text, zone, len(started))
			}
		}
	}
}
