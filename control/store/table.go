package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/fsm/kv"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// Table is the objects of one kind, untyped. Of gives typed access.
type Table struct {
	store *Store
	spec  *Spec
	typ   reflect.Type // of the kind's objects, a pointer
}

// Table returns the table of a kind. It is cheap to make.
func (s *Store) Table(spec *Spec) *Table {
	return &Table{store: s, spec: spec, typ: reflect.TypeOf(spec.New())}
}

// Spec is the table's kind.
func (t *Table) Spec() *Spec { return t.spec }

// LastChange is the newest revision, not above atOrBefore, at which an object of
// this kind may have changed. Whoever has seen the kind's events up to it has
// seen the kind as it was at atOrBefore.
func (t *Table) LastChange(atOrBefore uint64) uint64 {
	return t.store.machine.LastChange(t.spec.Prefix(""), atOrBefore)
}

// GetItem returns an object undecoded, and the revision of the replica that it
// was read at, which is also known when the object does not exist.
func (t *Table) GetItem(namespace, name string) (*kv.Item, uint64, error) {
	key, err := t.spec.Key(namespace, name)
	if err != nil {
		return nil, 0, err
	}
	_, item, revision, err := t.store.newest(t.spec, key)
	if err == nil && item == nil {
		err = fmt.Errorf("%s: %w", key, ErrNotFound)
	}
	return item, revision, err
}

// Get returns an object from this replica.
func (t *Table) Get(ctx context.Context, namespace, name string) (Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	item, _, err := t.GetItem(namespace, name)
	if err != nil {
		return nil, err
	}
	return Decode(t.spec, item)
}

// Create stores an object that must not exist (ErrExists). The result is a
// copy with its resourceVersion that shares maps and slices with obj.
func (t *Table) Create(ctx context.Context, obj Object) (Object, error) {
	key, err := t.spec.Key(obj.GetNamespace(), obj.GetName())
	if err != nil {
		return nil, err
	}
	out, put, err := t.encode(key, obj)
	if err != nil {
		return nil, err
	}
	result, err := t.commit(ctx, &storagev1.Guard{Key: put.Key}, put)
	switch {
	case err != nil:
		return nil, fmt.Errorf("create %s: %w", key, err)
	case !result.Applied:
		return nil, fmt.Errorf("create %s: %w", key, ErrExists)
	}
	out.SetResourceVersion(formatRevision(result.OpRevisions[0]))
	return out, nil
}

// Update replaces an object that must be at revision guard, or, with guard 0,
// merely exist (ErrConflict, ErrNotFound). The result is as Create's. An
// update that changes no byte writes nothing and keeps the resourceVersion.
func (t *Table) Update(ctx context.Context, obj Object, guard uint64) (Object, error) {
	key, err := t.spec.Key(obj.GetNamespace(), obj.GetName())
	if err != nil {
		return nil, err
	}
	out, put, err := t.encode(key, obj)
	if err != nil {
		return nil, err
	}
	item, err := t.unchanged(ctx, put, guard)
	if err != nil {
		return nil, fmt.Errorf("update %s: %w", key, err)
	}
	if item != nil {
		out.SetResourceVersion(formatRevision(item.Revision))
		return out, nil
	}
	result, err := t.commit(ctx, &storagev1.Guard{Key: put.Key, Revision: guard, Exists: guard == 0}, put)
	switch {
	case err != nil:
		return nil, fmt.Errorf("update %s: %w", key, err)
	case !result.Applied:
		return nil, fmt.Errorf("update %s: %w", key, refusal(result))
	}
	out.SetResourceVersion(formatRevision(result.OpRevisions[0]))
	return out, nil
}

// unchanged returns the stored item when it already is what put would make it.
// This replica may lag behind, so it only counts if it is still so after a
// barrier: else a no-op could hide somebody's acknowledged change. A conflict
// that is certain from here is an error at once, without bothering the log.
func (t *Table) unchanged(ctx context.Context, put *storagev1.Put, guard uint64) (*kv.Item, error) {
	_, item, _, err := t.store.newest(t.spec, string(put.Key))
	switch {
	case err != nil:
		return nil, err
	case item == nil:
		return nil, nil
	case guard != 0 && item.Revision > guard:
		return nil, ErrConflict
	case guard != 0 && item.Revision != guard || !bytes.Equal(item.Value, put.Value):
		return nil, nil
	}
	if err := t.store.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	if now, _ := t.store.machine.Get(item.Key); now == nil || now.Revision != item.Revision {
		return nil, nil
	}
	return item, nil
}

// Delete removes an object that must be at revision guard, unless 0, and have
// the UID, unless "" (ErrConflict, ErrNotFound). The result is its last state
// with the revision of the deletion as resourceVersion.
func (t *Table) Delete(ctx context.Context, namespace, name string, guard uint64, uid types.UID) (Object, error) {
	key, err := t.spec.Key(namespace, name)
	if err != nil {
		return nil, err
	}
	// The transaction demands the state that was read, so that the result is
	// the last one. When somebody else wrote in between, read anew; and what a
	// replica that may lag behind refuses counts only after a barrier.
	for fresh := false; ; fresh = true {
		if fresh {
			if err := t.store.ReadBarrier(ctx); err != nil {
				return nil, fmt.Errorf("delete %s: %w", key, err)
			}
		}
		obj, err := t.deleteOnce(ctx, key, guard, uid)
		switch {
		case err == nil:
			return obj, nil
		case err == errMoved, !fresh && (err == ErrNotFound || err == ErrConflict):
			continue
		}
		return nil, fmt.Errorf("delete %s: %w", key, err)
	}
}

// errMoved says that the state that was read is not the newest one.
var errMoved = errors.New("changed meanwhile")

func (t *Table) deleteOnce(ctx context.Context, key string, guard uint64, uid types.UID) (Object, error) {
	item, opened, _, err := t.store.newest(t.spec, key)
	switch {
	case err != nil:
		return nil, err
	case item == nil:
		return nil, ErrNotFound
	case guard != 0 && item.Revision != guard:
		return nil, ErrConflict
	}
	obj, err := Decode(t.spec, opened)
	if err != nil {
		return nil, err
	}
	if uid != "" && obj.GetUID() != uid {
		return nil, ErrConflict
	}
	result, err := t.store.propose(ctx, &storagev1.Txn{
		Guards: []*storagev1.Guard{{Key: []byte(key), Revision: item.Revision}},
		Ops:    []*storagev1.Op{{Op: &storagev1.Op_Delete{Delete: &storagev1.Delete{Key: []byte(key)}}}},
	})
	switch {
	case err != nil:
		return nil, err
	case !result.Applied:
		return nil, errMoved
	}
	obj.SetResourceVersion(formatRevision(result.OpRevisions[0]))
	return obj, nil
}

// refusal is why a guard on a revision failed.
func refusal(result *storagev1.Result) error {
	if result.FoundRevision == 0 {
		return ErrNotFound
	}
	return ErrConflict
}
