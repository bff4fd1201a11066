package flow

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// One client floods, in as many requests as it is let; another sends one now and
// then. In a single queue it would wait for the whole flood each time.
func TestNoisyClientDoesNotStarveOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(4, time.Hour)
		ctx, end := context.WithCancel(t.Context())
		var noise sync.WaitGroup
		for range 400 {
			noise.Go(func() {
				for ctx.Err() == nil {
					leave, err := q.Enter(ctx, "noisy", false)
					if errors.Is(err, ErrFull) {
						time.Sleep(time.Millisecond)
						continue
					}
					if err != nil {
						return
					}
					time.Sleep(10 * time.Millisecond)
					leave()
				}
			})
		}
		time.Sleep(time.Second)
		if _, waiting := q.Load(); waiting < 100 {
			t.Fatalf("%d wait, want a flood", waiting)
		}
		for i := range 20 {
			began := time.Now()
			leave, err := q.Enter(ctx, fmt.Sprintf("quiet-%d", i%3), false)
			if err != nil {
				t.Fatal(err)
			}
			waited := time.Since(began)
			leave()
			// The noisy client's 6 queues hold up to 300 requests, 750 ms of work.
			if waited > 50*time.Millisecond {
				t.Errorf("request %d waited %v, want no longer than a few of the others' take", i, waited)
			}
			time.Sleep(20 * time.Millisecond)
		}
		end()
		noise.Wait()
		if running, waiting := q.Load(); running != 0 || waiting != 0 {
			t.Errorf("%d run and %d wait after all is over", running, waiting)
		}
	})
}

func TestEqualClientsGetEqualShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(2, time.Hour)
		ctx, end := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var mu sync.Mutex
		served := map[string]int{}
		for client, many := range map[string]int{"a": 5, "b": 20, "c": 40} {
			for range many {
				all.Go(func() {
					for ctx.Err() == nil {
						leave, err := q.Enter(ctx, client, false)
						if err != nil {
							return
						}
						time.Sleep(10 * time.Millisecond)
						mu.Lock()
						served[client]++
						mu.Unlock()
						leave()
					}
				})
			}
		}
		time.Sleep(30 * time.Second)
		end()
		all.Wait()
		// A client has up to 6 queues, and one for each request at most, so the
		// shares are equal but for that: nobody gets less than half of a third.
		total := served["a"] + served["b"] + served["c"]
		for client, n := range served {
			if n < total/6 {
				t.Errorf("%s got %d of %d", client, n, total)
			}
		}
	})
}

func TestWaitingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(1, 15*time.Second)
		leave, err := q.Enter(t.Context(), "x", false)
		if err != nil {
			t.Fatal(err)
		}
		var full, late int
		var mu sync.Mutex
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				_, err := q.Enter(t.Context(), "x", false)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.Is(err, ErrFull):
					full++
				case errors.Is(err, ErrLate):
					late++
				}
			})
		}
		all.Wait()
		if late != hand*queueMost || full != 1000-late {
			t.Errorf("%d were refused at once and %d after 15 s, want %d and %d", full, late, 1000-hand*queueMost, hand*queueMost)
		}
		exempt, err := q.Enter(t.Context(), "root", true)
		if err != nil {
			t.Errorf("exempt: %v", err)
		} else {
			if _, err := q.Enter(t.Context(), "root", true); !errors.Is(err, ErrFull) {
				t.Errorf("exempt beyond twice the seats: %v, want %v", err, ErrFull)
			}
			exempt()
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := q.Enter(ctx, "y", false); !errors.Is(err, context.Canceled) {
			t.Errorf("a client that went away: %v", err)
		}
		leave()
		if running, waiting := q.Load(); running != 0 || waiting != 0 {
			t.Errorf("%d run and %d wait after all is over", running, waiting)
		}
	})
}

func TestLimitLeavesRoomForOthers(t *testing.T) {
	l := NewLimit(3, 2)
	for n, want := range []bool{true, true, false} {
		if got := l.Enter("a"); got != want {
			t.Errorf("place %d of a: %t, want %t", n+1, got, want)
		}
	}
	for n, want := range []bool{true, false} {
		if got := l.Enter("b"); got != want {
			t.Errorf("place %d of b, beside two of a: %t, want %t", n+1, got, want)
		}
	}
	l.Leave("a")
	if !l.Enter("b") {
		t.Error("a place that was given back is not there")
	}
}
