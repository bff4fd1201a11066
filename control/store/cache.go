package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiwatch "k8s.io/apimachinery/pkg/watch"

	"github.com/musterhq/muster/fsm/kv"
)

// Cache is the decoded objects of a kind, kept as current as this replica:
// each revision of an object is decoded once, whoever looks at it. Its objects
// are shared and must never be modified.
type Cache[T Object] struct {
	store    *Store
	table    *Table
	indexers map[string]func(T) []string
	handlers []func(old, new T)
	synced   chan struct{}
	// fieldSets are Run's goroutine's.
	fieldSets map[string]*metav1.FieldsV1

	mu       sync.RWMutex
	objects  map[string]cached[T] // by key
	indexes  map[string]index[T]  // by the indexer's name
	revision uint64               // objects and handlers have everything up to it
	advanced chan struct{}        // closed when revision moves, nil when nobody waits
}

type cached[T Object] struct {
	object   T
	revision uint64
}

// index is objects by value, then by key.
type index[T Object] map[string]map[string]T

// NewCache returns a cache that is empty until Run. An indexer names the
// values that an object is found by with ByIndex.
func NewCache[T Object](s *Store, spec *Spec, indexers map[string]func(T) []string) *Cache[T] {
	c := &Cache[T]{
		store:    s,
		table:    Of[T](s, spec).Table(),
		indexers: indexers,
		synced:   make(chan struct{}),
		objects:  map[string]cached[T]{},
		indexes:  map[string]index[T]{},
	}
	for name := range indexers {
		c.indexes[name] = index[T]{}
	}
	return c
}

// OnChange calls f for every object that comes (old is nil), changes, or goes
// (new is nil), from Run's goroutine and in the order of their revisions. The
// cache already shows the change then. Before Run only; f must not call
// WaitRevision.
func (c *Cache[T]) OnChange(f func(old, new T)) { c.handlers = append(c.handlers, f) }

// Synced is closed once the objects that existed when Run began are there, and
// handlers have been told of them.
func (c *Cache[T]) Synced() <-chan struct{} { return c.synced }

// Run keeps the cache current until ctx ends, which is no error. When it falls
// behind the watch history, or the state is replaced by a snapshot, it lists
// anew and tells handlers the difference.
func (c *Cache[T]) Run(ctx context.Context) error {
	for {
		err := c.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, ErrExpired):
			return fmt.Errorf("cache of %s: %w", c.table.spec.Resource, err)
		}
	}
}

// Get returns an object, and whether there is one. namespace is "" for kinds
// that are in none.
func (c *Cache[T]) Get(namespace, name string) (T, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	found, ok := c.objects[c.table.spec.Prefix(namespace)+name]
	return found.object, ok
}

// List returns all objects, in no order.
func (c *Cache[T]) List() []T {
	c.mu.RLock()
	defer c.mu.RUnlock()
	objects := make([]T, 0, len(c.objects))
	for _, entry := range c.objects {
		objects = append(objects, entry.object)
	}
	return objects
}

// ByIndex returns the objects for which the indexer of that name returned
// value, in no order.
func (c *Cache[T]) ByIndex(name, value string) []T {
	c.mu.RLock()
	defer c.mu.RUnlock()
	index, ok := c.indexes[name]
	if !ok {
		panic(fmt.Sprintf("the cache of %s has no index %q", c.table.spec.Resource, name))
	}
	return slices.Collect(maps.Values(index[value]))
}

