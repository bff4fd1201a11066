package resource

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestBindManyBindsInOneWriteEach(t *testing.T) {
	r := newRegistry(t)
	const n = 20
	bindings := make([]Binding, n)
	for i := range bindings {
		pod := must(t, r, Pods, "default", newPod(fmt.Sprint("p", i)))
		bindings[i] = Binding{Namespace: "default", Pod: pod.Name, UID: pod.UID, Node: fmt.Sprint("n", i%2)}
	}
	before := r.store.Revision()
	for i, err := range r.BindMany(t.Context(), bindings) {
		if err != nil {
			t.Errorf("binding %d: %v", i, err)
		}
	}
	if got := r.store.Revision() - before; got != n {
		t.Errorf("%d revisions, want one for each of %d pods", got, n)
	}
	pod := stored[*corev1.Pod](t, r, Pods, "default", "p3")
	if pod.Spec.NodeName != "n1" || len(pod.Status.Conditions) != 1 {
		t.Fatalf("%+v, want it on n1 with one condition", pod)
	}
	if c := pod.Status.Conditions[0]; c.Type != corev1.PodScheduled || c.Status != corev1.ConditionTrue || c.LastTransitionTime.IsZero() {
		t.Errorf("condition %+v, want PodScheduled", c)
	}
	if pod.Status.Phase != corev1.PodPending {
		t.Errorf("phase %s, want Pending", pod.Status.Phase)
	}
}

func TestBindManyRefusesEachOnItsOwn(t *testing.T) {
	r := newRegistry(t)
	free := must(t, r, Pods, "default", newPod("free"))
	taken := bound(t, r, "taken", 30)
	leaving := newPod("leaving")
	leaving.Finalizers = []string{"example.org/wait"}
	leaving = must(t, r, Pods, "default", leaving)
	if _, _, err := r.Delete(t.Context(), Pods, "default", "leaving", nil); err != nil {
		t.Fatal(err)
	}
	gated := newPod("gated")
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.org/gate"}}
	gated = must(t, r, Pods, "default", gated)
	if c := gated.Status.Conditions; len(c) != 1 || c[0].Reason != corev1.PodReasonSchedulingGated {
		t.Errorf("conditions %v of a gated pod, want it said", c)
	}

	errs := r.BindMany(t.Context(), []Binding{
		{Namespace: "default", Pod: "free", UID: free.UID, Node: "n1"},
		{Namespace: "default", Pod: "taken", UID: taken.UID, Node: "n2"},
		{Namespace: "default", Pod: "leaving", UID: leaving.UID, Node: "n1"},
		{Namespace: "default", Pod: "gated", UID: gated.UID, Node: "n1"},
		{Namespace: "default", Pod: "none", UID: "u", Node: "n1"},
	})
	if errs[0] != nil {
		t.Errorf("free: %v", errs[0])
	}
	for i, want := range []string{
		`Operation cannot be fulfilled on pods/binding "taken": pod taken is already assigned to node "n1"`,
		`Operation cannot be fulfilled on pods/binding "leaving": pod leaving is being deleted, cannot be assigned to a host`,
		`Operation cannot be fulfilled on pods/binding "gated": pod gated has non-empty .spec.schedulingGates`,
	} {
		if err := errs[i+1]; !apierrors.IsConflict(err) || err.Error() != want {
			t.Errorf("%v, want the conflict %q", err, want)
		}
	}
	if !apierrors.IsNotFound(errs[4]) {
		t.Errorf("none: %v, want NotFound", errs[4])
	}
	must(t, r, Pods, "default", newPod("successor"))
	if errs := r.BindMany(t.Context(), []Binding{{Namespace: "default", Pod: "successor", UID: "predecessor's", Node: "n1"}}); !apierrors.IsConflict(errs[0]) {
		t.Errorf("another uid: %v, want a conflict", errs[0])
	}
}

