// Package garbage deletes what lost its owners: objects all of whose
// ownerReferences point to objects that are gone. From objects that have another
// owner left it removes the references to those. It also carries out the two
// other ways to delete an owner, which the finalizers "orphan" (let the
// dependents live) and "foregroundDeletion" (dependents first) stand for.
//
// Owners and dependents are of all kinds that the registry knows, also those that
// users define; an owner of any other kind is taken to exist.
package garbage

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const (
	workers = 16
	writers = 32
)

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Logger   *slog.Logger
}

// Controller collects garbage.
type Controller struct {
	registry *resource.Registry
	loop     *controller.Loop[object]
	kinds    followed
	gone     departed
}

// object is a key of the loop.
type object struct {
	kind            schema.GroupKind
	namespace, name string
}

// New prepares a controller.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry}
	c.loop = controller.NewLoop("garbage", workers, cfg.Logger, c.reconcile)
	c.kinds.listen = c.changed
	return c
}

// Run collects until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	catalog := c.registry.Catalog()
	c.kinds.follow(ctx, g, c.registry.Store(), catalog)
	if !c.kinds.synced(ctx) {
		return g.Wait()
	}
	g.Go(func() error { return c.loop.Run(ctx) })
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-catalog.Replaced():
				catalog = c.registry.Catalog()
				c.kinds.follow(ctx, g, c.registry.Store(), catalog)
			}
		}
	})
	return g.Wait()
}

// changed asks for a look at objects that may be garbage, at owners that are
// being deleted, and at the dependents of those that are gone.
func (c *Controller) changed(kind schema.GroupKind, old, now *metav1.PartialObjectMetadata) {
	if now == nil {
		c.gone.add(old.UID)
		for _, d := range c.kinds.dependents(old.UID) {
			c.loop.Add(d.object)
		}
		c.wakeOwners(old)
		return
	}
	if c.suspicious(now) || waits(now) {
		c.loop.Add(object{kind, now.GetNamespace(), now.GetName()})
	}
	// An owner in foreground deletion waits for its dependents to let go.
	if old != nil && slices.ContainsFunc(old.OwnerReferences, func(ref metav1.OwnerReference) bool { return blocks(old, ref.UID) && !blocks(now, ref.UID) }) {
		c.wakeOwners(old)
	}
}

// inForeground says that an object is being deleted, its dependents first.
func inForeground(obj store.Object) bool {
	return obj.GetDeletionTimestamp() != nil && finalizerOf(obj) == metav1.FinalizerDeleteDependents
}

// waits says whether the object is an owner whose deletion is ours to complete.
func waits(obj store.Object) bool {
	return obj.GetDeletionTimestamp() != nil && finalizerOf(obj) != ""
}

func finalizerOf(obj store.Object) string {
	for _, f := range obj.GetFinalizers() {
		if f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents {
			return f
		}
	}
	return ""
}

// suspicious says whether one of the object's owners seems to be gone, as far as
// caches know.
func (c *Controller) suspicious(obj store.Object) bool {
	for _, ref := range obj.GetOwnerReferences() {
		if !c.cached(obj.GetNamespace(), ref) {
			return true
		}
	}
	return false
}

func (c *Controller) cached(namespace string, ref metav1.OwnerReference) bool {
	gk, ok := groupKind(ref)
	if !ok {
		return true
	}
	uid, known := c.kinds.uid(gk, namespace, ref.Name)
	return !known || uid == ref.UID // of other kinds nobody can tell here: reconcile looks
}

func groupKind(ref metav1.OwnerReference) (schema.GroupKind, bool) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	return schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, err == nil
}

// wakeOwners asks for a look at the owners of a dependent that is gone.
func (c *Controller) wakeOwners(dependent store.Object) {
	for _, ref := range dependent.GetOwnerReferences() {
		gk, ok := groupKind(ref)
		kind := c.registry.Catalog().GroupKind(gk)
		if !ok || kind == nil {
			continue
		}
		key := object{kind: gk, name: ref.Name}
		if kind.Namespaced() {
			key.namespace = dependent.GetNamespace()
		}
		c.loop.Add(key)
	}
}

func (c *Controller) reconcile(ctx context.Context, key object) error {
	kind := c.registry.Catalog().GroupKind(key.kind)
	if kind == nil {
		return nil
	}
	// What decides is the store: caches of different kinds may be apart.
	obj, err := c.registry.Store().Table(kind.Spec).Get(ctx, key.namespace, key.name)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if waits(obj) {
		return c.finish(ctx, kind, obj)
	}
	if obj.GetDeletionTimestamp() != nil {
		return nil
	}
	return c.collect(ctx, kind, obj)
}

