package custom

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	apivalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/musterhq/muster/control/resource"
)

// rules are those for writes of the object itself, step by step upstream's.
func (v *version) rules() resource.Rules[*unstructured.Unstructured] {
	return resource.Rules[*unstructured.Unstructured]{
		PrepareForCreate: func(_ context.Context, obj *unstructured.Unstructured) {
			if v.hasStatus() {
				delete(obj.Object, "status")
			}
			obj.SetGeneration(1)
		},
		Validate:         v.validate,
		WarningsOnCreate: func(_ context.Context, obj *unstructured.Unstructured) []string { return finalizerWarnings(obj, nil) },
		PrepareForUpdate: func(_ context.Context, obj, old *unstructured.Unstructured) {
			if v.hasStatus() {
				if status, ok := old.Object["status"]; ok {
					obj.Object["status"] = status
				} else {
					delete(obj.Object, "status")
				}
			}
			if !sameButMetadata(obj, old) {
				obj.SetGeneration(old.GetGeneration() + 1)
			}
		},
		ValidateUpdate: v.validateUpdate,
		WarningsOnUpdate: func(_ context.Context, obj, old *unstructured.Unstructured) []string {
			return finalizerWarnings(obj, old)
		},
		Conditional: true,
		Dependents:  rest.DeleteDependents,
	}
}

// statusRules take everything but the status from the stored object.
func (v *version) statusRules() resource.Rules[*unstructured.Unstructured] {
	return resource.Rules[*unstructured.Unstructured]{
		PrepareForUpdate: func(_ context.Context, obj, old *unstructured.Unstructured) {
			status, ok := obj.Object["status"]
			managed := obj.GetManagedFields()
			obj.Object = old.DeepCopy().Object
			obj.SetManagedFields(managed)
			if ok {
				obj.Object["status"] = status
			} else {
				delete(obj.Object, "status")
			}
		},
		ValidateUpdate: v.validateStatusUpdate,
		Conditional:    true,
	}
}

func sameButMetadata(a, b *unstructured.Unstructured) bool {
	return apiequality.Semantic.DeepEqual(withoutMetadata(a), withoutMetadata(b))
}

func withoutMetadata(u *unstructured.Unstructured) map[string]any {
	rest := maps.Clone(u.Object)
	delete(rest, "metadata")
	return rest
}

func (v *version) validate(ctx context.Context, obj *unstructured.Unstructured) field.ErrorList {
	c, err := v.compiled()
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	errs := v.validateKind(obj)
	if len(errs) == 0 {
		errs = append(errs, v.validateMetadata(ctx, obj, nil)...)
		errs = append(errs, validation.ValidateCustomResource(nil, obj.Object, c.object)...)
		errs = append(errs, v.validateScale(obj)...)
	}
	errs = append(errs, objectmeta.Validate(ctx, nil, obj.Object, c.structural, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, c.structural, obj.Object)...)
	return v.applyRules(ctx, c, errs, obj.Object, nil)
}

// validateUpdate does not hold against the user what was wrong before and was not
// changed.
func (v *version) validateUpdate(ctx context.Context, obj, old *unstructured.Unstructured) field.ErrorList {
	c, err := v.compiled()
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	correlated := common.NewCorrelatedObject(obj.Object, old.Object, &model.Structural{Structural: c.structural})
	errs := v.validateKind(obj)
	if len(errs) == 0 {
		errs = append(errs, v.validateMetadata(ctx, obj, old)...)
		errs = append(errs, validation.ValidateCustomResourceUpdate(nil, obj.Object, old.Object, c.object, validation.WithRatcheting(correlated))...)
		errs = append(errs, v.validateScale(obj)...)
	}
	errs = append(errs, objectmeta.Validate(ctx, nil, obj.Object, c.structural, false)...)
	errs = append(errs, changedLists(c, obj, old)...)
	return v.applyRules(ctx, c, errs, obj.Object, old.Object, cel.WithRatcheting(correlated))
}

