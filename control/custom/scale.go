package custom

import (
	"fmt"
	"math"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// newScale shows the fields that the definition names as a Scale.
func (v *version) newScale(spec *store.Spec) *resource.Scale {
	paths := v.scale()
	var elements []any
	for _, name := range fieldsOf(paths.SpecReplicasPath) {
		elements = append(elements, name)
	}
	// Fields of other types than these are not stored: see validateScale.
	return resource.NewScale(resource.NewStrategy(spec, "scale", v.rules()), resource.Scale{
		Path: fieldpath.MakePathOrDie(elements...),
		Get: func(obj store.Object) (replicas, current int32, selector string) {
			content := obj.(*unstructured.Unstructured).Object
			wanted, _, _ := unstructured.NestedInt64(content, fieldsOf(paths.SpecReplicasPath)...)
			there, _, _ := unstructured.NestedInt64(content, fieldsOf(paths.StatusReplicasPath)...)
			if paths.LabelSelectorPath != nil && *paths.LabelSelectorPath != "" {
				selector, _, _ = unstructured.NestedString(content, fieldsOf(*paths.LabelSelectorPath)...)
			}
			return int32(wanted), int32(there), selector
		},
		Set: func(obj store.Object, replicas int32) {
			_ = unstructured.SetNestedField(obj.(*unstructured.Unstructured).Object, int64(replicas), fieldsOf(paths.SpecReplicasPath)...)
		},
		Missing: func(obj store.Object) error {
			if _, found, err := unstructured.NestedInt64(obj.(*unstructured.Unstructured).Object, fieldsOf(paths.SpecReplicasPath)...); err != nil || found {
				return err
			}
			return apierrors.NewInternalError(fmt.Errorf("the spec replicas field %q does not exist", paths.SpecReplicasPath))
		},
	})
}

// validateScale says what of the fields that the scale subresource shows it could
// not show.
func (v *version) validateScale(obj *unstructured.Unstructured) field.ErrorList {
	if v.scale() == nil {
		return nil
	}
	errs := validateCount(obj, v.scale().SpecReplicasPath)
	return append(errs, v.validateScaleStatus(obj)...)
}

func (v *version) validateScaleStatus(obj *unstructured.Unstructured) field.ErrorList {
	paths := v.scale()
	if paths == nil {
		return nil
	}
	errs := validateCount(obj, paths.StatusReplicasPath)
	if paths.LabelSelectorPath != nil {
		if selector, _, err := unstructured.NestedString(obj.Object, fieldsOf(*paths.LabelSelectorPath)...); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*paths.LabelSelectorPath), selector, err.Error()))
		}
	}
	return errs
}

func validateCount(obj *unstructured.Unstructured, at string) field.ErrorList {
	count, _, err := unstructured.NestedInt64(obj.Object, fieldsOf(at)...)
	message := ""
	switch {
	case err != nil:
		message = err.Error()
	case count < 0:
		message = "should be a non-negative integer"
	case count > math.MaxInt32:
		message = fmt.Sprintf("should be less than or equal to %v", math.MaxInt32)
	default:
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath(at), count, message)}
}
