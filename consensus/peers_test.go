package consensus

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"
)

// A notice may overtake the entry it names and is refused then. Nobody offers
// it again; without another try the follower would learn of the commit late.
func TestCourierTriesAgain(t *testing.T) {
	c := newCourier()
	accepted := make(chan struct{}, 1)
	var tries []uint64
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		c.run(ctx, func(value uint64) bool {
			tries = append(tries, value)
			return len(tries) > 3
		})
	})
	c.offer(7, accepted)
	<-accepted
	cancel()
	wg.Wait()
	if want := []uint64{7, 7, 7, 7}; !slices.Equal(tries, want) {
		t.Errorf("delivered %v, want %v", tries, want)
	}
}

// A peer that is away is not asked for ever, and is asked again for what is new.
func TestCourierGivesUp(t *testing.T) {
	c := newCourier()
	values := make(chan uint64, 100)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		c.run(ctx, func(value uint64) bool {
			values <- value
			return false
		})
	})
	for _, value := range []uint64{7, 8} {
		c.offer(value, nil)
		for range courierTries {
			if got := <-values; got != value {
				t.Fatalf("delivered %d, want %d", got, value)
			}
		}
		select {
		case <-values:
			t.Fatalf("%d was tried more than %d times", value, courierTries)
		case <-time.After(3 * retryPause):
		}
	}
	cancel()
	wg.Wait()
}

// What comes while a delivery is on its way is delivered after it, once, as the newest.
func TestCourierMergesWhatWaits(t *testing.T) {
	c := newCourier()
	begun, end := make(chan uint64), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		c.run(ctx, func(value uint64) bool {
			begun <- value
			<-end
			return true
		})
	})
	first, second := make(chan struct{}, 1), make(chan struct{}, 1)
	c.offer(1, first)
	if got := <-begun; got != 1 {
		t.Errorf("delivered %d, want 1", got)
	}
	c.offer(2, nil)
	c.offer(3, second)
	end <- struct{}{}
	<-first
	if len(second) > 0 {
		t.Error("accepted by a delivery that had begun before")
	}
	if got := <-begun; got != 3 {
		t.Errorf("delivered %d, want 3", got)
	}
	end <- struct{}{}
	<-second
	cancel()
	wg.Wait()
}
