package main

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/test/bench/measure"
)

// fake is a system of one node that answers after some time.
type fake struct {
	takes time.Duration
	// failing, if not nil, says what becomes of a put.
	failing func(ctx context.Context) error
	// dropped: every so manieth event is not sent. 0: none.
	dropped int

	mu       sync.Mutex
	puts     map[string]int
	count    int
	watchers []chan []byte
}

func (f *fake) put(ctx context.Context, key, value []byte) error {
	if f.failing != nil {
		if err := f.failing(ctx); err != nil {
			return err
		}
	}
	time.Sleep(f.takes)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.puts == nil {
		f.puts = map[string]int{}
	}
	f.puts[string(key)]++
	f.count++
	if f.dropped > 0 && f.count%f.dropped == 0 {
		return nil
	}
	for _, w := range f.watchers {
		w <- append([]byte(nil), value...)
	}
	return nil
}

func (f *fake) get(context.Context, []byte, bool) error  { time.Sleep(f.takes); return nil }
func (f *fake) revision(context.Context) (uint64, error) { return 1, nil }
func (f *fake) state(context.Context) (bool, int, error) { return true, 1, nil }
func (f *fake) clients() []client                        { return []client{f} }
func (f *fake) survivors() []*node                       { return []*node{{name: "a", clients: f.clients()}} }
func (f *fake) load(count int64, do func(*worker) error) load {
	return load{workers: 4, keys: 10, size: 16, count: count, do: func(_ context.Context, w *worker) error { return do(w) }}
}
func (f *fake) run(t *testing.T, l load) measure.Round {
	t.Helper()
	round, err := l.run(t.Context(), &cluster{}, f.clients(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return round
}

func (f *fake) watch(ctx context.Context, _ []byte, _ uint64, put func([]byte)) error {
	events := make(chan []byte, 1<<16)
	f.mu.Lock()
	f.watchers = append(f.watchers, events)
	f.mu.Unlock()
	for {
		select {
		case value := <-events:
			put(value)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestLoadCountsWhatWasAnsweredInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: 10 * time.Millisecond}
		round := f.run(t, load{
			workers: 8, keys: 10, size: 16, warm: 105 * time.Millisecond, duration: time.Second,
			do: func(ctx context.Context, w *worker) error { return w.putTo(ctx, writePrefix) },
		})
		// 8 workers, each 100 answers in the second that counts; those of the
		// warm-up do not, nor does what is answered after the end.
		if round.Count != 800 || round.PerSecond != 800 || round.Errors != 0 {
			t.Errorf("%d operations, %v per second, %d errors, want 800, 800, 0", round.Count, round.PerSecond, round.Errors)
		}
		if round.P50 != 10 || round.Max != 10 {
			t.Errorf("p50 %v ms, max %v ms, want 10 and 10", round.P50, round.Max)
		}
	})
}

func TestLoadOfACountDoesExactlySoMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: time.Millisecond}
		round := f.run(t, f.load(1001, func(w *worker) error { return w.putTo(t.Context(), writePrefix) }))
		if round.Count != 1001 || f.count != 1001 {
			t.Errorf("%d counted, %d done, want 1001", round.Count, f.count)
		}
	})
}

func TestErrorsAreCountedAndNotTimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: time.Second}
		round := f.run(t, f.load(20, func(*worker) error { return errors.New("no") }))
		if round.Count != 0 || round.Errors != 20 || round.FirstError != "no" || round.P99 != 0 {
			t.Errorf("got %+v, want 20 errors and nothing else", round)
		}
	})
}

func TestKeysAreOfOneLength(t *testing.T) {
	for _, number := range []int{0, 7, 9_999_999} {
		if got := keyAt(readPrefix, number); len(got) != keyBytes {
			t.Errorf("%q has %d bytes, want %d", got, len(got), keyBytes)
		}
	}
}

func TestFanOutCountsEveryEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: 3 * time.Millisecond}
		fan := fanOut{watchers: 5, writers: 1, pace: 10 * time.Millisecond, duration: 995 * time.Millisecond, keys: 10}
		round, err := fan.run(t.Context(), &cluster{}, f.clients(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if round.Count != 500 || round.Errors != 0 {
			t.Errorf("%d events, %d errors (%s), want 500 and none", round.Count, round.Errors, round.FirstError)
		}
		if round.P50 != 3 {
			t.Errorf("p50 %v ms, want 3, from before the put", round.P50)
		}
	})
}

func TestFanOutMissesNoLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{takes: time.Millisecond, dropped: 10}
		fan := fanOut{watchers: 5, writers: 1, pace: 10 * time.Millisecond, duration: 995 * time.Millisecond, keys: 10}
		round, err := fan.run(t.Context(), &cluster{}, f.clients(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if round.Errors != 50 {
			t.Errorf("%d errors, want 50: 10 puts that 5 watchers did not hear of", round.Errors)
		}
	})
}

// A put that hangs, because it was handed to the dead leader, must not keep the
// measurement from seeing that others succeed.
func TestFirstPutIsNotHeldUpByThoseBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const outage = 2500 * time.Millisecond
		begin := time.Now()
		f := &fake{failing: func(ctx context.Context) error {
			if time.Since(begin) < outage {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}}
		took, err := firstPut(t.Context(), f.survivors(), begin)
		if err != nil || took < outage || took > outage+probeEach {
			t.Errorf("got %v, %v, want %v to %v", took, err, outage, outage+probeEach)
		}
	})
}

func TestFirstPutGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{failing: func(context.Context) error { return errors.New("no leader") }}
		if took, err := firstPut(t.Context(), f.survivors(), time.Now()); err == nil {
			t.Errorf("got %v, want an error", took)
		}
	})
}
