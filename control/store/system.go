package store

import (
	"context"
	"errors"
	"fmt"

	storagev1 "github.com/musterhq/muster/proto/storage/v1"

	"github.com/musterhq/muster/fsm/kv"
	"github.com/musterhq/muster/fsm/watch"
)

// systemPrefix is where Muster keeps what no API shows: join tokens, settings.
const systemPrefix = "muster/"

// System is Muster's own keys, "muster/<name>", with values of any form.
type System struct{ store *Store }

// System gives access to Muster's own keys.
func (s *Store) System() System { return System{store: s} }

// Get returns a value and its revision from this replica, ErrNotFound if there
// is none.
func (y System) Get(name string) (value []byte, revision uint64, err error) {
	item, _ := y.store.machine.Get(systemPrefix + name)
	if item == nil {
		return nil, 0, fmt.Errorf("%s%s: %w", systemPrefix, name, ErrNotFound)
	}
	return item.Value, item.Revision, nil
}

// List returns the items whose names have a prefix, in order; their keys begin
// with "muster/".
func (y System) List(prefix string) []*kv.Item {
	var items []*kv.Item
	for item := range y.store.machine.View().Range(systemPrefix+prefix, "") {
		items = append(items, item)
	}
	return items
}

// Follow calls changed after every change of a name, or of one that begins with
// it, on this replica, until ctx ends, which is no error. It may call it for
// nothing: what there is is for the callee to read.
func (y System) Follow(ctx context.Context, name string, changed func()) error {
	for {
		watcher, err := y.store.machine.Watch(systemPrefix+name, y.store.Revision())
		if err != nil {
			return fmt.Errorf("follow %s%s: %w", systemPrefix, name, err)
		}
		for err == nil {
			changed() // also at first, for what came before the watch
			_, _, err = watcher.Next(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		// The state was replaced, or this fell behind: begin anew.
		if !errors.Is(err, watch.ErrCompacted) {
			return fmt.Errorf("follow %s%s: %w", systemPrefix, name, err)
		}
	}
}

// Create sets a name that must not be there (ErrExists), and returns the
// revision.
func (y System) Create(ctx context.Context, name string, value []byte) (uint64, error) {
	revision, err := y.put(ctx, name, value, &storagev1.Guard{})
	if err == ErrConflict {
		err = ErrExists
	}
	return revision, y.wrap("create", name, err)
}

// Update sets a name that must be at revision guard, or, with 0, be there
// (ErrConflict, ErrNotFound), and returns the new revision.
func (y System) Update(ctx context.Context, name string, value []byte, guard uint64) (uint64, error) {
	revision, err := y.put(ctx, name, value, &storagev1.Guard{Revision: guard, Exists: guard == 0})
	return revision, y.wrap("update", name, err)
}

// Delete removes a name that must be at revision guard, or, with 0, be there.
func (y System) Delete(ctx context.Context, name string, guard uint64) error {
	key := []byte(systemPrefix + name)
	_, err := y.write(ctx, &storagev1.Guard{Key: key, Revision: guard, Exists: guard == 0},
		&storagev1.Op{Op: &storagev1.Op_Delete{Delete: &storagev1.Delete{Key: key}}})
	return y.wrap("delete", name, err)
}

func (y System) put(ctx context.Context, name string, value []byte, guard *storagev1.Guard) (uint64, error) {
	guard.Key = []byte(systemPrefix + name)
	return y.write(ctx, guard, &storagev1.Op{Op: &storagev1.Op_Put{
		Put: &storagev1.Put{Key: guard.Key, Value: value},
	}})
}

func (y System) write(ctx context.Context, guard *storagev1.Guard, op *storagev1.Op) (uint64, error) {
	result, err := y.store.propose(ctx, &storagev1.Txn{
		Guards: []*storagev1.Guard{guard},
		Ops:    []*storagev1.Op{op},
	})
	if err != nil {
		return 0, err
	}
	if !result.Applied {
		return 0, refusal(result)
	}
	return result.OpRevisions[0], nil
}

func (y System) wrap(verb, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s%s: %w", verb, systemPrefix, name, err)
}