// collect deletes an object, as it was read, that has no owner any more, or lets go of
// those that it has not.
func (c *Controller) collect(ctx context.Context, kind *resource.Kind, obj store.Object) error {
	stay, left, waiting, err := c.sortOwners(ctx, obj)
	switch {
	case err != nil || len(left) == 0:
		return err
	case len(stay) > 0:
		return c.dropOwners(ctx, kind, obj, left)
	}
	// As it was when its owners were looked for: one that lets it live changes it first.
	uid, version := obj.GetUID(), obj.GetResourceVersion()
	options := &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}}
	switch {
	case waiting && len(c.kinds.dependents(uid)) > 0:
		// Its owner waits for what it owns, too.
		options.PropagationPolicy = ptr.To(metav1.DeletePropagationForeground)
	case finalizerOf(obj) == "":
		options.PropagationPolicy = ptr.To(metav1.DeletePropagationBackground)
	}
	_, _, err = c.registry.Delete(ctx, kind, obj.GetNamespace(), obj.GetName(), options)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// sortOwners tells the owners that stay from those that are gone, or are being
// deleted and wait for their dependents to go first; waiting says that there is one
// of the latter.
func (c *Controller) sortOwners(ctx context.Context, obj store.Object) (stay, left []types.UID, waiting bool, err error) {
	for _, ref := range obj.GetOwnerReferences() {
		owner, exists, err := c.owner(ctx, obj.GetNamespace(), ref)
		switch {
		case err != nil:
			return nil, nil, false, err
		case owner != nil && inForeground(owner):
			waiting = true
			left = append(left, ref.UID)
		case !exists:
			left = append(left, ref.UID)
		default:
			stay = append(stay, ref.UID)
		}
	}
	return stay, left, waiting, nil
}

// owner finds an owner in the store. An owner of a kind that nobody here knows
// exists, as nil.
func (c *Controller) owner(ctx context.Context, namespace string, ref metav1.OwnerReference) (owner store.Object, exists bool, err error) {
	kind, err := c.kindOf(ctx, ref)
	if err != nil {
		return nil, false, err
	}
	if kind == nil {
		// Its definition may be gone, and it was seen to go before.
		return nil, !c.gone.has(ref.UID), nil
	}
	if !kind.Namespaced() {
		namespace = ""
	} else if namespace == "" {
		return nil, true, nil // an owner in a namespace for an object in none: nonsense, and not to be acted on
	}
	owner, err = c.registry.Store().Table(kind.Spec).Get(ctx, namespace, ref.Name)
	if errors.Is(err, store.ErrNotFound) || err == nil && owner.GetUID() != ref.UID {
		return nil, false, nil
	}
	return owner, err == nil, err
}

// kindOf is the kind of an owner, or nil. Its definition may be news.
func (c *Controller) kindOf(ctx context.Context, ref metav1.OwnerReference) (*resource.Kind, error) {
	gk, ok := groupKind(ref)
	if !ok {
		return nil, nil
	}
	if kind := c.registry.Catalog().GroupKind(gk); kind != nil {
		return kind, nil
	}
	if err := c.registry.Current(ctx); err != nil {
		return nil, err
	}
	return c.registry.Catalog().GroupKind(gk), nil
}

// finish carries out a deletion that waits for its dependents to be orphaned or
// deleted, and lets the owner go.
func (c *Controller) finish(ctx context.Context, kind *resource.Kind, owner store.Object) error {
	// Dependents that were created just before must be among those below.
	if err := c.kinds.waitRevision(ctx, c.registry.Store().Revision()); err != nil {
		return err
	}
	finalizer := finalizerOf(owner)
	var dependents []dependent // to be orphaned
	if finalizer == metav1.FinalizerOrphanDependents {
		dependents = c.kinds.dependents(owner.GetUID())
	} else if blocking := c.kinds.blocking(owner.GetUID()); len(blocking) > 0 {
		for _, d := range blocking {
			c.loop.Add(d.object)
		}
		return nil // their going wakes the owner
	}
	var g errgroup.Group
	g.SetLimit(writers)
	for _, d := range dependents {
		g.Go(func() error {
			kind := c.registry.Catalog().GroupKind(d.kind)
			if kind == nil {
				return nil
			}
			obj, err := c.registry.Store().Table(kind.Spec).Get(ctx, d.namespace, d.name)
			if errors.Is(err, store.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			return c.dropOwners(ctx, kind, obj, []types.UID{owner.GetUID()})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	_, _, err := c.registry.Update(ctx, kind, owner.GetNamespace(), owner.GetName(), "", func(current store.Object) (store.Object, error) {
		if current.GetUID() != owner.GetUID() {
			return nil, errChanged
		}
		current.SetFinalizers(slices.DeleteFunc(current.GetFinalizers(), func(f string) bool { return f == finalizer }))
		return current, nil
	}, resource.UpdateOptions{})
	if errors.Is(err, errChanged) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// errChanged: the object is not the one that was looked at.
var errChanged = errors.New("changed meanwhile")

// dropOwners removes owners from an object's references.
func (c *Controller) dropOwners(ctx context.Context, kind *resource.Kind, obj store.Object, owners []types.UID) error {
	_, _, err := c.registry.Update(ctx, kind, obj.GetNamespace(), obj.GetName(), "", func(current store.Object) (store.Object, error) {
		if current.GetUID() != obj.GetUID() {
			return nil, errChanged
		}
		current.SetOwnerReferences(slices.DeleteFunc(current.GetOwnerReferences(), func(ref metav1.OwnerReference) bool {
			return slices.Contains(owners, ref.UID)
		}))
		return current, nil
	}, resource.UpdateOptions{})
	if errors.Is(err, errChanged) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
