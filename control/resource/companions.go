package resource

import (
	"context"
	"errors"
	"slices"

	"github.com/musterhq/muster/control/store"
)

// Companions are what a kind writes beside its objects and in one transaction
// with them: the addresses and ports of a service. So there are never two that
// have the same, and nothing is left over when a write fails halfway.
//
// Each function plans from this node's replica; what it relies on is in the
// guards of its writes. Should one of them be refused in the log, the whole write
// is planned anew. An error is the answer to the request, once it came from a
// replica that is known to be current.
type Companions struct {
	// OnCreate completes a new object, before its rules are applied.
	OnCreate func(ctx context.Context, s *store.Store, obj store.Object) ([]store.Write, error)
	// OnUpdate completes a changed object, before its rules are applied. It is not
	// asked about changes through a subresource.
	OnUpdate func(ctx context.Context, s *store.Store, obj, old store.Object) ([]store.Write, error)
	// OnDelete is asked when an object goes, not when it is only marked.
	OnDelete func(ctx context.Context, s *store.Store, old store.Object) ([]store.Write, error)
}

// accompany gives plan a copy of obj to complete, and answers it with the writes
// that go with it. A refusal counts only after a read barrier.
func (r *Registry) accompany(ctx context.Context, obj store.Object, plan func(store.Object) ([]store.Write, error)) (store.Object, []store.Write, error) {
	for current := false; ; current = true {
		completed := obj.DeepCopyObject().(store.Object)
		writes, err := plan(completed)
		if err == nil || current {
			return completed, writes, err
		}
		if err := r.store.ReadBarrier(ctx); err != nil {
			return nil, nil, err
		}
	}
}

// accompanyNew does so for a new object of any kind. A dry run asks as well.
func (r *Registry) accompanyNew(ctx context.Context, kind *Kind, obj store.Object) (store.Object, []store.Write, error) {
	if kind.Companions == nil || kind.Companions.OnCreate == nil {
		return obj, nil, nil
	}
	return r.accompany(ctx, obj, func(obj store.Object) ([]store.Write, error) {
		return kind.Companions.OnCreate(ctx, r.store, obj)
	})
}

// accompanyChanged does so for a changed object of any kind.
func (r *Registry) accompanyChanged(ctx context.Context, kind *Kind, subresource string, obj, old store.Object) (store.Object, []store.Write, error) {
	if kind.Companions == nil || kind.Companions.OnUpdate == nil || subresource != "" {
		return obj, nil, nil
	}
	return r.accompany(ctx, obj, func(obj store.Object) ([]store.Write, error) {
		return kind.Companions.OnUpdate(ctx, r.store, obj, old)
	})
}

// replace stores a changed object with its companions, if it is still at guard.
func (r *Registry) replace(ctx context.Context, kind *Kind, obj store.Object, guard uint64, beside []store.Write) (store.Object, error) {
	if len(beside) == 0 {
		// Where there is nothing to write, the store makes sure of it.
		return r.store.Table(kind.Spec).Update(ctx, obj, guard)
	}
	objects, err := r.store.Txn(ctx, append(slices.Clone(beside), store.Write{Verb: store.Update, Spec: kind.Spec, Object: obj, Guard: guard}))
	if err != nil {
		return nil, err
	}
	return objects[len(beside)], nil
}

// remove takes an object away with its companions, if it is still at guard, and
// answers its last state. refused says that a companion has a word against it.
func (r *Registry) remove(ctx context.Context, kind *Kind, old store.Object, guard uint64) (last store.Object, refused bool, err error) {
	var beside []store.Write
	if kind.Companions != nil && kind.Companions.OnDelete != nil {
		if beside, err = kind.Companions.OnDelete(ctx, r.store, old); err != nil {
			return nil, true, err
		}
	}
	if len(beside) == 0 {
		last, err = r.store.Table(kind.Spec).Delete(ctx, old.GetNamespace(), old.GetName(), guard, old.GetUID())
		return last, false, err
	}
	objects, err := r.store.Txn(ctx, append(slices.Clone(beside), store.Write{Verb: store.Delete, Spec: kind.Spec, Object: old, Guard: guard}))
	if err != nil {
		return nil, false, err
	}
	return objects[len(beside)], false, nil
}

// outrun says that a write between from and to of a transaction was refused.
func outrun(err error, from, to int) bool {
	var refused *store.TxnError
	return errors.As(err, &refused) && from <= refused.Write && refused.Write < to
}
