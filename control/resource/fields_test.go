package resource

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
)

// by is an Update in manager's name that cannot fail.
func by(t testing.TB, r *Registry, manager, subresource string, f func(*corev1.Pod)) *corev1.Pod {
	t.Helper()
	obj, _, err := r.Update(t.Context(), Pods, "default", "web", subresource, func(current store.Object) (store.Object, error) {
		f(current.(*corev1.Pod))
		return current, nil
	}, UpdateOptions{FieldManager: manager})
	if err != nil {
		t.Fatal(err)
	}
	return obj.(*corev1.Pod)
}

// owners are the managers of an object.
func owners(obj metav1.Object) []string {
	var names []string
	for _, m := range obj.GetManagedFields() {
		names = append(names, m.Manager)
	}
	slices.Sort(names)
	return names
}

func TestControlPlaneRecordsWhatItTakesOver(t *testing.T) {
	r := newRegistry(t)
	if got := owners(must(t, r, Pods, "default", newPod("own"))); got != nil {
		t.Errorf("owners of a pod that the control plane made: %q, want none", got)
	}
	if _, err := r.Create(t.Context(), Pods, "default", newPod("web"), CreateOptions{FieldManager: "kubectl"}); err != nil {
		t.Fatal(err)
	}
	pod := by(t, r, "", "", func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} })
	if got, want := owners(pod), []string{controlPlane, "kubectl"}; !slices.Equal(got, want) {
		t.Errorf("owners %q after an update by the control plane, want %q", got, want)
	}
}

// What could go wrong: a node's report is recorded for every pod, which costs,
// or leaves a user as the owner of what it has overwritten.
func TestReportsTakeStatusFromUsers(t *testing.T) {
	r := newRegistry(t)
	pod, err := r.Create(t.Context(), Pods, "default", newPod("web"), CreateOptions{FieldManager: "kubectl"})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.BindMany(t.Context(), []Binding{{Namespace: "default", Pod: "web", Node: "n1"}})[0]; err != nil {
		t.Fatal(err)
	}
	report := func(message string) *corev1.Pod {
		t.Helper()
		err := r.UpdatePodStatus(t.Context(), PodStatusUpdate{Namespace: "default", Name: "web", UID: pod.GetUID(), Node: "n1", Status: corev1.PodStatus{Phase: corev1.PodRunning, Message: message}})
		if err != nil {
			t.Fatal(err)
		}
		return stored[*corev1.Pod](t, r, Pods, "default", "web")
	}
	if got, want := owners(report("one")), []string{"kubectl"}; !slices.Equal(got, want) {
		t.Errorf("owners %q after a report, want %q", got, want)
	}
	by(t, r, "user", "status", func(p *corev1.Pod) { p.Status.Message = "mine" })
	if got, want := owners(report("two")), []string{"kubectl", "kubelet"}; !slices.Equal(got, want) {
		t.Errorf("owners %q after a report that overwrote the user's message, want %q", got, want)
	}
}

// What could go wrong: a manager's time moves though nothing else does, and an
// update that changes nothing writes.
func TestUpdateOfTimesAloneWritesNothing(t *testing.T) {
	r := newRegistry(t)
	first, err := r.Create(t.Context(), Namespaces, "", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, CreateOptions{FieldManager: "a"})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = r.Update(t.Context(), Namespaces, "", "n", "", func(current store.Object) (store.Object, error) {
		past := metav1.Unix(1, 0)
		fields := current.GetManagedFields()
		for i := range fields {
			fields[i].Time = &past
		}
		return current, nil
	}, UpdateOptions{FieldManager: "a", FieldsManaged: true})
	if err != nil {
		t.Fatal(err)
	}
	if now := stored[*corev1.Namespace](t, r, Namespaces, "", "n"); now.ResourceVersion != first.GetResourceVersion() {
		t.Errorf("an update that changes times alone made version %s of %s", now.ResourceVersion, first.GetResourceVersion())
	}
}
