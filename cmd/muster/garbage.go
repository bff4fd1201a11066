package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// gcPercent is how much garbage a control node's heap may hold beside what
	// lives. What lives is mostly values, which are quick to mark: half of Go's
	// default costs little as long as there is little to do, and saves a quarter of
	// the heap. GOGC in the environment counts instead.
	gcPercent = 50
	// Under load the small heap of a control node would be collected many times a
	// second, at the cost of a fifth of the work. A heap whose garbage is collected
	// again sooner than garbageSoon after the last time may hold twice as much, up
	// to garbageMax. A load, which is collections less than garbageBusy apart, is
	// over when none has come for garbageRest.
	garbageSoon = 400 * time.Millisecond
	garbageMax  = 96 << 20
	garbageBusy = 10 * time.Second
	garbageRest = 3 * time.Second
)

// tendGarbage sets how much garbage the heap may hold, from collection to
// collection, and gives memory back when a load is over.
func tendGarbage(ctx context.Context) {
	debug.SetGCPercent(gcPercent)
	collected := make(chan struct{}, 1)
	toldOfCollections(ctx, collected)
	rest := time.NewTimer(garbageRest)
	rest.Stop()
	percent, last, own := gcPercent, time.Now(), false
	set := func(next int) {
		if next != percent {
			percent = next
			debug.SetGCPercent(percent)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-rest.C:
			set(gcPercent)
			debug.FreeOSMemory()
			own = true
		case <-collected:
			lasted := time.Since(last)
			last = time.Now()
			if own {
				own = false // the one that giving back begins with
				continue
			}
			set(garbagePercent(percent, lasted, liveBytes()))
			if lasted <= garbageBusy || percent > gcPercent {
				rest.Reset(garbageRest)
			}
		}
	}
}

// garbagePercent is how much garbage may be beside so much that lives, in per
// cent, after it was so much and lasted so long.
func garbagePercent(percent int, lasted time.Duration, live uint64) int {
	if lasted > garbageSoon {
		return percent
	}
	most := gcPercent
	if live > 0 {
		most = int(min(garbageMax*100/live, 1000))
	}
	return max(gcPercent, min(2*percent, most))
}

// toldOfCollections sends to told after each collection: one of an object that
// nobody holds, which is then made anew.
func toldOfCollections(ctx context.Context, told chan<- struct{}) {
	if ctx.Err() != nil {
		return
	}
	runtime.AddCleanup(new([16]byte), func(struct{}) {
		select {
		case told <- struct{}{}:
		default:
		}
		toldOfCollections(ctx, told)
	}, struct{}{})
}

// liveBytes is what the last collection found alive.
func liveBytes() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}
