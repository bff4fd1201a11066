// Package eventttl deletes events an hour after they were last seen. Kubernetes
// leaves that to leases of etcd; here no clock runs in the store, so the leader
// does it, lazily and in batches: an idle cluster writes for this every few
// minutes at most, and not at all once its events are gone.
package eventttl

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiwatch "k8s.io/apimachinery/pkg/watch"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const (
	ttlDefault = time.Hour
	// lazyDefault is how long after the first event expires the deletion waits
	// for others, to take them along.
	lazyDefault = 2 * time.Minute
	// batchMost bounds the deletes that are proposed at a time.
	batchMost = 512
	// retryAfter is the pause after deletes that failed.
	retryAfter = 10 * time.Second
)

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	// TTL is how long events are kept, 0 for an hour.
	TTL time.Duration
	// Lazy is how long a deletion waits for more, 0 for the default.
	Lazy   time.Duration
	Logger *slog.Logger
}

// Controller deletes old events. It keeps a key and two numbers for each event,
// not the event.
type Controller struct {
	store     *store.Store
	ttl, lazy time.Duration
	log       *slog.Logger

	byKey map[string]*entry
	due   dueHeap
}

// New prepares a controller.
func New(cfg Config) *Controller {
	c := &Controller{store: cfg.Registry.Store(), ttl: cfg.TTL, lazy: cfg.Lazy, log: cfg.Logger}
	if c.ttl <= 0 {
		c.ttl = ttlDefault
	}
	if c.lazy <= 0 {
		c.lazy = lazyDefault
	}
	return c
}

// Run deletes events until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	for {
		err := c.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, store.ErrExpired):
			return fmt.Errorf("follow events: %w", err)
		}
	}
}

// follow notes all events, then what changes, and deletes what is due, until
// the watch breaks.
func (c *Controller) follow(ctx context.Context) error {
	c.byKey, c.due = make(map[string]*entry), nil
	table := c.store.Table(store.Events)
	page, err := table.List(ctx, store.ListOptions{})
	if err != nil {
		return err
	}
	for _, item := range page.Items {
		obj, err := store.Decode(store.Events, item)
		if err != nil {
			return err
		}
		c.note(item.Key, item.Revision, obj.(*corev1.Event))
	}
	watch, err := table.Watch(ctx, store.WatchOptions{After: page.Revision})
	if err != nil {
		return err
	}
	var pause time.Time // no deletes before
	for {
		wait, cancel := ctx, context.CancelFunc(func() {})
		if len(c.due) > 0 {
			at := c.due[0].expires.Add(c.lazy)
			if at.Before(pause) {
				at = pause
			}
			wait, cancel = context.WithDeadline(ctx, at)
		}
		events, _, err := watch.Next(wait)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			if !c.expire(ctx, time.Now()) {
				pause = time.Now().Add(retryAfter)
			}
			continue
		case err != nil:
			return err
		}
		for _, e := range events {
			if e.Type == apiwatch.Deleted {
				c.drop(e.Item.Key)
				continue
			}
			obj, err := store.Decode(store.Events, e.Item)
			if err != nil {
				return err
			}
			c.note(e.Item.Key, e.Item.Revision, obj.(*corev1.Event))
		}
	}
}

func (c *Controller) note(key string, revision uint64, event *corev1.Event) {
	if len(event.Finalizers) > 0 {
		c.drop(key) // somebody wants to keep it
		return
	}
	expires := lastSeen(event).Add(c.ttl)
	if e := c.byKey[key]; e != nil {
		e.expires, e.revision = expires, revision
		heap.Fix(&c.due, e.index)
		return
	}
	e := &entry{key: key, expires: expires, revision: revision}
	c.byKey[key] = e
	heap.Push(&c.due, e)
}

func (c *Controller) drop(key string) {
	if e := c.byKey[key]; e != nil {
		heap.Remove(&c.due, e.index)
		delete(c.byKey, key)
	}
}

// expire deletes what is due now, unless it has changed since it was noted. What
// is gone the watch will show; false when something could not be deleted.
func (c *Controller) expire(ctx context.Context, now time.Time) (ok bool) {
	var writes []store.Write
	var taken []*entry
	for len(c.due) > 0 && len(writes) < batchMost && !c.due[0].expires.After(now) {
		e := heap.Pop(&c.due).(*entry)
		delete(c.byKey, e.key)
		namespace, name := store.Events.SplitKey(e.key)
		writes = append(writes, store.Write{Verb: store.Delete, Spec: store.Events, Namespace: namespace, Name: name, Guard: e.revision})
		taken = append(taken, e)
	}
	ok = true
	for i, result := range c.store.Batch(ctx, writes) {
		if result.Err == nil || errors.Is(result.Err, store.ErrNotFound) || errors.Is(result.Err, store.ErrConflict) {
			continue
		}
		if ok && ctx.Err() == nil {
			c.log.Warn("old events not deleted, trying again", "err", result.Err)
		}
		ok = false
		c.byKey[taken[i].key] = taken[i]
		heap.Push(&c.due, taken[i])
	}
	return ok
}

// lastSeen is the newest of the times in an event.
func lastSeen(e *corev1.Event) time.Time {
	last := e.CreationTimestamp.Time
	for _, t := range []time.Time{e.FirstTimestamp.Time, e.LastTimestamp.Time, e.EventTime.Time} {
		if t.After(last) {
			last = t
		}
	}
	if e.Series != nil && e.Series.LastObservedTime.After(last) {
		last = e.Series.LastObservedTime.Time
	}
	return last
}

type entry struct {
	key      string
	expires  time.Time
	revision uint64
	index    int // in the heap
}

type dueHeap []*entry

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].expires.Before(h[j].expires) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *dueHeap) Push(x any) {
	e := x.(*entry)
	e.index = len(*h)
	*h = append(*h, e)
}
func (h *dueHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}
