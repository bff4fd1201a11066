package resource

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/store"
)

// The way of a write without HTTP, raft and disk. In memory the rest is what
// the rules cost.

func BenchmarkCreatePod(b *testing.B) {
	r := newRegistry(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		must(b, r, Pods, "default", newPod(fmt.Sprint("p", i)))
	}
}

func BenchmarkUpdatePodStatusPath(b *testing.B) {
	r := newRegistry(b)
	must(b, r, Pods, "default", newPod("web"))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		change(b, r, Pods, "default", "web", "status", func(p *corev1.Pod) { p.Status.Message = fmt.Sprint(i) })
	}
}

func BenchmarkCreatePodOfUser(b *testing.B) {
	r := newRegistry(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := r.Create(b.Context(), Pods, "default", newPod(fmt.Sprint("p", i)), CreateOptions{FieldManager: "kubectl"}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpdatePodStatusOfUser(b *testing.B) {
	r := newRegistry(b)
	if _, err := r.Create(b.Context(), Pods, "default", newPod("web"), CreateOptions{FieldManager: "kubectl"}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, _, err := r.Update(b.Context(), Pods, "default", "web", "status", func(current store.Object) (store.Object, error) {
			current.(*corev1.Pod).Status.Message = fmt.Sprint(i)
			return current, nil
		}, UpdateOptions{FieldManager: "kubelet"}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPodStatusReport(b *testing.B) {
	r := newRegistry(b)
	pod := bound(b, r, "web", 30)
	report := PodStatusUpdate{Namespace: "default", Name: "web", UID: pod.UID, Node: "n1", Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		report.Status.Message = fmt.Sprint(i)
		if err := r.UpdatePodStatus(b.Context(), report); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBind(b *testing.B) {
	r := newRegistry(b)
	pod := must(b, r, Pods, "default", newPod("web"))
	b.ReportAllocs()
	for b.Loop() {
		if err := r.BindMany(b.Context(), []Binding{{Namespace: "default", Pod: "web", UID: pod.UID, Node: "n1"}})[0]; err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		// Back to where it was, past all rules.
		bound := stored[*corev1.Pod](b, r, Pods, "default", "web")
		bound.Spec.NodeName = ""
		if _, err := r.store.Table(store.Pods).Update(b.Context(), bound, 0); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
