package main

import (
	"bytes"
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

var testOwner = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: ownerName, UID: "3f0c2a1e-6c5b-4a0e-9d53-0d2f6a1f8a11"}}

func decodePod(t *testing.T, body []byte) *corev1.Pod {
	t.Helper()
	obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return obj.(*corev1.Pod)
}

func TestPodsAreOfTheSizeOfADeployments(t *testing.T) {
	bodies, err := encodePods(pod(testOwner), inJSON)
	if err != nil {
		t.Fatal(err)
	}
	if size := len(bodies.named(podName(1))); size < 1800 || size > 2600 {
		t.Errorf("a pod has %d bytes in JSON, want about 2 KiB", size)
	}
}

func TestEachBodyIsAPodOfItsOwnName(t *testing.T) {
	for _, media := range []string{inJSON, inProtobuf} {
		bodies, err := encodePods(pod(testOwner), media)
		if err != nil {
			t.Fatal(err)
		}
		first := bodies.named(podName(1))
		for _, number := range []int{1, 9_999_999_999} {
			got := decodePod(t, bodies.named(podName(number)))
			if got.Name != podName(number) || len(got.Spec.Containers) != 2 {
				t.Errorf("%s: got pod %q with %d containers, want %q with 2", media, got.Name, len(got.Spec.Containers), podName(number))
			}
		}
		if got := decodePod(t, first).Name; got != podName(1) {
			t.Errorf("%s: a body was changed by a later one: got %q, want %q", media, got, podName(1))
		}
	}
}

func TestStatusPatchesDiffer(t *testing.T) {
	one, err := statusPatch("a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := statusPatch("b")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(one, other) {
		t.Error("two patches are the same, want the second to have an effect")
	}
	var p corev1.Pod
	if err := json.Unmarshal(one, &p); err != nil || len(p.Status.ContainerStatuses) != 2 || p.Status.Message != "a" {
		t.Errorf("got %+v, %v, want the status of two containers, and the message", p.Status, err)
	}
}

// listOf is a list as servers send it.
func listOf(t *testing.T, media string, list *corev1.PodList) []byte {
	t.Helper()
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), contentTypes[media])
	body, err := runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion), list)
	if err != nil {
		t.Fatal(err)
	}
	return body
}
