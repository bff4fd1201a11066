package apiserver

import (
	"bytes"
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// strategicPatches are such as agents, kubectl and controllers send, and some
// that are strange.
var strategicPatches = []string{
	`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True","lastTransitionTime":"2026-01-02T03:04:05Z"}],"podIPs":[{"ip":"10.0.0.1"}]}}`,
	`{"metadata":{"labels":{"a":null,"b":"c"},"annotations":{"x":"y"}}}`,
	`{"metadata":{"labels":null},"spec":{"containers":[]}}`,
	`{"metadata":{"finalizers":["b"],"$deleteFromPrimitiveList/finalizers":["a"]}}`,
	`{"spec":{"$setElementOrder/containers":[{"name":"web"}],"containers":[{"name":"web","$patch":"delete"}]}}`,
	`{"spec":{"containers":[{"name":"web","image":"other","resources":{"limits":{"cpu":"1000m"}}},{"name":"more","image":"x"}],"activeDeadlineSeconds":5}}`,
	`{"spec":{"volumes":[{"name":"a","emptyDir":{}}],"securityContext":{"$patch":"replace","runAsUser":5}}}`,
	`{"spec":{"$retainKeys":["containers"],"containers":[{"name":"web"}]}}`,
	`{"status":{"conditions":[{"$patch":"replace"},{"type":"Ready","status":"False"}]}}`,
	`{"status":{"conditions":[{"type":"PodScheduled","$patch":"delete"}]}}`,
	`{"status":{}}`, `{"status":null}`, `{"status":"x"}`, `{"status":{"bogus":1}}`, `{"status":{"phase":5}}`, `{"bogus":{}}`, `{}`, `null`, `[]`,
	`{"$patch":"delete"}`, `{"status":{"$patch":"delete"}}`, `{"status":{"$patch":"bogus"}}`, `{"status":{"$patch":"replace","phase":"Failed"}}`,
	`{"kind":"Pod","apiVersion":"v1","status":{"phase":"Failed"}}`, `{"spec":{"containers":[{"name":"web"},{"name":"web"}]}}`,
	`{"status":{"startTime":null,"phase":null}}`, `{"metadata":{"creationTimestamp":null}}`, `{"status":{"hostIPs":[{}]},"status":{}}`,
}

// Merging parts is a short cut: where it is taken, the long way must lead to the
// same object, and without complaints.
func FuzzStrategicParts(f *testing.F) {
	for _, body := range strategicPatches {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		current := newPod("web", "web", "sidecar")
		current.Finalizers, current.Labels = []string{"a"}, map[string]string{"a": "b"}
		started := metav1.NewTime(time.Unix(1700000000, 0))
		current.Status = corev1.PodStatus{
			Phase: corev1.PodPending, StartTime: &started,
			Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: started}},
		}
		before := current.DeepCopy()
		p := &patch{ctx: context.Background(), body: body, directive: metav1.FieldValidationStrict}
		fields, strict, err := p.fields()
		got, want := &corev1.Pod{}, &corev1.Pod{}
		if err != nil || len(strict) > 0 || !mergeParts(current, got, fields) {
			return
		}
		if err := p.mergeWhole(current, want); err != nil {
			t.Fatalf("%q: parts were merged, but the whole is refused: %v", body, err)
		}
		for form, of := range map[string]func(*corev1.Pod) []byte{
			"JSON":     func(pod *corev1.Pod) []byte { return mustMarshal(t, pod) },
			"protobuf": func(pod *corev1.Pod) []byte { raw, _ := pod.Marshal(); return raw },
		} {
			if a, b := of(got), of(want); !bytes.Equal(a, b) {
				t.Errorf("%q, %s:\ngot  %q\nwant %q", body, form, a, b)
			}
			if a, b := of(current), of(before); !bytes.Equal(a, b) {
				t.Errorf("%q changed the object that it started from:\n%s\n%s", body, a, b)
			}
		}
	})
}

// What agents send must take the short cut, or it is of no use.
func TestPatchesOfAStatusMergeItsPartAlone(t *testing.T) {
	for _, body := range strategicPatches[:2] {
		p := &patch{ctx: context.Background(), body: []byte(body), directive: metav1.FieldValidationStrict}
		fields, _, err := p.fields()
		if err != nil {
			t.Fatal(err)
		}
		if !mergeParts(newPod("web"), &corev1.Pod{}, fields) {
			t.Errorf("%s: the whole object would be merged", body)
		}
	}
}

func BenchmarkStrategicPatchOfAStatus(b *testing.B) {
	current := newPod("web", "web", "sidecar")
	p := &patch{ctx: context.Background(), body: []byte(strategicPatches[0]), directive: metav1.FieldValidationStrict}
	for name, merge := range map[string]func() error{
		"part":  func() error { return p.applyStrategic(current, &corev1.Pod{}) },
		"whole": func() error { return p.mergeWhole(current, &corev1.Pod{}) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := merge(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
