package store

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/fsm/kv"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// RawWithRevision relies on where protobuf has metadata and resourceVersion.
func TestEveryStoredKindHasItsMetadataWhereRawWithRevisionPutsIt(t *testing.T) {
	number := func(typ reflect.Type, name string) string {
		field, ok := typ.FieldByName(name)
		if !ok {
			t.Fatalf("%s has no field %s", typ, name)
		}
		return field.Tag.Get("protobuf")
	}
	if tag := number(reflect.TypeFor[metav1.ObjectMeta](), "ResourceVersion"); !strings.HasPrefix(tag, fmt.Sprintf("bytes,%d,", fieldResourceVersion)) {
		t.Errorf("metadata.resourceVersion is %q, want field %d", tag, fieldResourceVersion)
	}
	for _, spec := range Specs {
		typ := reflect.TypeOf(spec.New()).Elem()
		if tag := number(typ, "ObjectMeta"); !strings.HasPrefix(tag, fmt.Sprintf("bytes,%d,", fieldMetadata)) {
			t.Errorf("metadata of %s is %q, want field %d", spec.Resource, tag, fieldMetadata)
		}
		if tag := number(typ, "TypeMeta"); tag != "" {
			t.Errorf("TypeMeta of %s is %q, want it not stored", spec.Resource, tag)
		}
	}
}

func TestRawWithRevisionReadsAsTheObjectAtItsRevision(t *testing.T) {
	for _, spec := range Specs {
		for _, revision := range []uint64{1, 9, 10, 123456789, math.MaxUint64} {
			obj := spec.New()
			obj.SetName("it")
			obj.SetUID("u")
			obj.SetLabels(map[string]string{"app": "web"})
			obj.SetGeneration(7)
			value, err := obj.(Message).Marshal()
			if err != nil {
				t.Fatal(err)
			}
			item := &kv.Item{Key: "it", Value: value, Revision: revision}
			raw := RawWithRevision(item)
			if got, want := len(raw), RawSize(item); got != want {
				t.Errorf("%d bytes at revision %d, want %d as announced", got, revision, want)
			}
			got := spec.New()
			if err := got.(Message).Unmarshal(raw); err != nil {
				t.Fatalf("%s at revision %d: %v", spec.Resource, revision, err)
			}
			decoded, err := Decode(spec, item)
			if err != nil {
				t.Fatal(err)
			}
			obj.SetResourceVersion(fmt.Sprint(revision))
			if !apiequality.Semantic.DeepEqual(got, obj) || !apiequality.Semantic.DeepEqual(decoded, obj) {
				t.Errorf("%s at revision %d reads as %v and decodes as %v, want %v", spec.Resource, revision, got, decoded, obj)
			}
		}
	}
}

// A resourceVersion that slipped into the bytes must not win over the item's.
func TestRawWithRevisionOverridesAStoredOne(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", ResourceVersion: "3"}}
	value, err := pod.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var got corev1.Pod
	if err := got.Unmarshal(RawWithRevision(&kv.Item{Value: value, Revision: 42})); err != nil || got.ResourceVersion != "42" {
		t.Errorf("resourceVersion %q, %v, want 42", got.ResourceVersion, err)
	}
}

func TestSpecsNameTheirKind(t *testing.T) {
	seen := map[string]bool{}
	for _, spec := range Specs {
		if got, want := reflect.TypeOf(spec.New()).Elem().Name(), spec.Kind.Kind; got != want {
			t.Errorf("%s are %s, want %s", spec.Resource, got, want)
		}
		if got, want := reflect.TypeOf(spec.NewList()).Elem().Name(), spec.Kind.Kind+"List"; got != want {
			t.Errorf("a list of %s is a %s, want %s", spec.Resource, got, want)
		}
		if spec.New() == spec.New() {
			t.Errorf("New of %s returns the same object again", spec.Resource)
		}
		if seen[spec.Prefix("")] {
			t.Errorf("two kinds are stored under %s", spec.Prefix(""))
		}
		seen[spec.Prefix("")] = true
		if spec.Fields != nil {
			spec.Fields(spec.New())
		}
	}
}

// A reader of the log finds them sorted, as storage.v1 says, whatever order a
// map has.
func TestLabelsAndFieldsAreWrittenInOrder(t *testing.T) {
	pod := benchPod()
	for i := range 20 {
		pod.Labels[fmt.Sprint("label-", i)] = ""
	}
	_, put, err := fixedTable(Pods).encode("pods/default/web-1", pod)
	if err != nil {
		t.Fatal(err)
	}
	if len(put.Labels) != len(pod.Labels) {
		t.Errorf("%d labels, want %d: an empty one is one, too", len(put.Labels), len(pod.Labels))
	}
	for _, f := range put.Fields {
		if f.Value == "" {
			t.Errorf("field %s is stored empty, want it left out", f.Name)
		}
	}
	for name, attrs := range map[string][]*storagev1.Attr{"labels": put.Labels, "fields": put.Fields} {
		for i := 1; i < len(attrs); i++ {
			if attrs[i-1].Name >= attrs[i].Name {
				t.Errorf("%s: %s follows %s", name, attrs[i].Name, attrs[i-1].Name)
			}
		}
	}
}

// fixedTable is what encode needs of a table.
func fixedTable(spec *Spec) *Table { return &Table{spec: spec, typ: reflect.TypeOf(spec.New())} }

func benchPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "default", UID: "0b9c7e0e-4fd4-4d1f-9a8e-2f2f6f6d4a11", Labels: map[string]string{"app": "web", "tier": "front"}},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{
			{Name: "main", Image: "registry.example/hello:1", Env: []corev1.EnvVar{{Name: "PORT", Value: "8080"}}},
			{Name: "side", Image: "registry.example/side:1"},
		}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.1.2.3"},
	}
}

func BenchmarkEncode(b *testing.B) {
	table, pod := fixedTable(Pods), benchPod()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := table.encode("pods/default/web-1", pod); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRawWithRevision(b *testing.B) {
	value, err := benchPod().Marshal()
	if err != nil {
		b.Fatal(err)
	}
	item := &kv.Item{Value: value, Revision: 123456}
	b.ReportAllocs()
	for b.Loop() {
		RawWithRevision(item)
	}
}

func BenchmarkDecode(b *testing.B) {
	value, err := benchPod().Marshal()
	if err != nil {
		b.Fatal(err)
	}
	item := &kv.Item{Value: value, Revision: 123456}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(Pods, item); err != nil {
			b.Fatal(err)
		}
	}
}
