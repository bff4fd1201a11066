package resource

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/musterhq/muster/control/store"
)

// UpdateOptions say how to update.
type UpdateOptions struct {
	// DryRun goes every step of the way but the last.
	DryRun bool
	// FieldManager is who the changed fields belong to; empty is the control plane.
	FieldManager string
	// FieldValidation is what the request said of unknown fields. It was seen to;
	// admission may want to know.
	FieldValidation string
	// Patch says that the request has this verb; it is an update otherwise. To who
	// may do it, the two are different.
	Patch bool
	// FieldsManaged says that change gives the object its managed fields itself,
	// as Kind.Apply does.
	FieldsManaged bool
	// Preconditions are checked against the stored object before change is
	// called. A PUT whose body has a uid asks for that object and no other.
	Preconditions *metav1.Preconditions
	// ForceAllowCreate lets the update of nothing create, whatever the kind's
	// rules say, as server-side apply does.
	ForceAllowCreate bool
	// MayCreate, if set, is asked before the update creates: the user may be
	// allowed to change and not to create.
	MayCreate func(ctx context.Context) error
}

// Change makes the new object from the stored one. current is the caller's to
// change and return; it has no uid when nothing is stored and the update may
// create. Change is called again after a lost race and must have no effect but
// its result.
type Change func(current store.Object) (store.Object, error)

// updateTries bounds how often an update that loses races is tried. Each try
// starts from the state that beat the last, so only a storm of writers to one
// object gets there; it then learns of the conflict.
const updateTries = 50

// Update changes an object, or the part of it that subresource stands for, and
// answers it as stored and whether it was created. A result of change without
// a resourceVersion takes the stored one; one that names an older version is a
// conflict. Lost races are tried again, so that only a version named by the
// user, and not one that change was given, ends in a conflict.
//
// The first try works from this node's replica, which may lag. A refusal, or
// finding nothing to do, counts only from a state known to be current.
func (r *Registry) Update(ctx context.Context, kind *Kind, ns, name, subresource string, change Change, options UpdateOptions) (store.Object, bool, error) {
	strategy := kind.strategy(subresource)
	if strategy == nil {
		return nil, false, apierrors.NewInternalError(fmt.Errorf("%s/%s is not updated through the registry", kind.Spec.Resource, subresource))
	}
	ctx = genericrequest.WithNamespace(ctx, ns)
	u := &update{
		registry: r, kind: kind, strategy: strategy, ns: ns, name: name, subresource: subresource,
		change: change, options: options,
	}
	var done store.Object
	err := r.settle(ctx, kind, ns, name, options.DryRun, func(current store.Object) (final bool, err error) {
		done, final, err = u.try(ctx, current)
		return final, err
	})
	if err != nil {
		return nil, false, err
	}
	return done, u.created, nil
}

// settle calls try with the stored object, or nil, until it loses no race and
// its answer counts. An answer is final once the store was asked to write; one
// that this node's replica gave (a refusal, nothing to do) is not if the replica
// turns out to have been behind. current asks for a current state from the start.
//
// A write whose outcome is unknown is never tried again: it could be done twice.
func (r *Registry) settle(ctx context.Context, kind *Kind, ns, name string, current bool, try func(store.Object) (final bool, err error)) error {
	table := r.store.Table(kind.Spec)
	if current {
		if err := r.store.ReadBarrier(ctx); err != nil {
			return err
		}
	}
	for n := 1; ; n++ {
		stored, err := table.Get(ctx, ns, name)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return kind.apiError(err, name)
		}
		final, err := try(stored)
		switch {
		case errors.Is(err, errRaced):
			// The store answered after this node applied what beat us, so the
			// next look sees it.
			if n == updateTries {
				return kind.apiError(store.ErrConflict, name)
			}
			continue
		case final, current:
			return err
		}
		current = true
		if e := r.store.ReadBarrier(ctx); e != nil {
			return e
		}
		again, e := table.Get(ctx, ns, name)
		if e == nil && stored != nil && again.GetResourceVersion() == stored.GetResourceVersion() ||
			errors.Is(e, store.ErrNotFound) && stored == nil {
			return err
		}
	}
}

// errRaced says that somebody else wrote the object between look and write.
var errRaced = errors.New("lost a race")

// written words the outcome of a guarded write.
func (k *Kind) written(err error, name string) error {
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrNotFound) {
		return errRaced
	}
	return k.apiError(err, name)
}

// update is one call of Registry.Update.
type update struct {
	registry              *Registry
	kind                  *Kind
	strategy              *Strategy
	ns, name, subresource string
	change                Change
	options               UpdateOptions
	created               bool
}

// try goes all steps once from what is stored; see settle for final.
func (u *update) try(ctx context.Context, old store.Object) (result store.Object, final bool, err error) {
	u.created = false
	if old == nil {
		return u.create(ctx)
	}
	if p := u.options.Preconditions; p != nil {
		if err := u.kind.checkUID(u.name, p.UID, old.GetUID()); err != nil {
			return nil, false, err
		}
		if p.ResourceVersion != nil && *p.ResourceVersion != old.GetResourceVersion() {
			return nil, false, apierrors.NewConflict(u.kind.Qualified(), u.name, errModified)
		}
	}
	obj, attributes, err := u.plan(ctx, old)
	if err != nil {
		return nil, false, err
	}
	defer attributes.tried()
	guard, err := revision(old)
	if err != nil {
		return nil, false, err
	}
	if finished(obj, old) && (u.kind.held == nil || !u.kind.held(obj)) {
		if u.registry.pretends(u.options.DryRun) {
			return obj, true, nil
		}
		_, refused, err := u.registry.remove(ctx, u.kind, old, guard)
		return obj, !refused, u.kind.written(err, u.name)
	}
	if u.registry.pretends(u.options.DryRun) {
		pretended, err := store.AsStored(u.kind.Spec, obj)
		return pretended, true, err
	}
	stored, err := u.registry.replace(ctx, u.kind, obj, guard, attributes.Demands)
	return stored, true, u.kind.written(err, u.name)
}

