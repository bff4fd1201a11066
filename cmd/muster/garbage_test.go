package main

import (
	"context"
	"runtime"
	"testing"
	"time"
)

func TestGarbageMayGrowWhileThereIsLoad(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		name    string
		percent int
		lasted  time.Duration
		live    uint64
		want    int
	}{
		{"twice as much after a short time", 50, 100 * time.Millisecond, 20 * mib, 100},
		{"as before after a longer one", 200, time.Second, 20 * mib, 200},
		{"no more than the bound", 400, 100 * time.Millisecond, 20 * mib, 480},
		{"a large heap has its share", 50, 100 * time.Millisecond, 1000 * mib, 50},
		{"a heap that has grown gives up some", 480, 100 * time.Millisecond, 96 * mib, 100},
		{"a tiny heap is bounded, too", 900, 100 * time.Millisecond, mib, 1000},
		{"nothing is known of the heap", 50, 100 * time.Millisecond, 0, 50},
	} {
		if got := garbagePercent(c.percent, c.lasted, c.live); got != c.want {
			t.Errorf("%s: got %d %%, want %d", c.name, got, c.want)
		}
	}
}

func TestEveryCollectionIsTold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan struct{}, 1)
	toldOfCollections(ctx, told)
	for i := range 3 {
		deadline := time.Now().Add(10 * time.Second)
		for heard := false; !heard; {
			runtime.GC()
			select {
			case <-told:
				heard = true
			case <-time.After(10 * time.Millisecond):
				if time.Now().After(deadline) {
					t.Fatalf("collection %d was not told of", i+1)
				}
			}
		}
	}
}
