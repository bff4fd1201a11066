package resource

import (
	"context"
	"slices"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/musterhq/muster/control/store"
)

// deletion is what a delete comes to for one object.
type deletion int

const (
	proceed deletion = iota // by the general rules
	leave                   // it is being deleted already: nothing to write
	write                   // it stays, marked as being deleted
	remove                  // it goes now
)

// Delete removes an object, or marks it as being deleted when something has to
// happen first: finalizers, a grace period, a namespace's content. It answers
// the object's last state and whether it is gone. Nil options delete at once.
//
// Preconditions are held against the state that the write is guarded by, so a
// delete by uid never takes a successor of the same name.
func (r *Registry) Delete(ctx context.Context, kind *Kind, ns, name string, options *metav1.DeleteOptions) (obj store.Object, gone bool, err error) {
	ctx = genericrequest.WithNamespace(ctx, ns)
	if options == nil {
		options = metav1.NewDeleteOptions(0)
	}
	if kind.onDelete != nil {
		if err := kind.onDelete(ctx, name, options); err != nil {
			return nil, false, err
		}
	}
	dryRun := len(options.DryRun) > 0
	err = r.settle(ctx, kind, ns, name, dryRun, func(old store.Object) (bool, error) {
		if old == nil {
			return false, kind.apiError(store.ErrNotFound, name)
		}
		planned, what, err := r.planDelete(ctx, kind, old, options.DeepCopy())
		if err != nil {
			return false, err
		}
		obj, gone = planned, what == remove
		if what == leave || dryRun {
			return what != leave, nil
		}
		guard, err := revision(old)
		if err != nil {
			return false, err
		}
		if !gone {
			obj, err = r.store.Table(kind.Spec).Update(ctx, planned, guard)
			return true, kind.written(err, name)
		}
		last, refused, err := r.remove(ctx, kind, old, guard)
		if refused {
			return false, err
		}
		obj = last
		return true, kind.written(err, name)
	})
	if err != nil {
		return nil, false, err
	}
	return obj, gone, nil
}

// planDelete says what a delete does to old, and makes the object that is left
// or answered. The steps and their order are upstream's.
func (r *Registry) planDelete(ctx context.Context, kind *Kind, old store.Object, options *metav1.DeleteOptions) (store.Object, deletion, error) {
	attributes := &Attributes{
		Operation: Delete, Kind: kind, Namespace: old.GetNamespace(), Name: old.GetName(),
		OldObject: old, DryRun: len(options.DryRun) > 0, User: requester(ctx), DeleteOptions: options,
	}
	if err := r.admission.Admit(ctx, attributes); err != nil {
		return nil, leave, err
	}
	if err := r.admission.Validate(ctx, attributes); err != nil {
		return nil, leave, err
	}
	return kind.planDeletion(ctx, old, options)
}

// planDeletion is planDelete once it is admitted. It changes options.
func (kind *Kind) planDeletion(ctx context.Context, old store.Object, options *metav1.DeleteOptions) (store.Object, deletion, error) {
	obj := old.DeepCopyObject().(store.Object)
	graceful, pending, err := rest.BeforeDelete(kind.Strategy.forDelete(), ctx, obj, options)
	if err != nil {
		return nil, leave, err
	}
	if kind.beforeDelete != nil {
		if what := kind.beforeDelete(obj, metav1.Now()); what != proceed {
			return obj, what, nil
		}
	}
	if pending {
		return old, leave, nil
	}
	obj.SetFinalizers(ownerFinalizers(kind.Strategy.rules.Dependents, obj.GetFinalizers(), options))
	switch {
	case len(obj.GetFinalizers()) > 0:
		if !graceful {
			markDeleting(obj, metav1.Now())
		}
		return obj, write, nil
	case graceful && *options.GracePeriodSeconds > 0:
		return obj, write, nil
	}
	return obj, remove, nil
}

// markDeleting is for objects without a grace period that finalizers keep.
func markDeleting(obj store.Object, now metav1.Time) {
	if obj.GetDeletionTimestamp() == nil && obj.GetGeneration() > 0 {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	if at := obj.GetDeletionTimestamp(); at == nil || at.After(now.Time) {
		obj.SetDeletionTimestamp(&now)
	}
	zero := int64(0)
	obj.SetDeletionGracePeriodSeconds(&zero)
}

// ownerFinalizers are finalizers with those for the garbage collector added or
// taken away: "orphan" lets what the object owns live on, "foregroundDeletion"
// deletes it first, neither leaves it to be collected once its owner is gone.
// What the delete says counts most, then what is there, then the kind's policy.
func ownerFinalizers(policy rest.GarbageCollectionPolicy, finalizers []string, options *metav1.DeleteOptions) []string {
	if policy == rest.Unsupported {
		return finalizers
	}
	var orphan, foreground bool
	switch {
	case options.OrphanDependents != nil: //nolint:staticcheck // old clients send it
		orphan = *options.OrphanDependents //nolint:staticcheck // old clients send it
	case options.PropagationPolicy != nil:
		orphan = *options.PropagationPolicy == metav1.DeletePropagationOrphan
		foreground = *options.PropagationPolicy == metav1.DeletePropagationForeground
	case slices.Contains(finalizers, metav1.FinalizerOrphanDependents):
		orphan = true
	case slices.Contains(finalizers, metav1.FinalizerDeleteDependents):
		foreground = true
	default:
		orphan = policy == rest.OrphanDependents
	}
	finalizers = slices.DeleteFunc(slices.Clone(finalizers), func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	})
	if orphan {
		finalizers = append(finalizers, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		finalizers = append(finalizers, metav1.FinalizerDeleteDependents)
	}
	return finalizers
}

// revision is the version that obj was read at, as the store's guards take it.
func revision(obj store.Object) (uint64, error) {
	rev, err := strconv.ParseUint(obj.GetResourceVersion(), 10, 64)
	if err != nil || rev == 0 {
		return 0, apierrors.NewInternalError(errNoRevision)
	}
	return rev, nil
}