func TestBindServesTheSubresource(t *testing.T) {
	r := newRegistry(t)
	pod := newPod("web")
	pod.Labels = map[string]string{"zone": "old", "app": "web"}
	pod = must(t, r, Pods, "default", pod)
	binding := func() *corev1.Binding {
		return &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: "web", UID: pod.UID, Labels: map[string]string{"zone": "a"}, Annotations: map[string]string{"by": "me"}},
			Target:     corev1.ObjectReference{Kind: "Node", Name: "n1"},
		}
	}
	for name, test := range map[string]struct {
		change func(*corev1.Binding)
		code   int32
	}{
		"another name":      {func(b *corev1.Binding) { b.Name = "api" }, 400},
		"another namespace": {func(b *corev1.Binding) { b.Namespace = "other" }, 400},
		"no target":         {func(b *corev1.Binding) { b.Target.Name = "" }, 422},
		"another kind":      {func(b *corev1.Binding) { b.Target.Kind = "Pod" }, 422},
		"another version":   {func(b *corev1.Binding) { b.ResourceVersion = "99" }, 409},
	} {
		b := binding()
		test.change(b)
		err := r.Bind(t.Context(), "default", "web", b, CreateOptions{})
		if status, ok := err.(apierrors.APIStatus); !ok || status.Status().Code != test.code {
			t.Errorf("%s: %v, want %d", name, err, test.code)
		}
	}
	if err := r.Bind(t.Context(), "default", "web", binding(), CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod = stored[*corev1.Pod](t, r, Pods, "default", "web")
	if pod.Spec.NodeName != "n1" || pod.Annotations["by"] != "me" || pod.Labels["zone"] != "a" || pod.Labels["app"] != "web" {
		t.Errorf("%+v, want it bound with the binding's labels and annotations added", pod)
	}

	r.admission = demanding(func(a *Attributes) error {
		if a.Subresource == "binding" {
			return a.Forbidden(fmt.Errorf("not today"))
		}
		return nil
	})
	if err := r.Bind(t.Context(), "default", "web", binding(), CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "not today") {
		t.Errorf("error %v, want admission's", err)
	}
}

// The scheduler's binding and another write of the pod race. Provoked by a
// log that lets the other one in first.
func TestBindManyTriesAgainAfterALostRace(t *testing.T) {
	leaderStore, followerStore, _ := newLagging()
	leader, follower := New(leaderStore, AdmitAll{}), New(followerStore, AdmitAll{})
	pod := must(t, follower, Pods, "default", newPod("web"))
	change(t, leader, Pods, "default", "web", "", func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} })
	if err := follower.BindMany(t.Context(), []Binding{{Namespace: "default", Pod: "web", UID: pod.UID, Node: "n1"}})[0]; err != nil {
		t.Fatal(err)
	}
	got := stored[*corev1.Pod](t, leader, Pods, "default", "web")
	if got.Spec.NodeName != "n1" || got.Labels["a"] != "b" {
		t.Errorf("%+v, want both writes", got)
	}
}

func TestPodStatusReports(t *testing.T) {
	r := newRegistry(t)
	pod := bound(t, r, "web", 30)
	change(t, r, Pods, "default", "web", "status", func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: "example.org/gate", Status: corev1.ConditionTrue})
	})
	report := PodStatusUpdate{
		Namespace: "default", Name: "web", UID: pod.UID, Node: "n1",
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.0.0.9",
			Conditions: []corev1.PodCondition{
				{Type: corev1.PodScheduled, Status: corev1.ConditionFalse},
				{Type: corev1.PodReady, Status: corev1.ConditionTrue},
				{Type: corev1.ContainersReady, Status: corev1.ConditionTrue},
			},
			ContainerStatuses: []corev1.ContainerStatus{{Name: "web", Image: "example.org/web:1", RestartCount: 1}},
		},
	}
	send := func(report PodStatusUpdate) *corev1.Pod {
		t.Helper()
		if err := r.UpdatePodStatus(t.Context(), report); err != nil {
			t.Fatal(err)
		}
		return stored[*corev1.Pod](t, r, Pods, "default", "web")
	}
	got := send(report)
	var conditions []string
	for _, c := range got.Status.Conditions {
		conditions = append(conditions, string(c.Type)+"="+string(c.Status))
	}
	if want := "[PodScheduled=True example.org/gate=True Ready=True ContainersReady=True]"; fmt.Sprint(conditions) != want {
		t.Errorf("conditions %v, want %s", conditions, want)
	}
	if got.Status.Phase != corev1.PodRunning || got.Status.QOSClass != corev1.PodQOSBestEffort || len(got.Status.PodIPs) != 1 || got.Status.ContainerStatuses[0].RestartCount != 1 {
		t.Errorf("status %+v, want the report's and the QoS class kept", got.Status)
	}

	before := r.store.Revision()
	send(report)
	if r.store.Revision() != before {
		t.Error("the same report again wrote")
	}
	report.Status.Conditions = report.Status.Conditions[:2]
	if got = send(report); len(got.Status.Conditions) != 3 {
		t.Errorf("conditions %v, want ContainersReady gone and the others kept", got.Status.Conditions)
	}

	for name, wrong := range map[string]func(*PodStatusUpdate){
		"another uid":  func(u *PodStatusUpdate) { u.UID = "other" },
		"another node": func(u *PodStatusUpdate) { u.Node = "n2" },
		"no pod":       func(u *PodStatusUpdate) { u.Name = "none" },
	} {
		u := report
		wrong(&u)
		if err := r.UpdatePodStatus(t.Context(), u); !apierrors.IsNotFound(err) {
			t.Errorf("%s: %v, want NotFound", name, err)
		}
	}
	invalid := report
	invalid.Status.PodIP = "not an address"
	if err := r.UpdatePodStatus(t.Context(), invalid); !apierrors.IsInvalid(err) {
		t.Errorf("a nonsensical address: %v, want 422", err)
	}

	change(t, r, Pods, "default", "web", "status", func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = corev1.PodFailed, "NodeLost" })
	report.Status.ContainerStatuses[0].RestartCount = 2
	got = send(report)
	if got.Status.Phase != corev1.PodFailed || got.Status.Reason != "NodeLost" || got.Status.ContainerStatuses[0].RestartCount != 2 {
		t.Errorf("status %+v, want the end that was declared and the containers' news", got.Status)
	}
}

