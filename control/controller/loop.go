// Package controller is what controllers are made of: shared copies of the
// objects that they read (Caches), a loop that turns changes into calls of a
// reconcile function (Loop), and a recorder of events. What a controller does
// is its own folder's business.
//
// Everything here lives for one leader term. It is made when the term begins,
// with a store whose writes go through that term, and ends with its context; the
// next leader begins from what is stored.
package controller

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"
)

// The pause before a key whose reconcile failed is tried again, doubling.
const (
	retryFirst = 5 * time.Millisecond
	retryMost  = 30 * time.Second
)

// Loop calls a reconcile function for keys. A key that is added many times
// before its turn is reconciled once; two calls for one key never overlap. It
// holds each key at most once, so it is bounded by the number of objects.
type Loop[K comparable] struct {
	name      string
	workers   int
	log       *slog.Logger
	reconcile func(ctx context.Context, key K) error

	mu    sync.Mutex
	queue workqueue.TypedRateLimitingInterface[K] // nil before and after Run
	early map[K]time.Duration                     // added before Run
}

// NewLoop prepares a loop; nothing runs before Run. Reconcile is called from up
// to that many workers, each time with the whole present state to look at: it
// does what is missing and returns, an error means that it wants to be called again.
func NewLoop[K comparable](name string, workers int, log *slog.Logger, reconcile func(ctx context.Context, key K) error) *Loop[K] {
	return &Loop[K]{name: name, workers: workers, log: log, reconcile: reconcile, early: make(map[K]time.Duration)}
}

// Add asks for a reconcile of key. It never blocks.
func (l *Loop[K]) Add(key K) { l.AddAfter(key, 0) }

// AddAfter asks for a reconcile of key once d has passed.
func (l *Loop[K]) AddAfter(key K, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.queue != nil:
		l.queue.AddAfter(key, d)
	case l.early != nil:
		if earlier, ok := l.early[key]; !ok || d < earlier {
			l.early[key] = d
		}
	}
}

// Run reconciles until ctx ends, and then waits for the calls under way. It runs
// once.
func (l *Loop[K]) Run(ctx context.Context) error {
	l.mu.Lock()
	l.queue = workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[K](retryFirst, retryMost))
	queue, early := l.queue, l.early
	l.early = nil
	l.mu.Unlock()
	for key, d := range early {
		queue.AddAfter(key, d)
	}

	var g errgroup.Group
	for range l.workers {
		g.Go(func() error {
			for l.step(ctx, queue) {
			}
			return nil
		})
	}
	<-ctx.Done()
	l.mu.Lock()
	l.queue = nil
	l.mu.Unlock()
	queue.ShutDown()
	return g.Wait()
}

// step reconciles one key; false when there will be no more.
func (l *Loop[K]) step(ctx context.Context, queue workqueue.TypedRateLimitingInterface[K]) bool {
	key, shutdown := queue.Get()
	if shutdown {
		return false
	}
	defer queue.Done(key)
	if ctx.Err() != nil {
		return true // drain what is left
	}
	err := l.reconcile(ctx, key)
	switch {
	case err == nil:
		queue.Forget(key)
		return true
	case ctx.Err() != nil || errors.Is(err, context.Canceled):
		// The term is over, and with it the reason to do anything.
	case apierrors.IsConflict(err):
		l.log.Debug("reconcile met a newer object, trying again", "controller", l.name, "key", key, "err", err)
	default:
		l.log.Warn("reconcile failed, trying again", "controller", l.name, "key", key, "err", err)
	}
	queue.AddRateLimited(key)
	return true
}
