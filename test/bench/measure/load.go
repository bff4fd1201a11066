package measure

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	opTimeout    = 15 * time.Second
	failurePause = 10 * time.Millisecond
)

// Load is what workers do who each wait for their answer before they ask again:
// for a time, or so many times altogether.
type Load struct {
	Workers  int
	Warm     time.Duration // not counted
	Duration time.Duration // ignored when there is a Count
	Count    int64
	// Do is one operation of the worker of that number.
	Do func(ctx context.Context, worker int) error
}

// Run drives the load. Operations that fail are counted, not timed, and a
// worker pauses after one.
func (l Load) Run(ctx context.Context, costs Costs) (Round, error) {
	if l.Count == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.Warm+l.Duration+opTimeout)
		defer cancel()
	}
	begin := time.Now()
	counted, end := begin.Add(l.Warm), begin.Add(l.Warm+l.Duration)
	var started atomic.Int64
	var wg sync.WaitGroup
	each := make([]Latencies, l.Workers)
	errs := make([]Failures, l.Workers)
	for i := range l.Workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				if l.Count > 0 && started.Add(1) > l.Count {
					return
				}
				asked := time.Now()
				if l.Count == 0 && asked.After(end) {
					return
				}
				err := l.Do(ctx, i)
				answered := time.Now()
				if l.Count == 0 && (answered.Before(counted) || answered.After(end)) {
					continue
				}
				if err != nil {
					errs[i].Add(err)
					time.Sleep(failurePause)
					continue
				}
				each[i].Record(answered.Sub(asked))
			}
		})
	}
	Sleep(ctx, l.Warm)
	meter, err := costs.Begin()
	if err != nil {
		return Round{}, err
	}
	if l.Count == 0 {
		Sleep(ctx, l.Duration)
	} else {
		wg.Wait()
	}
	round, err := meter.End()
	if err != nil {
		return Round{}, err
	}
	wg.Wait()
	if l.Count == 0 {
		round.Seconds = l.Duration.Seconds()
	}
	var all Latencies
	var failed Failures
	for i := range each {
		all.Add(&each[i])
		failed.Merge(errs[i])
	}
	round.Measured(&all)
	round.Errors, round.FirstError = failed.Count, failed.First
	return round, nil
}

// Sleep returns early when ctx ends.
func Sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Failures are how many, and what the first was.
type Failures struct {
	Count uint64
	First string
}

// Add counts one.
func (f *Failures) Add(err error) { f.Merge(Failures{1, err.Error()}) }

// Merge counts others'.
func (f *Failures) Merge(other Failures) {
	f.Count += other.Count
	if f.First == "" {
		f.First = other.First
	}
}
