package managedfields

import (
	"maps"
	"math/rand"
	"reflect"
	"slices"
	"testing"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/kube"
)

// thin takes parts of a configuration away here and there.
func thin(r *rand.Rand, config map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(config)) {
		v := config[name]
		switch v := v.(type) {
		case map[string]any:
			if thin(r, v); len(v) == 0 {
				delete(config, name)
			}
		case []any:
			for _, i := range v {
				if m, ok := i.(map[string]any); ok && r.Intn(2) == 0 {
					for _, field := range []string{"image", "message", "reason", "value"} {
						delete(m, field)
					}
				}
			}
			if len(v) == 0 || r.Intn(6) == 0 || name == "managedFields" {
				delete(config, name)
			}
		default:
			if v == nil || r.Intn(6) == 0 {
				delete(config, name)
			}
		}
	}
}

// A random configuration is applied, another manager changes things, and it is
// applied again. What could go wrong: what we take for nothing would have
// changed a field, an owner or the order of a list.
func TestAppliedAgainMeansNothingToUpstream(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	same, again := 0, 0
	for n, kind := range tracked(t) {
		s := seed + int64(n)
		r, fill := rand.New(rand.NewSource(s)), filler(s)
		m := New(kind, "", Reset{Except: []string{"status"}})
		source, _ := kube.Scheme.New(kind)
		fill.Fill(source)
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(source)
		if err != nil {
			t.Fatal(err)
		}
		thin(r, content)
		config := &unstructured.Unstructured{Object: content}
		config.SetGroupVersionKind(kind)
		config.SetName("web")
		config.SetUID("")
		config.SetResourceVersion("")
		empty, _ := kube.Scheme.New(kind)
		live, err := m.Apply(empty, config.DeepCopy(), "a", true)
		if err != nil {
			continue // the same key twice, or the like
		}
		live.(metav1.Object).SetUID("1")
		for step := range 4 {
			if step > 1 {
				next, other := live.DeepCopyObject(), source.DeepCopyObject()
				fill.Fill(other)
				mix(r, reflect.ValueOf(next).Elem(), reflect.ValueOf(other).Elem())
				next.(metav1.Object).SetManagedFields(live.(metav1.Object).GetManagedFields())
				live = m.UpdateNoErrors(live, next, "b")
			}
			live.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
			again++
			if !m.quick().applied(live, config.DeepCopy().Object, "a") {
				continue
			}
			same++
			want, err := m.upstream().Apply(live.DeepCopyObject(), config.DeepCopy(), "a", false)
			if err != nil {
				t.Fatalf("seed %d: %s: nothing to us, to upstream %v", s, kind, err)
			}
			want.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
			if g, w := words(live), words(want); !reflect.DeepEqual(g, w) {
				t.Fatalf("seed %d: %s:\n got %q\nwant %q", s, kind, g, w)
			}
			got := live.DeepCopyObject()
			for _, o := range []runtime.Object{got, want} {
				o.(metav1.Object).SetManagedFields(nil)
				kube.Default(o) // as every write is
			}
			if !apiequality.Semantic.DeepEqual(got, want) {
				t.Fatalf("seed %d: %s:\n got %+v\nwant %+v", s, kind, got, want)
			}
		}
	}
	t.Logf("%d of %d applies were seen to change nothing", same, again)
	if same == 0 {
		t.Error("no apply was seen to change nothing")
	}
}
