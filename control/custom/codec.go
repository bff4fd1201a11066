package custom

import (
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/jsonpath"
	kjson "sigs.k8s.io/json"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/fsm/kv"
)

// Encode implements store.Codec. Whatever version an object is written in, it is
// stored in the definition's; the version that it is stored in is in its bytes.
func (v *version) Encode(obj store.Object) ([]byte, error) {
	u := obj.(*unstructured.Unstructured)
	if kind := u.GroupVersionKind(); kind != v.kind {
		return nil, fmt.Errorf("%s among %s", kind, v.kind)
	}
	if to := v.def.stored; to != v {
		var err error
		if u, err = v.def.convertTo(u.DeepCopy(), to); err != nil {
			return nil, err
		}
	}
	return json.Marshal(u.Object) // sorted, so the same on all control nodes
}

// Decode implements store.Codec. What was stored under an older schema is pruned
// and defaulted by that of its version today, as upstream does.
func (v *version) Decode(item *kv.Item) (store.Object, error) {
	u := &unstructured.Unstructured{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(item.Value, &u.Object); err != nil {
		return nil, err
	}
	group, err := schema.ParseGroupVersion(u.GetAPIVersion())
	if err != nil {
		return nil, err
	}
	from := v.def.versions[group.Version]
	if from == nil || group.Group != v.kind.Group {
		return nil, fmt.Errorf("request to convert CR from an invalid group/version: %s", group)
	}
	u.SetKind(v.kind.Kind) // the definition may have been made anew with another
	if _, err := from.coerce(u, false, true); err != nil {
		return nil, err
	}
	if u.GetGeneration() == 0 {
		u.SetGeneration(1)
	}
	from.Default(u)
	if from == v {
		return u, nil
	}
	return v.def.convertTo(u, v)
}

// convertTo takes an object, which is the caller's to give away, to another version.
func (d *definition) convertTo(u *unstructured.Unstructured, to *version) (*unstructured.Unstructured, error) {
	converted, err := d.convert.ConvertToVersion(u, to.kind.GroupVersion())
	if err != nil {
		return nil, err
	}
	out, ok := converted.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("%s became a %T", u.GroupVersionKind(), converted)
	}
	_, err = to.coerce(out, false, false)
	return out, err
}

// Fields implements store.Codec.
func (v *version) Fields(item *kv.Item) fields.Set {
	set := fields.Set{}
	if len(v.spec.SelectableFields) == 0 {
		return set
	}
	obj, err := v.Decode(item)
	if err != nil {
		return set // who reads the object is told
	}
	content := obj.(*unstructured.Unstructured).Object
	for _, field := range v.spec.SelectableFields {
		set[strings.TrimPrefix(field.JSONPath, ".")] = valueAt(content, field.JSONPath)
	}
	return set
}

// valueAt is the value that a JSON path leads to, or empty.
func valueAt(content map[string]any, at string) string {
	path := jsonpath.New("selectableField")
	path.AllowMissingKeys(true)
	if path.Parse("{"+at+"}") != nil {
		return ""
	}
	results, err := path.FindResults(content)
	if err != nil || len(results) == 0 || len(results[0]) == 0 {
		return ""
	}
	if value := results[0][0].Interface(); value != nil {
		return fmt.Sprint(value)
	}
	return ""
}
