package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// Verb is what a Write does.
type Verb int

const (
	Create Verb = iota + 1 // ErrExists
	Update                 // ErrConflict, ErrNotFound
	Delete                 // ErrConflict, ErrNotFound
	// Check changes nothing: it demands that the object exists, at revision
	// Guard unless 0. For transactions that depend on something they do not write.
	Check
)

// Write is one change of one object.
type Write struct {
	Verb Verb
	Spec *Spec
	// Object is what to create or update. Delete and Check need only
	// Namespace and Name, which are Object's when it is given.
	Object          Object
	Namespace, Name string
	// Guard is the revision the object must be at; 0: any.
	Guard uint64

	claim *claim // instead of an object; only in transactions
}

// Result is the object as a Write left it, with its resourceVersion (for
// Delete: its last state), or why it was not done.
type Result struct {
	Object Object
	Err    error
}

// batchConcurrency bounds the proposals in flight of one batch. The log joins
// concurrent proposals, so a batch of this size is a few disk writes.
const batchConcurrency = 256

// Batch does many independent writes and returns a result for each, in their
// order. They take place in any order, and some may fail.
func (s *Store) Batch(ctx context.Context, writes []Write) []Result {
	results := make([]Result, len(writes))
	var group errgroup.Group
	group.SetLimit(batchConcurrency)
	for i, w := range writes {
		group.Go(func() error {
			results[i].Object, results[i].Err = s.write(ctx, w)
			return nil
		})
	}
	_ = group.Wait() // errors are in the results
	return results
}

func (s *Store) write(ctx context.Context, w Write) (Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	table, namespace, name := s.Table(w.Spec), w.Namespace, w.Name
	if w.Object != nil {
		namespace, name = w.Object.GetNamespace(), w.Object.GetName()
	}
	switch w.Verb {
	case Create:
		return table.Create(ctx, w.Object)
	case Update:
		return table.Update(ctx, w.Object, w.Guard)
	case Delete:
		return table.Delete(ctx, namespace, name, w.Guard, "")
	}
	return nil, fmt.Errorf("%w: verb %d in a batch", ErrInvalid, w.Verb)
}

// TxnError is why a transaction was refused: the write whose guard failed.
type TxnError struct {
	Write int // its index
	Key   string
	Err   error // ErrExists, ErrConflict or ErrNotFound
}

func (e *TxnError) Error() string { return fmt.Sprintf("transaction: %s: %v", e.Key, e.Err) }
func (e *TxnError) Unwrap() error { return e.Err }

// Txn does all of the writes, or none of them and returns a *TxnError. An
// object may be written once. Objects of the result are those created and
// updated, and of those deleted the last state that the write gave, if it gave
// one, with the revision of the deletion; nil for other writes.
func (s *Store) Txn(ctx context.Context, writes []Write) ([]Object, error) {
	for {
		objects, err := s.txn(ctx, writes)
		if err != errRotated {
			return objects, err
		}
	}
}

// errRotated says that a transaction was not done because it was sealed with a
// key that is not the primary one any more.
var errRotated = errors.New("the keyring has changed")

func (s *Store) txn(ctx context.Context, writes []Write) ([]Object, error) {
	txn, objects := &storagev1.Txn{}, make([]Object, len(writes))
	ops := make([]int, len(writes)) // index of the write's op, -1: none
	var keys *storagev1.Guard
	for i, w := range writes {
		guard, op, out, err := s.plan(w)
		if err != nil {
			return nil, err
		}
		if put := op.GetPut(); put != nil && w.claim == nil {
			sealed, ring, err := s.seal(w.Spec, put)
			if err != nil {
				return nil, err
			}
			if ring != nil {
				op, keys = &storagev1.Op{Op: &storagev1.Op_Put{Put: sealed}}, ring
			}
		}
		objects[i], ops[i] = out, -1
		txn.Guards = append(txn.Guards, guard)
		if op != nil {
			ops[i] = len(txn.Ops)
			txn.Ops = append(txn.Ops, op)
		}
	}
	if keys != nil {
		txn.Guards = append(txn.Guards, keys)
	}
	result, err := s.propose(ctx, txn)
	if err != nil {
		return nil, fmt.Errorf("transaction: %w", err)
	}
	if !result.Applied {
		i := int(result.FailedGuard)
		if i == len(writes) {
			return nil, errRotated
		}
		err := refusal(result)
		if writes[i].Verb == Create {
			err = ErrExists
		}
		return nil, &TxnError{Write: i, Key: string(txn.Guards[i].Key), Err: err}
	}
	for i, out := range objects {
		switch {
		case out == nil:
		case ops[i] < 0:
			out.SetResourceVersion(formatRevision(writes[i].Guard))
		default:
			out.SetResourceVersion(formatRevision(result.OpRevisions[ops[i]]))
		}
	}
	return objects, nil
}

func (s *Store) plan(w Write) (*storagev1.Guard, *storagev1.Op, Object, error) {
	if w.claim != nil {
		guard, op := w.claim.plan(w)
		return guard, op, nil, nil
	}
	namespace, name := w.Namespace, w.Name
	if w.Object != nil {
		namespace, name = w.Object.GetNamespace(), w.Object.GetName()
	}
	key, err := w.Spec.Key(namespace, name)
	if err != nil {
		return nil, nil, nil, err
	}
	guard := &storagev1.Guard{Key: []byte(key), Revision: w.Guard, Exists: w.Guard == 0}
	switch w.Verb {
	case Check:
		return guard, nil, nil, nil
	case Delete:
		var last Object
		if w.Object != nil {
			last = w.Object.DeepCopyObject().(Object)
		}
		return guard, &storagev1.Op{Op: &storagev1.Op_Delete{Delete: &storagev1.Delete{Key: guard.Key}}}, last, nil
	case Create:
		guard = &storagev1.Guard{Key: guard.Key}
	case Update:
	default:
		return nil, nil, nil, fmt.Errorf("%w: verb %d in a transaction", ErrInvalid, w.Verb)
	}
	out, put, err := s.Table(w.Spec).encode(key, w.Object)
	if err != nil {
		return nil, nil, nil, err
	}
	// The guard's revision has the same bytes already: the guard is enough.
	if w.Verb == Update {
		_, item, _, err := s.newest(w.Spec, key)
		if err != nil {
			return nil, nil, nil, err
		}
		if item != nil && item.Revision == w.Guard && bytes.Equal(item.Value, put.Value) {
			return guard, nil, out, nil
		}
	}
	return guard, &storagev1.Op{Op: &storagev1.Op_Put{Put: put}}, out, nil
}
