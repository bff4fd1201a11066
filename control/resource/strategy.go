package resource

import (
	"context"

	"k8s.io/apimachinery/pkg/api/operation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// Rules is how writes of one kind, or through one of its subresources, differ
// from others. A nil function does nothing. Functions may change the object
// that they prepare and nothing else; none may keep what it is given.
type Rules[T store.Object] struct {
	// PrepareForCreate sets what users cannot: status, generation.
	PrepareForCreate func(ctx context.Context, obj T)
	Validate         func(ctx context.Context, obj T) field.ErrorList
	WarningsOnCreate func(ctx context.Context, obj T) []string

	// PrepareForUpdate takes from old what this path may not change.
	PrepareForUpdate func(ctx context.Context, obj, old T)
	ValidateUpdate   func(ctx context.Context, obj, old T) field.ErrorList
	WarningsOnUpdate func(ctx context.Context, obj, old T) []string

	// Canonicalize is the last change before the object is stored.
	Canonicalize func(obj T)
	// Options are what the kind's declarative rules ask about.
	Options func() map[string]bool
	// Paths are fields that hand-written and declarative rules call by different paths.
	Paths []field.NormalizationRule

	// CreateOnUpdate lets an update of nothing create.
	CreateOnUpdate bool
	// Conditional refuses an update that does not name the resourceVersion it changes.
	Conditional bool

	// GracefulDelete sets the grace period that an object is deleted with and
	// says whether there is one.
	GracefulDelete func(obj T, options *metav1.DeleteOptions) bool
	// Dependents says what becomes of objects that this kind owns when a delete
	// does not say. Empty: they are deleted after it. Unsupported: propagation
	// policies are ignored, as nobody looks after such objects.
	Dependents rest.GarbageCollectionPolicy
}

// Strategy is Rules for objects of any type, in the form that upstream's
// rest.BeforeCreate, BeforeUpdate and BeforeDelete work with.
type Strategy struct {
	runtime.ObjectTyper
	names.NameGenerator

	rules       Rules[store.Object]
	namespaced  bool
	subresource string
}

// strategy makes Rules of one type into a Strategy for the kind that spec stores.
func strategy[T store.Object](spec *store.Spec, subresource string, r Rules[T]) *Strategy {
	return &Strategy{
		ObjectTyper:   kube.Scheme,
		NameGenerator: names.SimpleNameGenerator,
		namespaced:    spec.Namespaced,
		subresource:   subresource,
		rules: Rules[store.Object]{
			PrepareForCreate: prepare(r.PrepareForCreate),
			Validate:         judge[T, field.ErrorList](r.Validate),
			WarningsOnCreate: judge[T, []string](r.WarningsOnCreate),
			PrepareForUpdate: prepareFrom(r.PrepareForUpdate),
			ValidateUpdate:   compare[T, field.ErrorList](r.ValidateUpdate),
			WarningsOnUpdate: compare[T, []string](r.WarningsOnUpdate),
			Canonicalize: func(obj store.Object) {
				if r.Canonicalize != nil {
					r.Canonicalize(obj.(T))
				}
			},
			Options:        r.Options,
			Paths:          r.Paths,
			CreateOnUpdate: r.CreateOnUpdate,
			Conditional:    r.Conditional,
			GracefulDelete: graceful(r.GracefulDelete),
			Dependents:     r.Dependents,
		},
	}
}

// NewStrategy makes Rules into a Strategy, for kinds that are not made here.
func NewStrategy[T store.Object](spec *store.Spec, subresource string, r Rules[T]) *Strategy {
	return strategy(spec, subresource, r)
}

func prepare[T store.Object](f func(context.Context, T)) func(context.Context, store.Object) {
	return func(ctx context.Context, obj store.Object) {
		if f != nil {
			f(ctx, obj.(T))
		}
	}
}

func prepareFrom[T store.Object](f func(context.Context, T, T)) func(ctx context.Context, obj, old store.Object) {
	return func(ctx context.Context, obj, old store.Object) {
		if f != nil {
			f(ctx, obj.(T), old.(T))
		}
	}
}

func judge[T store.Object, R any](f func(context.Context, T) R) func(context.Context, store.Object) R {
	return func(ctx context.Context, obj store.Object) (result R) {
		if f != nil {
			result = f(ctx, obj.(T))
		}
		return result
	}
}

func compare[T store.Object, R any](f func(context.Context, T, T) R) func(ctx context.Context, obj, old store.Object) R {
	return func(ctx context.Context, obj, old store.Object) (result R) {
		if f != nil {
			result = f(ctx, obj.(T), old.(T))
		}
		return result
	}
}

func graceful[T store.Object](f func(T, *metav1.DeleteOptions) bool) func(store.Object, *metav1.DeleteOptions) bool {
	if f == nil {
		return nil
	}
	return func(obj store.Object, options *metav1.DeleteOptions) bool { return f(obj.(T), options) }
}

// What upstream's steps ask of a strategy.
var (
	_ rest.RESTCreateStrategy              = (*Strategy)(nil)
	_ rest.RESTUpdateStrategy              = (*Strategy)(nil)
	_ rest.RESTDeleteStrategy              = (*Strategy)(nil)
	_ rest.DeclarativeValidationStrategy   = (*Strategy)(nil)
	_ rest.RESTGracefulDeleteStrategy      = gracefulStrategy{}
	_ rest.GarbageCollectionDeleteStrategy = (*Strategy)(nil)
)

func (s *Strategy) NamespaceScoped() bool { return s.namespaced }

func (s *Strategy) PrepareForCreate(ctx context.Context, obj runtime.Object) {
	s.rules.PrepareForCreate(ctx, obj.(store.Object))
}

func (s *Strategy) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	return s.rules.Validate(ctx, obj.(store.Object))
}