// WaitRevision returns once the cache shows this kind as it was at revision,
// or newer, and handlers have been told: who wrote at that revision then sees
// it here. It waits for nothing when only other kinds changed.
func (c *Cache[T]) WaitRevision(ctx context.Context, revision uint64) error {
	if err := c.store.WaitRevision(ctx, revision); err != nil {
		return err
	}
	target := c.store.machine.LastChange(c.table.spec.Prefix(""), revision)
	for {
		c.mu.Lock()
		if c.revision >= target && c.listed() {
			c.mu.Unlock()
			return nil
		}
		if c.advanced == nil {
			c.advanced = make(chan struct{})
		}
		advanced := c.advanced
		c.mu.Unlock()
		select {
		case <-advanced:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *Cache[T]) listed() bool {
	select {
	case <-c.synced:
		return true
	default:
		return false
	}
}

// follow lists, then watches from there until that breaks.
func (c *Cache[T]) follow(ctx context.Context) error {
	view := c.store.View()
	watch, err := c.table.Watch(ctx, WatchOptions{After: view.Revision()})
	if err != nil {
		return err
	}
	changes, err := c.difference(ctx, view)
	if err != nil {
		return err
	}
	c.apply(changes, view.Revision())
	for {
		events, reached, err := watch.Next(ctx)
		if err != nil {
			return err
		}
		changes := make([]change[T], 0, len(events))
		for _, e := range events {
			if e.Type == apiwatch.Deleted {
				changes = append(changes, change[T]{key: e.Item.Key})
				continue
			}
			now, err := c.decode(e.Item)
			if err != nil {
				return err
			}
			changes = append(changes, now)
		}
		c.apply(changes, reached)
	}
}

// change is a key's new object; a zero cached says that it is gone.
type change[T Object] struct {
	key string
	now cached[T]
}

func (c *Cache[T]) decode(item *kv.Item) (change[T], error) {
	item, err := c.store.open(c.table.spec, item)
	if err != nil {
		return change[T]{}, err
	}
	object, err := decode[T](c.table.spec, item)
	if err == nil {
		c.shareFields(object.GetManagedFields())
	}
	return change[T]{item.Key, cached[T]{object, item.Revision}}, err
}

// fieldSetsMax is how many sets of managed fields are remembered to be shared.
const fieldSetsMax = 1024

// shareFields lets objects have sets of managed fields in common: those of pods of
// one template are the same, and half of what a decoded pod's metadata takes. Run's
// goroutine alone calls it.
func (c *Cache[T]) shareFields(entries []metav1.ManagedFieldsEntry) {
	for i := range entries {
		raw := entries[i].FieldsV1.GetRawBytes()
		if len(raw) == 0 {
			continue
		}
		if shared := c.fieldSets[string(raw)]; shared != nil {
			entries[i].FieldsV1 = shared
			continue
		}
		if c.fieldSets == nil || len(c.fieldSets) >= fieldSetsMax {
			c.fieldSets = map[string]*metav1.FieldsV1{}
		}
		c.fieldSets[string(raw)] = entries[i].FieldsV1
	}
}

// difference is what leads from what the cache shows to a view. Only Run's
// goroutine changes objects, so it may read them without the lock.
func (c *Cache[T]) difference(ctx context.Context, view *kv.View) ([]change[T], error) {
	var changes []change[T]
	for key := range c.objects {
		if view.Get(key) == nil {
			changes = append(changes, change[T]{key: key})
		}
	}
	for item := range view.Range(c.table.spec.Prefix(""), "") {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		before, ok := c.objects[item.Key]
		if ok && before.revision == item.Revision {
			continue
		}
		now, err := c.decode(item)
		if err != nil {
			return nil, err
		}
		if ok && before.object.GetUID() != now.now.object.GetUID() {
			// Another object of the same name: the one we knew was deleted.
			changes = append(changes, change[T]{key: item.Key})
		}
		changes = append(changes, now)
	}
	return changes, nil
}

// apply shows changes, tells handlers, and only then says that the cache is at
// revision.
func (c *Cache[T]) apply(changes []change[T], revision uint64) {
	before := make([]T, len(changes))
	c.mu.Lock()
	for i, change := range changes {
		before[i] = c.set(change)
	}
	c.mu.Unlock()
	for i, change := range changes {
		for _, handle := range c.handlers {
			handle(before[i], change.now.object)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revision = max(c.revision, revision)
	if !c.listed() {
		close(c.synced)
	}
	if c.advanced != nil {
		close(c.advanced)
		c.advanced = nil
	}
}

// set shows one change and returns the object before. c.mu is held.
func (c *Cache[T]) set(change change[T]) (before T) {
	old, existed := c.objects[change.key]
	if existed {
		for name, indexer := range c.indexers {
			for _, value := range indexer(old.object) {
				delete(c.indexes[name][value], change.key)
				if len(c.indexes[name][value]) == 0 {
					delete(c.indexes[name], value)
				}
			}
		}
	}
	if change.now.revision == 0 {
		delete(c.objects, change.key)
		return old.object
	}
	c.objects[change.key] = change.now
	for name, indexer := range c.indexers {
		for _, value := range indexer(change.now.object) {
			if c.indexes[name][value] == nil {
				c.indexes[name][value] = map[string]T{}
			}
			c.indexes[name][value][change.key] = change.now.object
		}
	}
	return old.object
}