func TestScale(t *testing.T) {
	r := newRegistry(t)
	rc := must(t, r, ReplicationControllers, "default", newRC("web", 2))
	change(t, r, ReplicationControllers, "default", "web", "status", func(rc *corev1.ReplicationController) { rc.Status.Replicas = 1 })
	current := stored[*corev1.ReplicationController](t, r, ReplicationControllers, "default", "web")
	scale := ReplicationControllers.ScaleOf(current)
	if scale.Spec.Replicas != 2 || scale.Status.Replicas != 1 || scale.Status.Selector != "app=web" ||
		scale.UID != rc.UID || scale.ResourceVersion != current.ResourceVersion {
		t.Errorf("scale %+v, want the controller's", scale)
	}

	got, err := r.UpdateScale(t.Context(), ReplicationControllers, "default", "web", func(s *scaleObject) (*scaleObject, error) {
		s.Spec.Replicas = 5
		return s, nil
	}, UpdateOptions{})
	if err != nil || got.Spec.Replicas != 5 {
		t.Fatalf("scale %+v, %v; want 5", got, err)
	}
	if rc := stored[*corev1.ReplicationController](t, r, ReplicationControllers, "default", "web"); *rc.Spec.Replicas != 5 || rc.Generation != 2 {
		t.Errorf("%d replicas, generation %d; want 5, 2", *rc.Spec.Replicas, rc.Generation)
	}
	for name, test := range map[string]struct {
		change func(*scaleObject)
		code   int32
	}{
		"negative":    {func(s *scaleObject) { s.Spec.Replicas = -1 }, 422},
		"old version": {func(s *scaleObject) { s.ResourceVersion = current.ResourceVersion }, 409},
		"another uid": {func(s *scaleObject) { s.UID = "other" }, 409},
	} {
		_, err := r.UpdateScale(t.Context(), ReplicationControllers, "default", "web", func(s *scaleObject) (*scaleObject, error) {
			test.change(s)
			return s, nil
		}, UpdateOptions{})
		if status, ok := err.(apierrors.APIStatus); !ok || status.Status().Code != test.code {
			t.Errorf("%s: %v, want %d", name, err, test.code)
		}
	}
	if _, err := r.UpdateScale(t.Context(), ReplicationControllers, "default", "none", func(s *scaleObject) (*scaleObject, error) { return s, nil }, UpdateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("scale of nothing: %v, want NotFound", err)
	}
}

func TestBootstrapIsDoneOnce(t *testing.T) {
	r := newRegistry(t)
	if err := EnsureBootstrap(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		if ns := stored[*corev1.Namespace](t, r, Namespaces, "", name); ns == nil || ns.Status.Phase != corev1.NamespaceActive {
			t.Errorf("namespace %s: %v, want it active", name, ns)
		}
	}
	before := r.store.Revision()
	if err := EnsureBootstrap(t.Context(), r); err != nil || r.store.Revision() != before {
		t.Errorf("again: %v, wrote %t; want nothing", err, r.store.Revision() != before)
	}
}