func (s *Strategy) WarningsOnCreate(ctx context.Context, obj runtime.Object) []string {
	return s.rules.WarningsOnCreate(ctx, obj.(store.Object))
}

func (s *Strategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	s.rules.PrepareForUpdate(ctx, obj.(store.Object), old.(store.Object))
}

func (s *Strategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	return s.rules.ValidateUpdate(ctx, obj.(store.Object), old.(store.Object))
}

func (s *Strategy) WarningsOnUpdate(ctx context.Context, obj, old runtime.Object) []string {
	return s.rules.WarningsOnUpdate(ctx, obj.(store.Object), old.(store.Object))
}

func (s *Strategy) Canonicalize(obj runtime.Object) { s.rules.Canonicalize(obj.(store.Object)) }

func (s *Strategy) AllowCreateOnUpdate(context.Context) bool      { return s.rules.CreateOnUpdate }
func (s *Strategy) AllowUnconditionalUpdate(context.Context) bool { return !s.rules.Conditional }

func (s *Strategy) DefaultGarbageCollectionPolicy(context.Context) rest.GarbageCollectionPolicy {
	return s.rules.Dependents
}

func (s *Strategy) DeclarativeValidationConfig(context.Context, runtime.Object, runtime.Object) rest.DeclarativeValidationConfig {
	config := rest.DeclarativeValidationConfig{NormalizationRules: s.rules.Paths}
	if s.rules.Options != nil {
		config.Options = s.rules.Options()
	}
	return config
}

// ValidateDeclaratively runs the versioned rules on the versioned object at
// hand, where upstream would convert an internal one first.
func (s *Strategy) ValidateDeclaratively(ctx context.Context, obj, old runtime.Object, found field.ErrorList, _ operation.Type, config rest.DeclarativeValidationConfig) field.ErrorList {
	return kube.Declared(ctx, obj, old, found, config.Options, s.subresource, config.NormalizationRules...)
}

// gracefulStrategy is a Strategy of a kind that has grace periods: upstream's
// BeforeDelete tells the two apart by this method.
type gracefulStrategy struct{ *Strategy }

func (s gracefulStrategy) CheckGracefulDelete(_ context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
	return s.rules.GracefulDelete(obj.(store.Object), options)
}

// forDelete is the strategy as BeforeDelete should see it.
func (s *Strategy) forDelete() rest.RESTDeleteStrategy {
	if s.rules.GracefulDelete == nil {
		return s
	}
	return gracefulStrategy{s}
}
