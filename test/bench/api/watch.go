package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/test/bench/measure"
	"github.com/musterhq/muster/test/bench/wire"
)

const (
	saturatingWriters = 16
	pacedDeliveries   = 5_000 // events a second, over all watchers
	// aheadMax is how many events writers may be ahead of the slowest watcher.
	// kube-apiserver ends watches that fall far behind, and what is measured is
	// the pace that all of them keep up with.
	aheadMax       = 64
	aheadPause     = 500 * time.Microsecond
	catchUpTimeout = 30 * time.Second
	dialsAtOnce    = 32
	failurePause   = 10 * time.Millisecond
)

// fanOut has watchers of one namespace's pods, each with a connection of its
// own, and writers of their status. What is timed is from before the write until
// a watcher has the event. Writers who are not paced go as fast as they are
// answered and the watchers keep up.
type fanOut struct {
	media    string
	watchers int
	pods     int
	paced    int // writes a second; 0: as many as can be
	duration time.Duration
}

// watcher counts what it hears.
type watcher struct {
	heard   atomic.Int64
	last    atomic.Int64 // since the case began
	gone    atomic.Bool
	latency measure.Latencies
}

// run ends when every watcher has heard of every write; events that have not
// come by then are counted as errors.
func (f fanOut) run(ctx context.Context, c *cluster) (measure.Round, error) {
	epoch := time.Now()
	watching, hangUp := context.WithCancel(ctx)
	var listening sync.WaitGroup
	defer listening.Wait()
	defer hangUp()
	watchers, err := f.watch(watching, c, epoch, &listening)
	if err != nil {
		return measure.Round{}, err
	}
	meter, err := c.Costs().Begin()
	if err != nil {
		return measure.Round{}, err
	}
	began := time.Since(epoch)
	written, failed, err := f.write(ctx, c, epoch, watchers)
	if err != nil {
		return measure.Round{}, err
	}
	deadline := time.Now().Add(catchUpTimeout)
	for slowest(watchers) < written && time.Now().Before(deadline) && ctx.Err() == nil {
		time.Sleep(2 * time.Millisecond)
	}
	round, err := meter.End()
	if err != nil {
		return round, err
	}
	hangUp()
	listening.Wait()
	var all measure.Latencies
	last := began
	for _, w := range watchers {
		all.Add(&w.latency)
		last = max(last, time.Duration(w.last.Load()))
	}
	round.Seconds = (last - began).Seconds()
	if missing := written*int64(f.watchers) - int64(all.Count()); missing > 0 {
		failed.Merge(measure.Failures{Count: uint64(missing), First: fmt.Sprintf("%d events have not come", missing)})
	}
	round.Measured(&all)
	round.Errors, round.FirstError = failed.Count, failed.First
	return round, nil
}

// slowest is how much the one has heard that has heard least, of those whose
// watch goes on.
func slowest(watchers []*watcher) int64 {
	least := int64(math.MaxInt64)
	for _, w := range watchers {
		if !w.gone.Load() {
			least = min(least, w.heard.Load())
		}
	}
	return least
}

// watch returns when every watcher's stream is open.
func (f fanOut) watch(ctx context.Context, c *cluster, epoch time.Time, listening *sync.WaitGroup) ([]*watcher, error) {
	clients, err := c.clients(f.watchers, f.media)
	if err != nil {
		return nil, err
	}
	version, err := c.version(ctx, namespaceOf(f.pods))
	if err != nil {
		return nil, err
	}
	var (
		watchers = make([]*watcher, f.watchers)
		opened   = make(chan error, f.watchers)
		room     = make(chan struct{}, dialsAtOnce)
	)
	for i := range watchers {
		w := &watcher{}
		watchers[i] = w
		listening.Go(func() {
			room <- struct{}{}
			stream, err := clients[i].watchPods(ctx, namespaceOf(f.pods), version)
			<-room
			opened <- err
			if err != nil {
				return
			}
			// Whatever ends a watch before its time shows as events that are missing.
			defer stream.Close()
			defer w.gone.Store(true)
			_ = w.listen(stream, f.media, epoch)
		})
	}
	for range watchers {
		err = errors.Join(err, <-opened)
	}
	return watchers, err
}

func (w *watcher) listen(stream io.Reader, media string, epoch time.Time) error {
	for events := wire.NewFrames(stream, media == inJSON); ; {
		frame, err := events.Next()
		if err != nil {
			return err
		}
		if wire.IsError(frame) {
			return errors.New("the watch was ended")
		}
		began, ok := stampOf(frame)
		if !ok {
			continue // a bookmark
		}
		now := time.Since(epoch)
		w.latency.Record(now - began)
		w.last.Store(int64(now))
		w.heard.Add(1)
	}
}

// write changes pods' status, and answers how often.
func (f fanOut) write(ctx context.Context, c *cluster, epoch time.Time, watchers []*watcher) (int64, measure.Failures, error) {
	writers, pause := saturatingWriters, time.Duration(0)
	if f.paced > 0 {
		writers, pause = 1, time.Second/time.Duration(f.paced)
	}
	clients, err := c.clients(f.watchers+writers, inProtobuf)
	if err != nil {
		return 0, measure.Failures{}, err
	}
	var (
		written atomic.Int64
		failed  measure.Failures
		mu      sync.Mutex
		wg      sync.WaitGroup
	)
	writing, enough := context.WithTimeout(ctx, f.duration)
	defer enough()
	began := time.Now()
	for _, client := range clients[f.watchers:] {
		wg.Go(func() {
			for k := 1; writing.Err() == nil; k++ {
				if written.Load()-slowest(watchers) > aheadMax {
					time.Sleep(aheadPause)
					continue
				}
				body, err := statusPatch(stamp(time.Since(epoch)))
				if err == nil {
					// Not the writers' context: a write that is cut off may be heard of or not.
					err = client.patchStatus(ctx, namespaceOf(f.pods), podName(rand.IntN(f.pods)), body)
				}
				if err != nil {
					mu.Lock()
					failed.Add(err)
					mu.Unlock()
					measure.Sleep(writing, failurePause)
					continue
				}
				written.Add(1)
				measure.Sleep(writing, time.Until(began.Add(time.Duration(k)*pause)))
			}
		})
	}
	wg.Wait()
	return written.Load(), failed, nil
}

// version is a namespace's newest.
func (c *cluster) version(ctx context.Context, namespace string) (string, error) {
	clients, err := c.clients(1, inProtobuf)
	if err != nil {
		return "", err
	}
	list, err := clients[0].rest.Get().Namespace(namespace).Resource("pods").Param("limit", "1").Do(ctx).Get()
	if err != nil {
		return "", err
	}
	return list.(metav1.ListInterface).GetResourceVersion(), nil
}
