package store

import (
	"context"

	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/fsm/kv"
)

// Typed is a table whose objects are T, for callers that know what they want.
type Typed[T Object] struct{ table *Table }

// Of returns the table of a kind with objects of type T, which must be what
// spec.New returns: store.Of[*corev1.Pod](s, store.Pods).
func Of[T Object](s *Store, spec *Spec) Typed[T] {
	_ = spec.New().(T) // the wrong T is a mistake in the program: say so at once
	return Typed[T]{table: s.Table(spec)}
}

// Table is the same table, untyped.
func (t Typed[T]) Table() *Table { return t.table }

// Get is Table.Get.
func (t Typed[T]) Get(ctx context.Context, namespace, name string) (T, error) {
	return typed[T](t.table.Get(ctx, namespace, name))
}

// List returns the selected objects, all of them unless opts.Limit is set, and
// the revision they are of.
func (t Typed[T]) List(ctx context.Context, opts ListOptions) ([]T, uint64, error) {
	page, err := t.table.List(ctx, opts)
	if err != nil {
		return nil, 0, err
	}
	objects := make([]T, 0, len(page.Items))
	for _, item := range page.Items {
		obj, err := decode[T](t.table.spec, item)
		if err != nil {
			return nil, 0, err
		}
		objects = append(objects, obj)
	}
	return objects, page.Revision, nil
}

// Create is Table.Create.
func (t Typed[T]) Create(ctx context.Context, obj T) (T, error) {
	return typed[T](t.table.Create(ctx, obj))
}

// Update is Table.Update.
func (t Typed[T]) Update(ctx context.Context, obj T, guard uint64) (T, error) {
	return typed[T](t.table.Update(ctx, obj, guard))
}

// Delete is Table.Delete.
func (t Typed[T]) Delete(ctx context.Context, namespace, name string, guard uint64, uid types.UID) (T, error) {
	return typed[T](t.table.Delete(ctx, namespace, name, guard, uid))
}

func decode[T Object](spec *Spec, item *kv.Item) (T, error) { return typed[T](Decode(spec, item)) }

func typed[T Object](obj Object, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return obj.(T), nil
}
