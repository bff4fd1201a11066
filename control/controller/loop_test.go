package controller

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Keys added many times before and during a run must come out once each per
// change, never two at a time, and not be lost when they are added while their
// reconcile runs.
func TestLoopNeverOverlapsAKeyAndLosesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		running := map[int]bool{}
		seen := map[int]int{}   // value that the last reconcile saw
		wanted := map[int]int{} // value that was set last
		loop := NewLoop("test", 4, quiet(), func(ctx context.Context, key int) error {
			mu.Lock()
			if running[key] {
				t.Errorf("two reconciles of key %d at a time", key)
			}
			running[key] = true
			value := wanted[key]
			mu.Unlock()
			time.Sleep(time.Millisecond)
			mu.Lock()
			running[key] = false
			seen[key] = value
			mu.Unlock()
			return nil
		})
		set := func(key int) {
			mu.Lock()
			wanted[key]++
			mu.Unlock()
			loop.Add(key)
		}
		for i := range 100 {
			set(i % 10)
		}
		done := make(chan error)
		go func() { done <- loop.Run(ctx) }()
		for i := range 1000 {
			set(i % 10)
			time.Sleep(100 * time.Microsecond)
		}
		time.Sleep(time.Second)
		mu.Lock()
		for key, want := range wanted {
			if seen[key] != want {
				t.Errorf("key %d: last reconcile saw %d, want %d", key, seen[key], want)
			}
		}
		mu.Unlock()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		loop.Add(1) // after the end: nobody listens, nothing blocks
	})
}

func TestLoopTriesAgainWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var calls []time.Time
		loop := NewLoop("test", 1, quiet(), func(context.Context, string) error {
			calls = append(calls, time.Now())
			if len(calls) < 6 {
				return errors.New("not yet")
			}
			return nil
		})
		loop.Add("key")
		done := make(chan error)
		go func() { done <- loop.Run(ctx) }()
		time.Sleep(time.Minute)
		cancel()
		<-done
		if len(calls) != 6 {
			t.Fatalf("%d calls, want 6: five failures and a success", len(calls))
		}
		for i := 2; i < len(calls); i++ {
			last, this := calls[i-1].Sub(calls[i-2]), calls[i].Sub(calls[i-1])
			if this < last*3/2 {
				t.Errorf("pause %d is %v after %v, want it to double", i, this, last)
			}
		}
	})
}

func TestLoopAddAfterWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var calls atomic.Int32
		loop := NewLoop("test", 1, quiet(), func(context.Context, string) error { calls.Add(1); return nil })
		loop.AddAfter("before", 3*time.Second)
		done := make(chan error)
		go func() { done <- loop.Run(ctx) }()
		time.Sleep(2 * time.Second)
		loop.AddAfter("during", 2*time.Second)
		synctest.Wait()
		if n := calls.Load(); n != 0 {
			t.Errorf("%d calls after 2 s, want none", n)
		}
		time.Sleep(1500 * time.Millisecond)
		if n := calls.Load(); n != 1 {
			t.Errorf("%d calls after 3.5 s, want 1", n)
		}
		time.Sleep(time.Second)
		if n := calls.Load(); n != 2 {
			t.Errorf("%d calls after 4.5 s, want 2", n)
		}
		cancel()
		<-done
	})
}

// A reconcile that fails because the term ended must not be called again, and
// Run must not return before it has.
func TestLoopEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var calls atomic.Int32
		var inside atomic.Bool
		loop := NewLoop("test", 2, quiet(), func(ctx context.Context, key string) error {
			calls.Add(1)
			inside.Store(true)
			<-ctx.Done()
			time.Sleep(time.Second)
			inside.Store(false)
			return ctx.Err()
		})
		loop.Add("key")
		done := make(chan error)
		go func() { done <- loop.Run(ctx) }()
		time.Sleep(time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if inside.Load() {
			t.Error("Run returned while a reconcile was under way")
		}
		if n := calls.Load(); n != 1 {
			t.Errorf("%d calls, want 1", n)
		}
	})
}