func (v *version) validateStatusUpdate(ctx context.Context, obj, old *unstructured.Unstructured) field.ErrorList {
	c, err := v.compiled()
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	correlated := common.NewCorrelatedObject(obj.Object, old.Object, &model.Structural{Structural: c.structural})
	errs := v.validateKind(obj)
	if len(errs) == 0 {
		errs = append(errs, v.validateMetadata(ctx, obj, old)...)
		if status, ok := obj.Object["status"]; ok && c.status != nil {
			var options []validation.ValidationOption
			if c.structural != nil {
				options = append(options, validation.WithRatcheting(correlated.Key("status")))
			}
			errs = append(errs, validation.ValidateCustomResourceUpdate(field.NewPath("status"), status, old.Object["status"], c.status, options...)...)
		}
		errs = append(errs, v.validateScaleStatus(obj)...)
	}
	errs = append(errs, changedLists(c, obj, old)...)
	return v.applyRules(ctx, c, errs, obj.Object, old.Object, cel.WithRatcheting(correlated))
}

// changedLists are violations of x-kubernetes-list-type, if there were none before.
func changedLists(c *compiled, obj, old *unstructured.Unstructured) field.ErrorList {
	errs := listtype.ValidateListSetsAndMaps(nil, c.structural, obj.Object)
	if len(errs) > 0 && len(listtype.ValidateListSetsAndMaps(nil, c.structural, old.Object)) > 0 {
		return nil
	}
	return errs
}

// blocking are errors after which the rules' types could not be relied on.
var blocking = []field.ErrorType{
	field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid,
}

// applyRules adds what the schema's x-kubernetes-validations find.
func (v *version) applyRules(ctx context.Context, c *compiled, errs field.ErrorList, obj, old map[string]any, options ...cel.Option) field.ErrorList {
	if c.rules == nil {
		return errs
	}
	if slices.ContainsFunc(errs, func(e *field.Error) bool { return slices.Contains(blocking, e.Type) }) {
		return append(errs, field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"))
	}
	var before any // must be a nil interface, not a nil map, when there is none
	if old != nil {
		before = old
	}
	found, _ := c.rules.Validate(ctx, nil, c.structural, obj, before, celconfig.RuntimeCELCostBudget, options...)
	return append(errs, found...)
}

func (v *version) validateKind(obj *unstructured.Unstructured) field.ErrorList {
	var errs field.ErrorList
	if kind := obj.GetKind(); kind != v.kind.Kind {
		errs = append(errs, field.Invalid(field.NewPath("kind"), kind, fmt.Sprintf("must be %v", v.kind.Kind)))
	}
	if version := obj.GetAPIVersion(); version != v.kind.GroupVersion().String() {
		errs = append(errs, field.Invalid(field.NewPath("apiVersion"), version, fmt.Sprintf("must be %v", v.kind.GroupVersion())))
	}
	return errs
}

// finalizerWarnings are about the names of finalizers that were added.
func finalizerWarnings(obj, old *unstructured.Unstructured) []string {
	added := obj.GetFinalizers()
	if old != nil {
		before := old.GetFinalizers()
		added = slices.DeleteFunc(slices.Clone(added), func(f string) bool { return slices.Contains(before, f) })
	}
	slices.Sort(added)
	var warnings []string
	for _, finalizer := range slices.Compact(added) {
		warnings = append(warnings, finalizerWarning(finalizer)...)
	}
	return warnings
}

func finalizerWarning(name string) []string {
	const path = "metadata.finalizers"
	var warnings []string
	for _, message := range apivalidation.IsQualifiedName(name) {
		warnings = append(warnings, fmt.Sprintf("%s: %q: %s", path, name, message))
	}
	if strings.Contains(name, "/") || slices.Contains(standardFinalizers, name) {
		return warnings
	}
	advice := "prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers"
	if strings.Contains(name, ".") {
		advice = "prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers"
	}
	return append(warnings, fmt.Sprintf("%s: %q: %s", path, name, advice))
}
