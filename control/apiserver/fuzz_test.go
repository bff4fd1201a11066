package apiserver

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/kube"
)

var directives = []string{metav1.FieldValidationStrict, metav1.FieldValidationWarn, metav1.FieldValidationIgnore}

// Whatever a patch says, the object that it starts from stays as it was: when
// the write loses a race, it is applied again to another.
func FuzzPatch(f *testing.F) {
	kinds := []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType}
	for i, seed := range []string{
		`[{"op":"add","path":"/metadata/labels/a","value":"b"},{"op":"copy","from":"/spec","path":"/spec/x"},{"op":"remove","path":"/spec/containers/0"}]`,
		`{"metadata":{"labels":null},"spec":{"containers":[]}}`,
		`{"spec":{"$setElementOrder/containers":[{"name":"web"}],"containers":[{"name":"web","$patch":"delete"}]}}`,
		`{"$patch":"replace"}`, `{"spec":{"$retainKeys":["x"],"containers":{"a":1}}}`, `{"metadata":{"finalizers":[1,"a"],"$deleteFromPrimitiveList/finalizers":[{}]}}`,
		`[{"op":"test","path":"","value":null}]`, `[[]]`, `null`, ``,
	} {
		f.Add(uint8(i), uint8(i), []byte(seed))
		f.Add(uint8(2), uint8(i), []byte(seed))
	}
	f.Fuzz(func(t *testing.T, kind, directive uint8, body []byte) {
		p := &patch{ctx: context.Background(), kind: kinds[int(kind)%len(kinds)], body: body, directive: directives[int(directive)%len(directives)]}
		current := newPod("web")
		current.Finalizers = []string{"a"}
		current.Labels = map[string]string{"a": "b"}
		current.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
		before := current.DeepCopy()
		obj := &corev1.Pod{}
		err := p.apply(current, obj, corev1.SchemeGroupVersion.WithKind("Pod"))
		if a, b := mustMarshal(t, before), mustMarshal(t, current); !bytes.Equal(a, b) {
			t.Errorf("%s %q changed the object that it started from:\n%s\n%s", p.kind, body, a, b)
		}
		if err == nil {
			kube.Default(obj)
		}
	})
}

func mustMarshal(t *testing.T, obj any) []byte {
	t.Helper()
	b, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Whatever a body says, it is decoded or refused as the client's mistake.
func FuzzDecodeBody(f *testing.F) {
	media := []string{mediaJSON, mediaYAML, mediaProtobuf}
	pod := newPod("web")
	raw, err := pod.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	for i, seed := range []string{podJSON, helloYAML, string(protobufEnvelope(corev1.SchemeGroupVersion.WithKind("Pod"), raw)), `{"kind":"DeleteOptions","dryRun":[]}`, "a: &a [*a]", "k8s\x00", "{}", ""} {
		f.Add(uint8(i), uint8(i), []byte(seed))
	}
	server := &Server{}
	f.Fuzz(func(t *testing.T, form, directive uint8, body []byte) {
		info, ok := runtime.SerializerInfoForMediaType(kube.Codecs.SupportedMediaTypes(), media[int(form)%len(media)])
		if !ok {
			t.Fatal("no serializer")
		}
		refused := func(err error) {
			if err == nil {
				return
			}
			if status, _ := server.statusOf(err); status.Code != 400 {
				t.Errorf("%s %q: %d %s, want 400", info.MediaType, body, status.Code, status.Message)
			}
		}
		refused(decodeInto(context.Background(), info, body, corev1.SchemeGroupVersion.WithKind("Pod"), &corev1.Pod{}, directives[int(directive)%len(directives)]))
		refused(decodeDeleteOptions(info.MediaType, body, &metav1.DeleteOptions{}))
	})
}
