package store

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/fsm/kv"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// An object is stored as Kubernetes protobuf without its TypeMeta, which is
// not part of the message, and without metadata.resourceVersion, which is not
// known before the write. Kinds with a Codec are stored as that says. Field
// numbers of the latter, in every stored type and in ObjectMeta:
const (
	fieldMetadata        = 1
	fieldResourceVersion = 6
)

// encode returns a copy of obj to be handed out after the write, which shares
// obj's maps and slices, and the operation that writes it.
func (t *Table) encode(key string, obj Object) (Object, *storagev1.Put, error) {
	from := reflect.ValueOf(obj)
	if from.Type() != t.typ || from.IsNil() {
		return nil, nil, fmt.Errorf("%w: a %T among %s", ErrInvalid, obj, t.spec.Resource)
	}
	out := shallow(obj)
	out.SetResourceVersion("")
	value, err := t.spec.marshal(out)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: encode %s: %w", ErrInvalid, key, err)
	}
	put := &storagev1.Put{Key: []byte(key), Value: value, Labels: attrs(obj.GetLabels(), true)}
	if t.spec.Fields != nil {
		put.Fields = attrs(t.spec.Fields(obj), false)
	}
	return out, put, nil
}

// shallow copies obj so far that its kind and resourceVersion can be set.
func shallow(obj Object) Object {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		content := maps.Clone(u.Object)
		if metadata, ok := content["metadata"].(map[string]any); ok {
			content["metadata"] = maps.Clone(metadata)
		}
		return &unstructured.Unstructured{Object: content}
	}
	from := reflect.ValueOf(obj).Elem()
	to := reflect.New(from.Type())
	to.Elem().Set(from)
	return to.Interface().(Object)
}

func (s *Spec) marshal(obj Object) ([]byte, error) {
	if s.Codec != nil {
		return s.Codec.Encode(obj)
	}
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return obj.(Message).Marshal()
}

func (s *Spec) unmarshal(item *kv.Item) (Object, error) {
	if s.Codec != nil {
		return s.Codec.Decode(item)
	}
	obj := s.New()
	return obj, obj.(Message).Unmarshal(item.Value)
}

// AsStored is obj as it would be read, had it been written: what the stored form
// cannot tell apart, as an empty list and none, is not apart in it either.
func AsStored(spec *Spec, obj Object) (Object, error) {
	if spec.Codec != nil {
		return obj, nil
	}
	value, err := spec.marshal(shallow(obj))
	if err != nil {
		return nil, err
	}
	stored, err := spec.unmarshal(&kv.Item{Value: value})
	if err != nil {
		return nil, err
	}
	stored.SetResourceVersion(obj.GetResourceVersion())
	return stored, nil
}

// attrs sorts by name. A field that is empty is left out: selectors cannot
// tell the difference.
func attrs(from map[string]string, empty bool) []*storagev1.Attr {
	list := make([]*storagev1.Attr, 0, len(from))
	for _, name := range slices.Sorted(maps.Keys(from)) {
		if value := from[name]; value != "" || empty {
			list = append(list, &storagev1.Attr{Name: name, Value: value})
		}
	}
	return list
}

// Decode returns the object that an item of spec's table holds, with its
// resourceVersion.
func Decode(spec *Spec, item *kv.Item) (Object, error) {
	obj, err := spec.unmarshal(item)
	if err != nil {
		return nil, fmt.Errorf("decode %s at revision %d: %w", item.Key, item.Revision, err)
	}
	obj.SetResourceVersion(formatRevision(item.Revision))
	return obj, nil
}

// RawWithRevision is the item's object as Kubernetes protobuf with its
// resourceVersion, without decoding it. Not for kinds with a Codec.
func RawWithRevision(item *kv.Item) []byte {
	return AppendRaw(make([]byte, 0, len(item.Value)+rawRevisionMax), item)
}

// rawRevisionMax is the most that a resourceVersion adds.
const rawRevisionMax = 4 + 20

// AppendRaw appends RawWithRevision to dst. The revision follows as a second
// metadata that has nothing else in it; protobuf readers merge the two.
func AppendRaw(dst []byte, item *kv.Item) []byte {
	revision := make([]byte, 0, 20)
	revision = strconv.AppendUint(revision, item.Revision, 10)
	const bytesType = 2
	dst = append(dst, item.Value...)
	dst = append(dst, fieldMetadata<<3|bytesType, byte(len(revision)+2))
	dst = append(dst, fieldResourceVersion<<3|bytesType, byte(len(revision)))
	return append(dst, revision...)
}

// RawSize is how many bytes AppendRaw appends.
func RawSize(item *kv.Item) int {
	digits := 1
	for n := item.Revision; n >= 10; n /= 10 {
		digits++
	}
	return len(item.Value) + 4 + digits
}

func formatRevision(revision uint64) string { return strconv.FormatUint(revision, 10) }
