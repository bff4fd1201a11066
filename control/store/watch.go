package store

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	apiwatch "k8s.io/apimachinery/pkg/watch"

	"github.com/musterhq/muster/control/store/keyring"
	"github.com/musterhq/muster/fsm/kv"
	"github.com/musterhq/muster/fsm/watch"
)

// WatchOptions say what to watch. The zero value is everything that ever was.
type WatchOptions struct {
	Namespace string          // "": all
	Labels    labels.Selector // nil: all
	Fields    fields.Selector // nil: all
	// After is the revision of a list, or of the last event seen: only later
	// changes are told. It may lie ahead of this replica.
	After uint64
}

// Event is a change as the watch's selectors see it: an update that makes an
// object match is Added, one that makes it cease to match is Deleted.
type Event struct {
	Type apiwatch.EventType // Added, Modified or Deleted
	// Item is the new state. For Deleted it is the last one that matched,
	// with the revision of the change that ended it.
	Item *kv.Item
}

// Watch is a running watch. One goroutine uses it; it needs no closing.
type Watch struct {
	store     *Store
	selection selection
	watcher   *watch.Watcher
}

// Watch starts to watch. ErrExpired when changes after opts.After are
// forgotten already.
func (t *Table) Watch(ctx context.Context, opts WatchOptions) (*Watch, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	selection, err := t.selects(opts.Namespace, opts.Labels, opts.Fields)
	if err != nil {
		return nil, err
	}
	watcher, err := t.store.machine.Watch(selection.prefix, opts.After)
	if err != nil {
		return nil, expired(selection.prefix, err)
	}
	return &Watch{store: t.store, selection: selection, watcher: watcher}, nil
}

// Next waits for events and returns them, and the revision reached: nothing at
// or below it is outstanding. When ctx ends it returns ctx's error and no
// events; the revision reached is still good, for a bookmark. ErrExpired when
// the watch fell behind the history, or the state was replaced by a snapshot.
func (w *Watch) Next(ctx context.Context) ([]Event, uint64, error) {
	for {
		changes, reached, err := w.watcher.Next(ctx)
		if err != nil {
			return nil, reached, expired(w.selection.prefix, err)
		}
		events := make([]Event, 0, len(changes))
		for _, change := range changes {
			e, ok := w.selection.event(change)
			if !ok {
				continue
			}
			if e.Item, err = w.store.open(w.selection.spec, e.Item); err != nil {
				return nil, reached, w.unopened(err)
			}
			events = append(events, e)
		}
		if len(events) > 0 {
			return events, reached, nil
		}
	}
}

// unopened says why an event cannot be told. One whose key is gone is of the
// past, as the key would not be gone otherwise: whoever lists anew is served.
func (w *Watch) unopened(err error) error {
	if errors.Is(err, keyring.ErrNoKey) {
		return fmt.Errorf("watch %s: %w (%w)", w.selection.prefix, ErrExpired, err)
	}
	return err
}

// Progress is the revision up to which nothing is outstanding.
func (w *Watch) Progress() uint64 { return w.watcher.Progress() }

func (s *selection) event(change watch.Event) (Event, bool) {
	now, before := s.matches(change.Item), s.matches(change.Prev)
	switch {
	case now && before:
		return Event{Type: apiwatch.Modified, Item: change.Item}, true
	case now:
		return Event{Type: apiwatch.Added, Item: change.Item}, true
	case before:
		last := *change.Prev
		last.Revision = change.Revision
		return Event{Type: apiwatch.Deleted, Item: &last}, true
	}
	return Event{}, false
}

func expired(prefix string, err error) error {
	if errors.Is(err, watch.ErrCompacted) {
		return fmt.Errorf("watch %s: %w", prefix, ErrExpired)
	}
	return err
}
