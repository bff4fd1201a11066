// Package policystatus says in the status of validating admission policies where
// their expressions do not fit the types of what they are about. Such a policy
// works all the same, and fails when it is evaluated; the status is for its author.
// The checks are upstream's; here is what they learn of kinds and schemas.
package policystatus

import (
	"context"
	"errors"
	"log/slog"

	"golang.org/x/sync/errgroup"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	// Document is the OpenAPI document (version 3) of a group version that is built
	// in. Those of kinds that users defined are the registry's.
	Document func(schema.GroupVersion) ([]byte, error)
	Logger   *slog.Logger
}

// Controller checks policies.
type Controller struct {
	registry *resource.Registry
	policies *store.Cache[*admissionregistrationv1.ValidatingAdmissionPolicy]
	checker  *validating.TypeChecker
	loop     *controller.Loop[string]
}

// New prepares a controller.
func New(cfg Config) *Controller {
	c := &Controller{
		registry: cfg.Registry,
		policies: store.NewCache[*admissionregistrationv1.ValidatingAdmissionPolicy](cfg.Registry.Store(), store.ValidatingAdmissionPolicies, nil),
		checker:  &validating.TypeChecker{SchemaResolver: schemas{documents{cfg.Registry, cfg.Document}.of}, RestMapper: kinds{registry: cfg.Registry}},
	}
	// One at a time: a check holds a document in memory.
	c.loop = controller.NewLoop("policystatus", 1, cfg.Logger, c.reconcile)
	c.policies.OnChange(func(_, now *admissionregistrationv1.ValidatingAdmissionPolicy) {
		if now != nil && now.Generation > now.Status.ObservedGeneration {
			c.loop.Add(now.Name)
		}
	})
	return c
}

// Run checks until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.policies.Run(ctx) })
	g.Go(func() error { return c.loop.Run(ctx) })
	return g.Wait()
}

func (c *Controller) reconcile(ctx context.Context, name string) error {
	policy, ok := c.policies.Get("", name)
	if !ok || policy.Generation <= policy.Status.ObservedGeneration {
		return nil
	}
	// A policy that was made after a kind must be checked against it.
	if err := c.registry.Current(ctx); err != nil {
		return err
	}
	warnings := c.checker.Check(policy)
	_, _, err := c.registry.Update(ctx, resource.ValidatingAdmissionPolicies, "", name, "status", func(current store.Object) (store.Object, error) {
		now := current.(*admissionregistrationv1.ValidatingAdmissionPolicy)
		if now.UID != policy.UID || now.Generation != policy.Generation {
			return nil, errChanged // it will come round again
		}
		now.Status.ObservedGeneration = policy.Generation
		now.Status.TypeChecking = &admissionregistrationv1.TypeChecking{ExpressionWarnings: warnings}
		return now, nil
	}, resource.UpdateOptions{})
	if apierrors.IsNotFound(err) || errors.Is(err, errChanged) {
		return nil
	}
	return err
}

var errChanged = errors.New("the policy has changed")

// kinds answers which kinds a resource is of. It is as much of upstream's mapper
// as the checks use.
type kinds struct {
	meta.RESTMapper
	registry *resource.Registry
}

func (k kinds) KindsFor(asked schema.GroupVersionResource) ([]schema.GroupVersionKind, error) {
	var found []schema.GroupVersionKind
	for _, kind := range k.registry.Catalog().Served() {
		if kind.GroupVersionResource() == asked {
			found = append(found, kind.Spec.Kind)
		}
	}
	if len(found) == 0 {
		return nil, &meta.NoResourceMatchError{PartialResource: asked}
	}
	return found, nil
}
