package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/test/bench/measure"
)

const (
	pacedPuts      = 100 // per second
	saturatingPuts = 16  // writers
	catchUpTimeout = 20 * time.Second
)

// fanOut has watchers of one prefix, spread over all nodes, and writers. What
// is timed is from before the put until a watcher has the event. Without a
// pace the writers go as fast as they are answered.
type fanOut struct {
	watchers int
	writers  int
	pace     time.Duration // between one writer's puts; 0: none
	duration time.Duration
	keys     int
}

// run ends when every watcher has heard of every put; events that have not
// come by then are counted as errors.
func (f fanOut) run(ctx context.Context, c *cluster, clients []client, other *cluster) (measure.Round, error) {
	after, err := clients[0].revision(ctx)
	if err != nil {
		return measure.Round{}, err
	}
	epoch := time.Now()
	watching, hangUp := context.WithCancel(ctx)
	defer hangUp()
	var (
		delivered atomic.Int64
		last      atomic.Int64 // since epoch
		watchers  sync.WaitGroup
		each      = make([]measure.Latencies, f.watchers)
		broken    = make(chan error, f.watchers)
	)
	for i := range f.watchers {
		watchers.Go(func() {
			err := clients[i%len(clients)].watch(watching, []byte(watchPrefix), after, func(value []byte) {
				now := time.Since(epoch)
				each[i].Record(now - time.Duration(binary.LittleEndian.Uint64(value)))
				delivered.Add(1)
				last.Store(int64(now))
			})
			if watching.Err() == nil {
				broken <- fmt.Errorf("watch: %w", err)
			}
		})
	}
	meter, err := costs(c, other).Begin()
	if err != nil {
		return measure.Round{}, err
	}
	var puts atomic.Int64
	var failed measure.Failures
	var failedMu sync.Mutex
	writing, enough := context.WithTimeout(ctx, f.duration)
	defer enough()
	var writers sync.WaitGroup
	began := time.Since(epoch)
	for i := range f.writers {
		w := newWorker(clients[i%len(clients)], i, f.keys, valueBytes)
		writers.Go(func() {
			for k := 1; writing.Err() == nil; k++ {
				binary.LittleEndian.PutUint64(w.value, uint64(time.Since(epoch)))
				// Not the writers' context: a put that is cut off may be heard of or not.
				if err := w.put(ctx, keyAt(watchPrefix, w.random.IntN(w.keys)), w.value); err != nil {
					failedMu.Lock()
					failed.Add(err)
					failedMu.Unlock()
					measure.Sleep(writing, failurePause)
					continue
				}
				puts.Add(1)
				measure.Sleep(writing, time.Until(epoch.Add(began+time.Duration(k)*f.pace)))
			}
		})
	}
	writers.Wait()
	want := puts.Load() * int64(f.watchers)
	deadline := time.Now().Add(catchUpTimeout)
	for delivered.Load() < want && len(broken) == 0 && time.Now().Before(deadline) && ctx.Err() == nil {
		time.Sleep(2 * time.Millisecond)
	}
	round, err := meter.End()
	if err != nil {
		return measure.Round{}, err
	}
	hangUp()
	watchers.Wait()
	round.Seconds = (time.Duration(last.Load()) - began).Seconds()
	var all measure.Latencies
	for i := range each {
		all.Add(&each[i])
	}
	if missing := want - int64(all.Count()); missing > 0 {
		failed.Merge(measure.Failures{Count: uint64(missing), First: fmt.Sprintf("%d events have not come", missing)})
	}
	select {
	case err := <-broken:
		failed.Add(err)
	default:
	}
	round.Measured(&all)
	round.Errors, round.FirstError = failed.Count, failed.First
	return round, nil
}
