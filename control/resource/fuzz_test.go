package resource

import (
	"encoding/json"
	"testing"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// FuzzWrites sends whatever decodes through every step of a create, and then
// as an update and a status update of a plain object. Objects come from users:
// nothing in them may make a step panic, and what was stored must be readable.
func FuzzWrites(f *testing.F) {
	pod := newPod("web")
	pod.Spec.NodeSelector = map[string]string{"a": "b"}
	for _, obj := range []store.Object{pod, newRC("web", 1), newNode("n1"), newEvent("e")} {
		data, err := json.Marshal(obj)
		if err != nil {
			f.Fatal(err)
		}
		for kind := range kinds {
			f.Add(kind, data)
		}
	}
	f.Add(3, []byte(`{"metadata":{"name":"a"},"spec":{"containers":[{"name":"a","image":"b","resources":{"limits":{"cpu":"-1","memory":"1e999"}}}],"affinity":{"podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"matchLabelKeys":["x"]}]}}}}`))
	f.Add(4, []byte(`{"metadata":{"name":"a"},"spec":{"template":null,"selector":{}}}`))
	codec := kube.Codecs.UniversalDeserializer()
	f.Fuzz(func(t *testing.T, at int, data []byte) {
		if at < 0 || at >= len(kinds) {
			return
		}
		kind, ns := kinds[at], ""
		if kind.Namespaced() {
			ns = "default"
		}
		decode := func() store.Object {
			obj := kind.Spec.New()
			gvk := kind.Spec.Kind
			if _, _, err := codec.Decode(data, &gvk, obj); err != nil {
				return nil
			}
			return obj
		}
		obj := decode()
		if obj == nil {
			return
		}
		r := newRegistry(t)
		created, err := r.Create(t.Context(), kind, ns, obj, CreateOptions{})
		if err == nil {
			if got := stored[store.Object](t, r, kind, ns, created.GetName()); got == nil || got.GetUID() != created.GetUID() {
				t.Fatalf("stored %v, want %v", got, created)
			}
		}
		base := map[*Kind]store.Object{Pods: newPod("x"), ReplicationControllers: newRC("x", 1), Nodes: newNode("x"), Events: newEvent("x")}[kind]
		if base == nil {
			return
		}
		must(t, r, kind, ns, base)
		for _, path := range []string{"", "status"} {
			if kind.strategy(path) == nil {
				continue
			}
			_, _, _ = r.Update(t.Context(), kind, ns, "x", path, func(current store.Object) (store.Object, error) {
				obj := decode()
				obj.SetName("x")
				obj.SetResourceVersion("")
				obj.SetUID("")
				return obj, nil
			}, UpdateOptions{})
		}
		_, _, _ = r.Delete(t.Context(), kind, ns, "x", nil)
	})
}
