package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	kjson "sigs.k8s.io/json"
)

// applyStrategic merges as the kind's types say: lists by key.
func (p *patch) applyStrategic(current, obj runtime.Object) error {
	fields, strict, err := p.fields()
	if err != nil {
		return err
	}
	if len(strict) == 0 && mergeParts(current, obj, fields) {
		return nil
	}
	return p.mergeWhole(current, obj)
}

// fields are what the patch says, for one merge, which uses them up, and what is
// wrong with its form.
func (p *patch) fields() (fields map[string]any, strict []error, err error) {
	fields = map[string]any{}
	if p.directive == metav1.FieldValidationIgnore {
		err = kjson.UnmarshalCaseSensitivePreserveInts(p.body, &fields)
	} else {
		strict, err = kjson.UnmarshalStrict(p.body, &fields)
	}
	if err != nil {
		err = badRequest(err)
	}
	return fields, strict, err
}

func (p *patch) mergeWhole(current, obj runtime.Object) error {
	fields, strict, err := p.fields()
	if err != nil {
		return err
	}
	original, err := runtime.DefaultUnstructuredConverter.ToUnstructured(current)
	if err != nil {
		return err
	}
	patched, err := strategicpatch.StrategicMergeMapPatch(original, fields, obj)
	if err != nil {
		return strategicError(err)
	}
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(patched, obj, p.directive != metav1.FieldValidationIgnore)
	if err != nil {
		found, isStrict := runtime.AsStrictDecodingError(err)
		if !isStrict {
			return invalidPatch(fmt.Sprintf("%+v", fields), err)
		}
		strict = append(strict, found.Errors()...)
	}
	return p.judge(strict, fmt.Sprintf("%+v", fields))
}

// patchMistakes are errors of the library that mean a malformed patch.
var patchMistakes = []error{
	mergepatch.ErrBadJSONDoc, mergepatch.ErrBadPatchFormatForPrimitiveList, mergepatch.ErrBadPatchFormatForRetainKeys,
	mergepatch.ErrBadPatchFormatForSetElementOrderList, mergepatch.ErrUnsupportedStrategicMergePatchFormat,
}

// strategicError tells a patch that is malformed from one that does not fit.
// Both are the client's: the object was well-formed before.
func strategicError(err error) error {
	for _, mistake := range patchMistakes {
		if errors.Is(err, mistake) {
			return badRequest(err)
		}
	}
	return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
}

// mergeParts makes obj of current by merging only those parts (metadata, spec,
// status) that the patch is about, which is what costs: each is converted to maps,
// merged, and converted back. False if there is anything unusual about the patch,
// be it a mistake; obj is then as good as new, and the whole object must be
// merged, which tells mistakes by their full path.
func mergeParts(current, obj runtime.Object, fields map[string]any) bool {
	from, to := reflect.ValueOf(current).Elem(), reflect.ValueOf(obj).Elem()
	if from.Type() != to.Type() || from.Kind() != reflect.Struct || len(fields) == 0 {
		return false
	}
	parts, original := map[string]int{}, map[string]any{}
	for name, patch := range fields {
		part, ok := partNamed(from.Type(), name)
		if _, isMap := patch.(map[string]any); !ok || !isMap {
			return false
		}
		converted, err := runtime.DefaultUnstructuredConverter.ToUnstructured(from.Field(part).Addr().Interface())
		if err != nil {
			return false
		}
		parts[name], original[name] = part, converted
	}
	patched, err := strategicpatch.StrategicMergeMapPatch(original, fields, obj)
	if err != nil || len(patched) != len(parts) {
		return false
	}
	merged := map[int]reflect.Value{}
	for name, part := range parts {
		whole, ok := patched[name].(map[string]any)
		if !ok {
			return false
		}
		value := reflect.New(from.Field(part).Type())
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(whole, value.Interface(), true); err != nil {
			return false
		}
		merged[part] = value.Elem()
	}
	to.Set(reflect.ValueOf(current.DeepCopyObject()).Elem())
	for part, value := range merged {
		to.Field(part).Set(value)
	}
	return true
}

// partNamed is the field of an object's type that is a struct of that name in JSON.
func partNamed(typ reflect.Type, name string) (int, bool) {
	for i := range typ.NumField() {
		f := typ.Field(i)
		if found, _, _ := strings.Cut(f.Tag.Get("json"), ","); found == name && name != "" && f.Type.Kind() == reflect.Struct {
			return i, true
		}
	}
	return 0, false
}
