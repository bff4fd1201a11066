package store

import (
	"fmt"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/fsm/kv"
)

// Convert makes an object of version to from another version's. The two may
// share memory, and the result may say what it is.
type Convert func(obj runtime.Object, to schema.GroupVersion) (runtime.Object, error)

// Version is the same objects that stored keeps, as they look in another version
// of their kind, which may be in another group: reading converts, and so does
// writing. What is stored, and under which keys, is stored's business, so
// whoever writes through one and watches through the other sees one object.
func Version(stored *Spec, kind schema.GroupVersionKind, object Message, list runtime.Object, convert Convert) *Spec {
	codec := version{stored: stored, group: kind.GroupVersion(), convert: convert}
	v := *stored
	v.Kind = kind
	v.New = func() Object { return object.DeepCopyObject().(Object) }
	v.NewList = list.DeepCopyObject
	v.Codec = codec
	if stored.Fields != nil {
		v.Fields = func(obj Object) map[string]string {
			// An object that does not convert is not written: Encode says so.
			asStored, err := codec.to(obj, stored.Kind.GroupVersion())
			if err != nil {
				return nil
			}
			return stored.Fields(asStored)
		}
	}
	return &v
}

// version is the Codec of a kind that is stored in another version.
type version struct {
	stored  *Spec
	group   schema.GroupVersion
	convert Convert
}

func (v version) Encode(obj Object) ([]byte, error) {
	asStored, err := v.to(obj, v.stored.Kind.GroupVersion())
	if err != nil {
		return nil, err
	}
	return v.stored.marshal(asStored)
}

func (v version) Decode(item *kv.Item) (Object, error) {
	obj, err := v.stored.unmarshal(item)
	if err != nil {
		return nil, err
	}
	return v.to(obj, v.group)
}

func (v version) Fields(item *kv.Item) fields.Set {
	set := make(fields.Set, len(item.Fields))
	for _, f := range item.Fields {
		set[f.Name] = f.Value
	}
	return set
}

func (v version) to(obj Object, to schema.GroupVersion) (Object, error) {
	converted, err := v.convert(obj, to)
	if err != nil {
		return nil, fmt.Errorf("convert to %s: %w", to, err)
	}
	out, ok := converted.(Object)
	if !ok {
		return nil, fmt.Errorf("convert to %s: a %T is not stored", to, converted)
	}
	out.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return out, nil
}