// plan makes the object that will be stored, and what admission was told of it.
// Its demands hold what else is written with the object.
func (u *update) plan(ctx context.Context, old store.Object) (store.Object, *Attributes, error) {
	obj, err := u.change(old.DeepCopyObject().(store.Object))
	if err != nil {
		return nil, nil, err
	}
	if obj.GetName() != u.name {
		return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), u.name))
	}
	if err := u.kind.checkVersion(u.name, obj.GetResourceVersion(), old.GetResourceVersion(), u.strategy.rules.Conditional); err != nil {
		return nil, nil, err
	}
	obj.SetResourceVersion(old.GetResourceVersion())
	if err := u.registry.complete(ctx, u.kind, obj); err != nil {
		return nil, nil, err
	}
	obj = u.manageFields(old, obj)
	attributes := u.attributes(ctx, Update, obj)
	attributes.OldObject = old
	if err := u.admit(ctx, attributes, obj, old); err != nil {
		return nil, nil, err
	}
	obj, beside, err := u.registry.accompanyChanged(ctx, u.kind, u.subresource, obj, old)
	if err != nil {
		return nil, nil, err
	}
	attributes.Object = obj
	if err := rest.BeforeUpdate(u.strategy, ctx, obj, old); err != nil {
		return nil, nil, err
	}
	if u.scales() {
		attributes.Object = u.kind.ScaleOf(obj)
	}
	u.kind.keepTimes(u.subresource, obj, old)
	if err := u.registry.admission.Validate(ctx, attributes); err != nil {
		return nil, nil, err
	}
	attributes.Demands = append(attributes.Demands, beside...)
	return obj, attributes, nil
}

// scales says that the update is of a scale, which is what admission then sees.
func (u *update) scales() bool { return u.kind.Scale != nil && u.subresource == scaleSubresource }

// admit is admission's first word on an update.
func (u *update) admit(ctx context.Context, attributes *Attributes, obj, old store.Object) error {
	if !u.scales() {
		return u.registry.admit(ctx, attributes)
	}
	scale := u.kind.ScaleOf(obj)
	attributes.As, attributes.Object, attributes.OldObject = scaleKind, scale, u.kind.ScaleOf(old)
	if err := u.registry.admission.Admit(ctx, attributes); err != nil {
		return err
	}
	u.kind.Scale.Set(obj, scale.Spec.Replicas)
	return nil
}

// create is an update of what does not exist.
func (u *update) create(ctx context.Context) (store.Object, bool, error) {
	if u.subresource != "" || !u.strategy.rules.CreateOnUpdate && !u.options.ForceAllowCreate {
		return nil, false, apierrors.NewNotFound(u.kind.Qualified(), u.name)
	}
	if p := u.options.Preconditions; p != nil {
		if err := u.kind.checkUID(u.name, p.UID, ""); err != nil {
			return nil, false, err
		}
	}
	if u.options.MayCreate != nil {
		if err := u.options.MayCreate(ctx); err != nil {
			return nil, false, err
		}
	}
	obj, err := u.change(u.kind.Spec.New())
	if err != nil {
		return nil, false, err
	}
	if obj.GetName() != u.name {
		return nil, false, apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), u.name))
	}
	obj.SetResourceVersion("")
	rest.WipeObjectMetaSystemFields(obj)
	if err := rest.EnsureObjectNamespaceMatchesRequestNamespace(rest.ExpectedNamespaceForScope(u.ns, u.kind.Namespaced()), obj); err != nil {
		return nil, false, err
	}
	if err := u.registry.complete(ctx, u.kind, obj); err != nil {
		return nil, false, err
	}
	obj = u.manageFields(u.kind.Spec.New(), obj)
	attributes := u.attributes(ctx, Create, obj)
	if err := u.registry.admit(ctx, attributes); err != nil {
		return nil, false, err
	}
	created, err := u.registry.insert(ctx, u.kind, obj, attributes)
	if apierrors.IsAlreadyExists(err) {
		// It was created since we looked: the next try updates it.
		return nil, false, errRaced
	}
	u.created = err == nil
	return created, true, err
}

func (u *update) manageFields(live, obj store.Object) store.Object {
	if u.options.FieldsManaged {
		return obj
	}
	return u.kind.manageFields(u.subresource, live, obj, u.options.FieldManager)
}

func (u *update) attributes(ctx context.Context, operation Operation, obj store.Object) *Attributes {
	return &Attributes{
		Operation: operation, Kind: u.kind, Namespace: u.ns, Name: u.name, Subresource: u.subresource,
		Object: obj, DryRun: u.options.DryRun, User: requester(ctx),
		FieldManager: u.options.FieldManager, FieldValidation: u.options.FieldValidation, Patch: u.options.Patch,
	}
}

// finished says that with this update nothing keeps an object that is being
// deleted any more.
func finished(obj, old store.Object) bool {
	if len(obj.GetFinalizers()) > 0 || old.GetDeletionTimestamp() == nil {
		return false
	}
	grace := old.GetDeletionGracePeriodSeconds()
	return grace == nil || *grace == 0
}
