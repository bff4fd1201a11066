package kube

import (
	"context"

	"k8s.io/apimachinery/pkg/api/validate"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/features"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
)

// Declared adds what the kind's declarative rules find to what its hand-written
// ones found, and drops hand-written findings that the declarative ones repeat.
// old is nil for a create. subresource is empty for the object itself. options
// are the names that the kind's rules refer to, most often feature gates. paths
// translate fields that the two sets call by different paths.
//
// Upstream moves rules from the first set to the second from release to
// release: a kind validated by one set alone silently loses rules.
func Declared(ctx context.Context, obj, old runtime.Object, found field.ErrorList, options map[string]bool, subresource string, paths ...field.NormalizationRule) field.ErrorList {
	var path []string
	if subresource != "" {
		path = []string{subresource}
	}
	found = found.MarkFromImperative()
	var declared field.ErrorList
	if old == nil {
		declared = Scheme.Validate(ctx, options, obj, path...)
	} else {
		declared = Scheme.ValidateUpdate(ctx, options, obj, old, path...)
	}
	beta := utilfeature.DefaultFeatureGate.Enabled(features.DeclarativeValidationBeta)
	enforced := validate.FilterEnforcedDeclarativeErrors(ctx, declared, beta)
	found = validate.FilterCoveredHandwrittenErrors(ctx, found, enforced, beta, paths...)
	return append(found, enforced...)
}

// onCreate makes an upstream rule for new internal objects one for versioned V.
func onCreate[V, I runtime.Object](rule func(I) field.ErrorList) func(context.Context, V) field.ErrorList {
	return func(_ context.Context, obj V) field.ErrorList { return rule(internal[I](obj)) }
}

// onUpdate makes an upstream rule for changed internal objects one for versioned V.
func onUpdate[V, I runtime.Object](rule func(obj, old I) field.ErrorList) func(context.Context, V, V) field.ErrorList {
	return func(_ context.Context, obj, old V) field.ErrorList { return rule(internal[I](obj), internal[I](old)) }
}

// onCreateContext is onCreate for a rule that asks for the request's context.
func onCreateContext[V, I runtime.Object](rule func(context.Context, I) field.ErrorList) func(context.Context, V) field.ErrorList {
	return func(ctx context.Context, obj V) field.ErrorList { return rule(ctx, internal[I](obj)) }
}

// onUpdateContext is onUpdate for a rule that asks for the request's context.
func onUpdateContext[V, I runtime.Object](rule func(ctx context.Context, obj, old I) field.ErrorList) func(context.Context, V, V) field.ErrorList {
	return func(ctx context.Context, obj, old V) field.ErrorList {
		return rule(ctx, internal[I](obj), internal[I](old))
	}
}
