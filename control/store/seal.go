package store

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/musterhq/muster/control/store/keyring"
	"github.com/musterhq/muster/fsm/kv"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// keyringName is where the cluster's keyring is, among Muster's own keys.
const keyringName = "keyring"

// ErrNoKeyring says that values cannot be sealed yet: the leader makes the
// keyring of a new cluster, and of one that had none.
var ErrNoKeyring = errors.New("the cluster has no keyring yet")

// sealer is what a Store and its copies need to read and write sealed values.
type sealer struct {
	root   keyring.Root
	loaded atomic.Pointer[loadedRing]
}

type loadedRing struct {
	ring     *keyring.Ring
	revision uint64
}

// Sealing returns the store with the root of the cluster's keyring. Without it
// a store writes kinds with Spec.Sealed in the clear, and reads no sealed ones.
func (s *Store) Sealing(root keyring.Root) *Store {
	copied := *s
	copied.sealer = &sealer{root: root}
	return &copied
}

// ring is the keyring as this replica has it, and its revision.
func (s *Store) ring() (*keyring.Ring, uint64, error) {
	item, _ := s.machine.Get(systemPrefix + keyringName)
	if item == nil || s.sealer == nil {
		return nil, 0, ErrNoKeyring
	}
	if known := s.sealer.loaded.Load(); known != nil && known.revision == item.Revision {
		return known.ring, known.revision, nil
	}
	ring, err := keyring.Parse(s.sealer.root, item.Value)
	if err != nil {
		return nil, 0, err
	}
	s.sealer.loaded.Store(&loadedRing{ring, item.Revision})
	return ring, item.Revision, nil
}

// latestRing reports whether a view has the keyring that this replica has now.
func (s *Store) latestRing(view *kv.View) bool {
	now, _ := s.machine.Get(systemPrefix + keyringName)
	return view.Get(systemPrefix+keyringName) == now
}

// seal encrypts what put writes, if its kind is sealed. The guard, nil when it
// is not, holds the write to the keyring that was used: once the log has another
// primary key, nothing more is sealed with the one before, whatever replica
// lags.
func (s *Store) seal(spec *Spec, put *storagev1.Put) (*storagev1.Put, *storagev1.Guard, error) {
	if !spec.Sealed || s.sealer == nil {
		return put, nil, nil
	}
	ring, revision, err := s.ring()
	if err != nil {
		return nil, nil, fmt.Errorf("seal %s: %w", put.Key, err)
	}
	sealed := &storagev1.Put{Key: put.Key, Value: ring.Seal(string(put.Key), put.Value), Labels: put.Labels, Fields: put.Fields}
	return sealed, &storagev1.Guard{Key: []byte(systemPrefix + keyringName), Revision: revision}, nil
}

// commit proposes a put that demands guard, sealed if its kind is.
func (t *Table) commit(ctx context.Context, guard *storagev1.Guard, put *storagev1.Put) (*storagev1.Result, error) {
	for {
		sealed, keys, err := t.store.seal(t.spec, put)
		if err != nil {
			return nil, err
		}
		txn := &storagev1.Txn{
			Guards: []*storagev1.Guard{guard},
			Ops:    []*storagev1.Op{{Op: &storagev1.Op_Put{Put: sealed}}},
		}
		if keys != nil {
			txn.Guards = append(txn.Guards, keys)
		}
		result, err := t.store.propose(ctx, txn)
		if err == nil && !result.Applied && result.FailedGuard == 1 {
			continue // the answer brought the new keyring here
		}
		return result, err
	}
}

// open is an item as it was before it was sealed. Items that are not are given
// back as they are: those of other kinds, and those that were written before
// their kind was sealed.
func (s *Store) open(spec *Spec, item *kv.Item) (*kv.Item, error) {
	if !spec.Sealed || item == nil || !keyring.Sealed(item.Value) {
		return item, nil
	}
	if s.sealer == nil {
		return nil, fmt.Errorf("open %s: %w", item.Key, keyring.ErrNoKey)
	}
	var text []byte
	err := keyring.ErrNoKey
	if known := s.sealer.loaded.Load(); known != nil {
		text, err = known.ring.Open(item.Key, item.Value)
	}
	if err == keyring.ErrNoKey {
		// This replica has a newer ring than was last looked at, or none fits.
		ring, _, problem := s.ring()
		if problem != nil {
			return nil, fmt.Errorf("open %s: %w", item.Key, problem)
		}
		text, err = ring.Open(item.Key, item.Value)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s at revision %d, sealed with key %s: %w", item.Key, item.Revision, keyring.KeyID(item.Value), err)
	}
	opened := *item
	opened.Value = text
	return &opened, nil
}

// newest is the newest item of a key here, as it is in the log and opened (both
// nil when there is none), and the revision that it was read at.
func (s *Store) newest(spec *Spec, key string) (item, opened *kv.Item, revision uint64, err error) {
	return s.openNewest(spec, func() (*kv.Item, uint64) { return s.machine.Get(key) })
}

// openNewest opens what get returns. A key of the ring goes only when nothing
// needs it any more: an item whose key went between get and here was replaced
// meanwhile, and is got anew. One that was not has lost its key.
func (s *Store) openNewest(spec *Spec, get func() (*kv.Item, uint64)) (item, opened *kv.Item, revision uint64, err error) {
	for item, revision = get(); ; {
		opened, err = s.open(spec, item)
		if !errors.Is(err, keyring.ErrNoKey) {
			return item, opened, revision, err
		}
		before := item
		if item, revision = get(); item == before {
			return item, opened, revision, err
		}
	}
}
