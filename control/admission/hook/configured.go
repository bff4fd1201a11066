package hook

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/musterhq/muster/control/store"
)

// Configured is something made of all objects of one or more kinds, remembered
// until one of them changes. It is as new as this replica: what was written
// through this node, or has arrived here, counts for the next request.
type Configured[T any] struct {
	store  *store.Store
	tables []*store.Table
	build  func(objects [][]store.Object, before T) (T, error)

	now    atomic.Pointer[configuration[T]]
	making sync.Mutex
}

type configuration[T any] struct {
	changes []uint64 // the revision of the last change of each table
	value   T
}

// NewConfigured remembers what build makes of the objects of each kind, in the
// order of their names. before is what it made last, of which it may keep what
// is still true.
func NewConfigured[T any](s *store.Store, build func(objects [][]store.Object, before T) (T, error), specs ...*store.Spec) *Configured[T] {
	c := &Configured[T]{store: s, build: build}
	for _, spec := range specs {
		c.tables = append(c.tables, s.Table(spec))
	}
	return c
}

// Now is what the objects of this moment make.
func (c *Configured[T]) Now() (T, error) {
	if now := c.now.Load(); now != nil && c.current(now) {
		return now.value, nil
	}
	c.making.Lock()
	defer c.making.Unlock()
	before := c.now.Load()
	if before != nil && c.current(before) {
		return before.value, nil
	}
	made := &configuration[T]{}
	// Before the look at the objects: what changes meanwhile is seen next time.
	revision := c.store.Revision()
	for _, table := range c.tables {
		made.changes = append(made.changes, table.LastChange(revision))
	}
	view := c.store.View()
	objects := make([][]store.Object, len(c.tables))
	for i, table := range c.tables {
		for item := range view.Range(table.Spec().Prefix(""), "") {
			obj, err := store.Decode(table.Spec(), item)
			if err != nil {
				return made.value, err
			}
			objects[i] = append(objects[i], obj)
		}
	}
	var kept T
	if before != nil {
		kept = before.value
	}
	var err error
	if made.value, err = c.build(objects, kept); err != nil {
		return made.value, fmt.Errorf("%s: %w", c.tables[0].Spec().Resource, err)
	}
	c.now.Store(made)
	return made.value, nil
}

func (c *Configured[T]) current(now *configuration[T]) bool {
	revision := c.store.Revision()
	for i, table := range c.tables {
		if table.LastChange(revision) != now.changes[i] {
			return false
		}
	}
	return true
}
