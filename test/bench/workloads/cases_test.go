package main

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

func TestEveryStepHasANameOfItsOwnThatItsCaseIsChosenBy(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range (&bench{pods: 10_000}).cases(1000) {
		for _, s := range c.steps {
			if seen[s.name] || !strings.HasPrefix(s.name, c.name) {
				t.Errorf("%s of %s is there twice, or not named for it", s.name, c.name)
			}
			seen[s.name] = true
		}
	}
	b := &bench{only: []string{"basic", "affinity/required"}}
	for name, want := range map[string]bool{"basic/create": true, "affinity/required/namespaces/create": true, "affinity/preferred/create": false} {
		if got := b.wants(name); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

// Upstream's pods: four low ones leave too little room for a high one, and what
// three of them give back is enough.
func TestHighPodsNeedTheRoomOfLowOnes(t *testing.T) {
	low, high := podLow().Spec.Containers[0].Resources.Requests.Cpu().MilliValue(), podHigh().Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
	if free := nodeOf(0, nil).Status.Allocatable.Cpu().MilliValue() - 4*low; free >= high || free+3*low < high {
		t.Errorf("%dm are free beside four low pods; a high one should need the room of some of them", free)
	}
}

func TestBindingsAreCountedAndOtherNewsIsNot(t *testing.T) {
	var stream bytes.Buffer
	for i, kind := range []string{"ADDED", "MODIFIED", "ADDED", "DELETED"} {
		stream.Write(eventOf(t, kind, string(rune('1'+i))))
	}
	heard := &tally{came: make(chan struct{}, 1)}
	version, err := heard.read(&stream, "0")
	if err != nil || version != "4" {
		t.Errorf("got version %q, %v at the end, want 4", version, err)
	}
	if len(heard.at) != 2 {
		t.Errorf("%d bindings, want 2", len(heard.at))
	}
	begin := heard.first().Add(-time.Second)
	if l, last := heard.since(begin); l.Count() != 2 || last.Before(heard.first()) || l.Quantile(0) < time.Second {
		t.Errorf("got %d bindings, the first after %v, want 2 after 1 s", l.Count(), l.Quantile(0))
	}
}

func eventOf(t *testing.T, kind, version string) []byte {
	t.Helper()
	info, _ := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	pod, err := runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion),
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", ResourceVersion: version}})
	if err != nil {
		t.Fatal(err)
	}
	frame, err := runtime.Encode(info.StreamSerializer.Serializer, &metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: pod}})
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)
}

func TestAnUpdateIsOverOnceAllPodsAreNewAndAvailable(t *testing.T) {
	d := deploying{replicas: 3}
	over := appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 3, UpdatedReplicas: 3, AvailableReplicas: 3}
	for name, c := range map[string]struct {
		change func(*appsv1.DeploymentStatus)
		want   bool
	}{
		"over":               {func(*appsv1.DeploymentStatus) {}, true},
		"not seen yet":       {func(s *appsv1.DeploymentStatus) { s.ObservedGeneration = 1 }, false},
		"an old pod is left": {func(s *appsv1.DeploymentStatus) { s.Replicas = 4 }, false},
		"a new pod starts":   {func(s *appsv1.DeploymentStatus) { s.AvailableReplicas = 2 }, false},
	} {
		status := over
		c.change(&status)
		if got := d.isUpdated(&appsv1.Deployment{Status: status}, 2); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func TestNodesAreFitForPodsOnceReadyAndUntainted(t *testing.T) {
	n := nodeOf(4, threeZones)
	if got := n.Labels[corev1.LabelTopologyZone]; got != threeZones[1] {
		t.Errorf("zone %q, want %q", got, threeZones[1])
	}
	if !fitForPods(n) {
		t.Error("a ready node is not fit")
	}
	n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}
	if fitForPods(n) {
		t.Error("a tainted node is fit")
	}
}
