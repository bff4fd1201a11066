package hook

import (
	"reflect"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// closed knows the fields color and size, which is 1 where it is not said.
type closed struct{ resource.Schema }

func (closed) Coerce(obj store.Object, _ bool) ([]string, error) {
	spec := obj.(*unstructured.Unstructured).Object["spec"].(map[string]any)
	for name := range spec {
		if name != "color" && name != "size" {
			delete(spec, name)
		}
	}
	return nil, nil
}

func (closed) Default(obj store.Object) {
	spec := obj.(*unstructured.Unstructured).Object["spec"].(map[string]any)
	if _, ok := spec["size"]; !ok {
		spec["size"] = int64(1)
	}
}

func TestWhatHooksPutIntoCustomObjectsIsPruned(t *testing.T) {
	kind := schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Widget"}
	objects := NewObjects(func() []*resource.Kind {
		return []*resource.Kind{{Spec: &store.Spec{Kind: kind}, Schema: closed{}}}
	})
	for name, group := range map[string]string{"a kind that is served": "example.com", "another": "example.org"} {
		obj := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"color": "red", "unknown": "x"}}}
		obj.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: "v1", Kind: "Widget"})
		objects.GetObjectDefaulter().Default(obj)
		want := map[string]any{"color": "red", "size": int64(1)}
		if group != kind.Group {
			want = map[string]any{"color": "red", "unknown": "x"}
		}
		if got := obj.Object["spec"]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
