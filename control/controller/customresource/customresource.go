// Package customresource looks after CustomResourceDefinitions: it accepts their
// names, says that they are established, judges their schemas and groups, and,
// when one is being deleted, deletes its objects before it lets it go.
//
// A definition is established with the same write that accepts its names:
// a control node that has not heard of it yet asks before it says that a resource
// does not exist, so nobody has to wait for all nodes to know it.
package customresource

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const (
	// workers that empty kinds. Names are given by one, or two could give the
	// same one away.
	workers = 4
	// recheck is how often objects are counted that wait for their finalizers.
	recheck = time.Second
)

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Logger   *slog.Logger
}

// Controller looks after definitions.
type Controller struct {
	registry *resource.Registry
	cache    *store.Cache[*apiextensionsv1.CustomResourceDefinition]
	judge    *controller.Loop[string]
	finish   *controller.Loop[string]
}

// New prepares a controller.
func New(cfg Config) *Controller {
	c := &Controller{
		registry: cfg.Registry,
		cache:    store.NewCache[*apiextensionsv1.CustomResourceDefinition](cfg.Registry.Store(), store.CustomResourceDefinitions, nil),
	}
	c.judge = controller.NewLoop("customresource", 1, cfg.Logger, c.reconcile)
	c.finish = controller.NewLoop("customresource-end", workers, cfg.Logger, c.end)
	c.cache.OnChange(func(old, now *apiextensionsv1.CustomResourceDefinition) {
		switch {
		case now == nil:
			c.reconsider(old) // its names are free
		case ending(now):
			c.judge.Add(now.Name)
			c.finish.Add(now.Name)
		default:
			c.judge.Add(now.Name)
		}
		if old != nil && now != nil && !apiequality.Semantic.DeepEqual(old.Status.AcceptedNames, now.Status.AcceptedNames) {
			c.reconsider(now)
		}
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.cache.Run(ctx) })
	g.Go(func() error { return c.judge.Run(ctx) })
	g.Go(func() error { return c.finish.Run(ctx) })
	return g.Wait()
}

// ending says whether the definition waits for its objects to be deleted.
func ending(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return crd.DeletionTimestamp != nil && slices.Contains(crd.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer)
}

// reconsider looks again at definitions that may have waited for a name.
func (c *Controller) reconsider(changed *apiextensionsv1.CustomResourceDefinition) {
	for _, other := range c.cache.List() {
		if other.Spec.Group == changed.Spec.Group && other.Name != changed.Name {
			c.judge.Add(other.Name)
		}
	}
}

func (c *Controller) definitions() store.Typed[*apiextensionsv1.CustomResourceDefinition] {
	return store.Of[*apiextensionsv1.CustomResourceDefinition](c.registry.Store(), store.CustomResourceDefinitions)
}

// Judge looks at all definitions, for a controller that does not run.
func (c *Controller) Judge(ctx context.Context) error {
	all, _, err := c.definitions().List(ctx, store.ListOptions{})
	for _, crd := range all {
		err = errors.Join(err, c.reconcile(ctx, crd.Name))
	}
	return err
}

func (c *Controller) reconcile(ctx context.Context, name string) error {
	// The store, not the cache: names that were given a moment ago count.
	all, _, err := c.definitions().List(ctx, store.ListOptions{})
	if err != nil {
		return err
	}
	at := slices.IndexFunc(all, func(crd *apiextensionsv1.CustomResourceDefinition) bool { return crd.Name == name })
	if at < 0 {
		return nil
	}
	wanted := plan(all[at], all)
	if apiequality.Semantic.DeepEqual(wanted, all[at].Status) {
		return nil
	}
	// Another change of it means another look.
	return c.update(ctx, all[at], func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		crd.Status = wanted
		return true
	})
}

// errNothing: the definition is not the one that was looked at, or needs no change.
var errNothing = errors.New("nothing to change")

// update changes a definition that is still as it was looked at.
func (c *Controller) update(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, change func(*apiextensionsv1.CustomResourceDefinition) bool) error {
	_, _, err := c.registry.Update(ctx, resource.CustomResourceDefinitions, "", crd.Name, "status", func(current store.Object) (store.Object, error) {
		now := current.(*apiextensionsv1.CustomResourceDefinition)
		if now.ResourceVersion != crd.ResourceVersion || !change(now) {
			return nil, errNothing
		}
		return now, nil
	}, resource.UpdateOptions{})
	if errors.Is(err, errNothing) || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// end deletes the objects of a definition that is being deleted, and lets it go
// when none is left.
func (c *Controller) end(ctx context.Context, name string) error {
	crd, err := c.definitions().Get(ctx, "", name)
	if errors.Is(err, store.ErrNotFound) || err == nil && !ending(crd) {
		return nil
	}
	if err != nil {
		return err
	}
	const (
		inProgress = "InstanceDeletionInProgress"
		check      = "InstanceDeletionCheck"
	)
	if cond := apihelpers.FindCRDCondition(crd, apiextensionsv1.Terminating); cond == nil || cond.Reason != inProgress && cond.Reason != check {
		return c.terminating(ctx, crd, apiextensionsv1.ConditionTrue, inProgress, "CustomResource deletion is in progress", false)
	}
	if !apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) {
		return c.terminating(ctx, crd, apiextensionsv1.ConditionFalse, "NeverEstablished", "resource was never established", true)
	}
	if err := c.registry.Current(ctx); err != nil {
		return err
	}
	kind := c.registry.Catalog().Kind(schema.GroupResource{Group: crd.Spec.Group, Resource: crd.Status.AcceptedNames.Plural})
	switch {
	case kind == nil:
		return errors.New("the kind of " + name + " is not known, so its objects cannot be deleted")
	case kind.Schema == nil:
		return c.terminating(ctx, crd, apiextensionsv1.ConditionFalse, "OverlappingBuiltInResource", "instances overlap with built-in resources in storage", true)
	}
	if _, _, err := c.registry.DeleteCollection(ctx, kind, &metav1.DeleteOptions{}, store.ListOptions{}); err != nil {
		return errors.Join(err, c.terminating(ctx, crd, apiextensionsv1.ConditionTrue, check, "could not issue all deletes: "+err.Error(), false))
	}
	if c.registry.Store().View().Count(kind.Spec.Prefix("")) > 0 {
		c.finish.AddAfter(name, recheck)
		return c.terminating(ctx, crd, apiextensionsv1.ConditionTrue, check, "could not confirm zero CustomResources remaining: some wait for their finalizers", false)
	}
	return c.terminating(ctx, crd, apiextensionsv1.ConditionFalse, "InstanceDeletionCompleted", "removed all instances", true)
}

// terminating writes how far the end of a definition is, if that is news.
func (c *Controller) terminating(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition, status apiextensionsv1.ConditionStatus, reason, message string, done bool) error {
	cond := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: status, Reason: reason, Message: message,
	}
	return c.update(ctx, crd, func(now *apiextensionsv1.CustomResourceDefinition) bool {
		if done {
			apihelpers.CRDRemoveFinalizer(now, apiextensionsv1.CustomResourceCleanupFinalizer)
		} else if apihelpers.IsCRDConditionEquivalent(&cond, apihelpers.FindCRDCondition(now, apiextensionsv1.Terminating)) {
			return false
		}
		apihelpers.SetCRDCondition(now, cond)
		return true
	})
}
