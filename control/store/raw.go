package store

import (
	"context"
	"io"

	"github.com/musterhq/muster/fsm/kv"
	"github.com/musterhq/muster/fsm/watch"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// Raw is every key as the state machine has it, for who looks at the store
// itself rather than at objects. Nothing here knows what a key means: whoever
// writes an object's key answers for its bytes.
type Raw struct{ store *Store }

// Raw gives access to all keys.
func (s *Store) Raw() Raw { return Raw{store: s} }

// Get returns a key's item on this replica, or nil, and the revision that was
// read.
func (r Raw) Get(key string) (*kv.Item, uint64) { return r.store.machine.Get(key) }

// ViewAt returns the state of a prefix at a revision, once this replica is
// there: watch.ErrCompacted when it is not known any more, or ctx's error.
func (r Raw) ViewAt(ctx context.Context, prefix string, revision uint64) (*kv.View, error) {
	if err := r.store.WaitRevision(ctx, revision); err != nil {
		return nil, err
	}
	return r.store.machine.ViewAt(prefix, revision)
}

// Commit sends a transaction through the log. A guard that fails is a result.
func (r Raw) Commit(ctx context.Context, txn *storagev1.Txn) (*storagev1.Result, error) {
	return r.store.propose(ctx, txn)
}

// Snapshot takes this replica's state as it is and returns a function that
// writes it, in fsm's format.
func (r Raw) Snapshot() (func(io.Writer) error, error) { return r.store.machine.Snapshot() }

// Watch returns a watcher of the changes after a revision to keys with a
// prefix, on this replica, or watch.ErrCompacted.
func (r Raw) Watch(prefix string, after uint64) (*watch.Watcher, error) {
	return r.store.machine.Watch(prefix, after)
}
