package controller

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// writers bounds the objects of one owner that are written at a time.
const writers = 64

// each calls write for 0 … n-1, up to writers at a time, and returns the first error.
// Whoever is done takes the next: a goroutine for each object would spend a good part
// of the write on growing its stack.
func each(n int, write func(i int) error) error {
	var next atomic.Int64
	var g errgroup.Group
	for range min(n, writers) {
		g.Go(func() error {
			var failed error
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := write(i); failed == nil {
					failed = err
				}
			}
			return failed
		})
	}
	return g.Wait()
}

// errChanged: the object is no longer the one that the change was meant for.
var errChanged = errors.New("changed meanwhile")

// Change updates obj, or a subresource of it, as it is now. If it is gone, or
// another of its name is there, nothing is done: what a plan wants of an object
// it wants of that object. Change may return false to leave it as it is.
func Change[T store.Object](ctx context.Context, registry *resource.Registry, kind *resource.Kind, obj T, subresource string, change func(now T) bool) error {
	_, _, err := registry.Update(ctx, kind, obj.GetNamespace(), obj.GetName(), subresource, func(current store.Object) (store.Object, error) {
		if current.GetUID() != obj.GetUID() || !change(current.(T)) {
			return nil, errChanged
		}
		return current, nil
	}, resource.UpdateOptions{})
	if errors.Is(err, errChanged) || apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", kind.Singular, obj.GetName(), err)
	}
	return nil
}

// WriteStatus stores a status over the very version of obj that it was worked out
// from. It is false when there is a newer one, whose status may say more by now: that
// change asks for a new look, and nothing is lost of what others write to a status.
func WriteStatus[T store.Object](ctx context.Context, registry *resource.Registry, kind *resource.Kind, obj T, set func(now T)) (written bool, err error) {
	err = Change(ctx, registry, kind, obj, "status", func(now T) bool {
		if written = now.GetResourceVersion() == obj.GetResourceVersion(); written {
			set(now)
		}
		return written
	})
	return written && err == nil, err
}

// Delete deletes obj, each time that very object: one that is gone, or was
// replaced by another of its name, is no error.
func Delete(ctx context.Context, registry *resource.Registry, kind *resource.Kind, obj store.Object) error {
	uid := obj.GetUID()
	_, _, err := registry.Delete(ctx, kind, obj.GetNamespace(), obj.GetName(), &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// Claim makes owner the controller of the objects to adopt, and lets go of those
// to release. An owner that the store does not have any more, or that is being
// deleted, adopts nothing, whatever caches show. Adopting, unless nil, makes
// further changes in the same write.
func Claim[T store.Object](ctx context.Context, registry *resource.Registry, owner store.Object, owners *store.Spec, kind *resource.Kind, adopt, release []T, adopting func(T)) error {
	if len(adopt) > 0 {
		current, err := registry.Store().Table(owners).Get(ctx, owner.GetNamespace(), owner.GetName())
		if errors.Is(err, store.ErrNotFound) || err == nil && (current.GetUID() != owner.GetUID() || current.GetDeletionTimestamp() != nil) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	var g errgroup.Group
	g.SetLimit(writers)
	for _, obj := range adopt {
		g.Go(func() error {
			return Change(ctx, registry, kind, obj, "", func(now T) bool {
				if metav1.GetControllerOfNoCopy(now) != nil || now.GetDeletionTimestamp() != nil {
					return false
				}
				now.SetOwnerReferences(append(now.GetOwnerReferences(), *metav1.NewControllerRef(owner, owners.Kind)))
				if adopting != nil {
					adopting(now)
				}
				return true
			})
		})
	}
	for _, obj := range release {
		g.Go(func() error {
			return Change(ctx, registry, kind, obj, "", func(now T) bool {
				var kept []metav1.OwnerReference
				for _, ref := range now.GetOwnerReferences() {
					if ref.UID != owner.GetUID() {
						kept = append(kept, ref)
					}
				}
				now.SetOwnerReferences(kept)
				return true
			})
		})
	}
	return g.Wait()
}
