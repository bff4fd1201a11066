package resource

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestUpdateOfAnOldVersionIsAConflict(t *testing.T) {
	r := newRegistry(t)
	old := must(t, r, Pods, "default", newPod("web"))
	change(t, r, Pods, "default", "web", "", func(p *corev1.Pod) { p.Labels = map[string]string{"a": "1"} })

	old.Labels = map[string]string{"a": "2"}
	_, _, err := r.Update(t.Context(), Pods, "default", "web", "", replace(old), UpdateOptions{})
	if !apierrors.IsConflict(err) {
		t.Fatalf("error %v, want a conflict", err)
	}
	want := `Operation cannot be fulfilled on pods "web": the object has been modified; please apply your changes to the latest version and try again`
	if err.Error() != want {
		t.Errorf("message %q, want %q", err, want)
	}
	if got := stored[*corev1.Pod](t, r, Pods, "default", "web").Labels["a"]; got != "1" {
		t.Errorf("label %q, want the first writer's", got)
	}
}

func TestUpdateWithoutAVersionOverwrites(t *testing.T) {
	r := newRegistry(t)
	pod := must(t, r, Pods, "default", newPod("web"))
	change(t, r, Pods, "default", "web", "", func(p *corev1.Pod) { p.Labels = map[string]string{"a": "1"} })
	pod.ResourceVersion, pod.UID, pod.Labels = "", "", map[string]string{"a": "2"}
	got, _, err := r.Update(t.Context(), Pods, "default", "web", "", replace(pod), UpdateOptions{})
	if err != nil || got.GetLabels()["a"] != "2" || got.GetUID() == "" {
		t.Errorf("%v, %v; want the label 2 and the old uid", got, err)
	}
}

func TestSomeKindsWantToKnowWhichVersionChanges(t *testing.T) {
	r := newRegistry(t)
	careful := *Pods
	careful.Strategy = strategy(store.Pods, "", Rules[*corev1.Pod]{Conditional: true})
	pod := must(t, r, &careful, "default", newPod("web"))
	version := pod.ResourceVersion
	pod.ResourceVersion = ""
	_, _, err := r.Update(t.Context(), &careful, "default", "web", "", replace(pod), UpdateOptions{})
	if want := `pods "web" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update`; !apierrors.IsInvalid(err) || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
	pod.ResourceVersion = version
	if _, _, err := r.Update(t.Context(), &careful, "default", "web", "", replace(pod), UpdateOptions{}); err != nil {
		t.Errorf("with the version: %v", err)
	}
}

// The leader's answer can be lost on its way. Provoked by a log that applies and
// fails: a change that would add up must not be made a second time.
func TestUpdateOfUnknownOutcomeIsNotTriedAgain(t *testing.T) {
	s, log, _ := storetest.Open(t)
	r := New(s, AdmitAll{})
	must(t, r, Pods, "default", newPod("web"))
	lost := errors.New("outcome unknown")
	log.Lose(lost)
	_, _, err := r.Update(t.Context(), Pods, "default", "web", "", func(current store.Object) (store.Object, error) {
		current.SetLabels(map[string]string{"n": current.GetLabels()["n"] + "x"})
		return current, nil
	}, UpdateOptions{})
	log.Lose(nil)
	if !errors.Is(err, lost) {
		t.Errorf("error %v, want the log's", err)
	}
	if got := stored[*corev1.Pod](t, r, Pods, "default", "web").Labels["n"]; got != "x" {
		t.Errorf("label %q, want the change once", got)
	}
}

// Two writers race. Provoked by one that writes while the other makes its change.
func TestUpdateIsTriedAgainAfterALostRace(t *testing.T) {
	r := newRegistry(t)
	must(t, r, Pods, "default", newPod("web"))
	calls := 0
	got, _, err := r.Update(t.Context(), Pods, "default", "web", "", func(current store.Object) (store.Object, error) {
		if calls++; calls <= 2 {
			change(t, r, Pods, "default", "web", "", func(p *corev1.Pod) { p.Labels = map[string]string{"other": fmt.Sprint(calls)} })
		}
		current.SetAnnotations(map[string]string{"mine": "1"})
		return current, nil
	}, UpdateOptions{})
	if err != nil || calls != 3 {
		t.Fatalf("error %v after %d calls, want none after 3", err, calls)
	}
	if got.GetLabels()["other"] != "2" || got.GetAnnotations()["mine"] != "1" {
		t.Errorf("labels %v, annotations %v; want both writers'", got.GetLabels(), got.GetAnnotations())
	}
}

func TestUpdateGivesUpInAStormOfWriters(t *testing.T) {
	r := newRegistry(t)
	must(t, r, Pods, "default", newPod("web"))
	calls := 0
	_, _, err := r.Update(t.Context(), Pods, "default", "web", "", func(current store.Object) (store.Object, error) {
		calls++
		change(t, r, Pods, "default", "web", "", func(p *corev1.Pod) { p.Labels = map[string]string{"other": fmt.Sprint(calls)} })
		return current, nil
	}, UpdateOptions{})
	if !apierrors.IsConflict(err) || calls != updateTries {
		t.Errorf("error %v after %d tries, want a conflict after %d", err, calls, updateTries)
	}
}

func TestUpdateRefusals(t *testing.T) {
	r := newRegistry(t)
	pod := must(t, r, Pods, "default", newPod("web"))
	other := types.UID("other")
	set := func(f func(*corev1.Pod)) Change {
		return func(current store.Object) (store.Object, error) {
			f(current.(*corev1.Pod))
			return current, nil
		}
	}
	for _, test := range []struct {
		name, pod string
		change    Change
		options   UpdateOptions
		code      int32
		message   string
	}{
		{"nothing there", "none", set(func(*corev1.Pod) {}), UpdateOptions{}, 404, `pods "none" not found`},
		{"another name", "web", set(func(p *corev1.Pod) { p.Name = "api" }), UpdateOptions{}, 400, `the name of the object (api) does not match the name on the URL (web)`},
		{"another uid by PUT", "web", replace(pod), UpdateOptions{Preconditions: &metav1.Preconditions{UID: &other}}, 409,
			`Precondition failed: UID in precondition: other, UID in object meta: ` + string(pod.UID)},
		{"another uid by patch", "web", set(func(p *corev1.Pod) { p.UID = other }), UpdateOptions{}, 422, `metadata.uid: Invalid value: "other": field is immutable`},
		{"a version that is no number", "web", set(func(p *corev1.Pod) { p.ResourceVersion = "x" }), UpdateOptions{}, 422, `metadata.resourceVersion: Invalid value: "x"`},
		{"what pods may not change", "web", set(func(p *corev1.Pod) { p.Spec.NodeName = "n1" }), UpdateOptions{}, 422, `pod updates may not change fields other than`},
		{"another image without a name", "web", set(func(p *corev1.Pod) { p.Spec.Containers[0].Image = "" }), UpdateOptions{}, 422, `spec.containers[0].image: Required value`},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := r.store.Revision()
			_, _, err := r.Update(t.Context(), Pods, "default", test.pod, "", test.change, test.options)
			status, ok := err.(apierrors.APIStatus)
			if !ok {
				t.Fatalf("error %v, want an API status", err)
			}
			if status.Status().Code != test.code || !strings.Contains(status.Status().Message, test.message) {
				t.Errorf("%d %q, want %d %q", status.Status().Code, status.Status().Message, test.code, test.message)
			}
			if r.store.Revision() != before {
				t.Error("a refused update wrote")
			}
		})
	}
}

func TestUpdatePassesTheChangesErrorOn(t *testing.T) {
	r := newRegistry(t)
	must(t, r, Pods, "default", newPod("web"))
	// The last may come from a look at another object.
	for _, mine := range []error{errors.New("mine"), store.ErrConflict, fmt.Errorf("node: %w", store.ErrNotFound)} {
		calls := 0
		_, _, err := r.Update(t.Context(), Pods, "default", "web", "", func(store.Object) (store.Object, error) {
			calls++
			return nil, mine
		}, UpdateOptions{})
		if err != mine || calls != 1 {
			t.Errorf("error %v after %d calls, want the change's own %v after one", err, calls, mine)
		}
	}
}

// Every kind and subresource: an update that changes nothing, by PUT of what
// was read or by a change that returns what it was given, writes nothing.
func TestUpdateThatChangesNothingWritesNothing(t *testing.T) {
	r := newRegistry(t)
	all := examples()
	for _, kind := range r.Kinds() {
		obj := all[kind]
		if obj == nil {
			t.Errorf("%s: no example here", kind.Singular)
			continue
		}
		ns, name := namespaceOf(kind), obj.GetName()
		created := must(t, r, kind, ns, obj)
		paths := []string{""}
		for _, s := range kind.Subresources {
			if s.Strategy != nil {
				paths = append(paths, s.Name)
			}
		}
		for _, path := range paths {
			before := r.store.Revision()
			for what, c := range map[string]Change{
				"as read":  replace(created),
				"as given": func(current store.Object) (store.Object, error) { return current, nil },
			} {
				got, _, err := r.Update(t.Context(), kind, ns, name, path, c, UpdateOptions{})
				if err != nil {
					t.Errorf("%s/%s %s: %v", kind.Singular, path, what, err)
					continue
				}
				if r.store.Revision() != before || got.GetResourceVersion() != created.GetResourceVersion() {
					t.Errorf("%s/%s %s: wrote revision %d, version %s; want none after %d, version %s",
						kind.Singular, path, what, r.store.Revision(), got.GetResourceVersion(), before, created.GetResourceVersion())
				}
			}
		}
	}
}

func newEvent(name string) *corev1.Event {
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: name, Namespace: "default"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web"},
		Reason:         "Testing", Message: "hello", Type: corev1.EventTypeNormal,
	}
}

func TestEachPathChangesItsPartOnly(t *testing.T) {
	r := newRegistry(t)
	must(t, r, Pods, "default", newPod("web"))
	must(t, r, ReplicationControllers, "default", newRC("web", 1))
	must(t, r, Nodes, "", newNode("n1"))
	must(t, r, Namespaces, "", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}})

	pod := change(t, r, Pods, "default", "web", "", func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodRunning
		p.Labels = map[string]string{"a": "1"}
	})
	if pod.Status.Phase != corev1.PodPending || pod.Generation != 1 {
		t.Errorf("pod: phase %s, generation %d; want Pending, 1", pod.Status.Phase, pod.Generation)
	}
	pod = change(t, r, Pods, "default", "web", "", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "other:2" })
	if pod.Generation != 2 {
		t.Errorf("pod: generation %d after a change of the spec, want 2", pod.Generation)
	}
	pod = change(t, r, Pods, "default", "web", "status", func(p *corev1.Pod) {
		p.Spec.Containers[0].Image = "third:3"
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n", UID: "u"}}
		p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.7"}
	})
	if pod.Spec.Containers[0].Image != "other:2" || len(pod.OwnerReferences) != 0 || pod.Generation != 2 {
		t.Errorf("pod/status changed the spec or owners: %+v", pod)
	}
	if pod.Status.Phase != corev1.PodRunning || pod.Status.QOSClass != corev1.PodQOSBestEffort ||
		len(pod.Status.PodIPs) != 1 || pod.Status.PodIPs[0].IP != "10.0.0.7" {
		t.Errorf("pod/status: %+v, want Running, the QoS class kept, podIPs as podIP", pod.Status)
	}

	rc := change(t, r, ReplicationControllers, "default", "web", "", func(rc *corev1.ReplicationController) {
		*rc.Spec.Replicas, rc.Status.Replicas = 3, 3
	})
	if rc.Generation != 2 || rc.Status.Replicas != 0 {
		t.Errorf("controller: generation %d, counted %d; want 2, 0", rc.Generation, rc.Status.Replicas)
	}
	rc = change(t, r, ReplicationControllers, "default", "web", "status", func(rc *corev1.ReplicationController) {
		*rc.Spec.Replicas, rc.Status.Replicas = 9, 3
	})
	if rc.Generation != 2 || *rc.Spec.Replicas != 3 || rc.Status.Replicas != 3 {
		t.Errorf("controller/status: generation %d, wanted %d, counted %d; want 2, 3, 3", rc.Generation, *rc.Spec.Replicas, rc.Status.Replicas)
	}

	node := change(t, r, Nodes, "", "n1", "", func(n *corev1.Node) { n.Spec.Unschedulable, n.Status.Phase = true, corev1.NodeRunning })
	if !node.Spec.Unschedulable || node.Status.Phase != "" {
		t.Errorf("node: unschedulable %t, phase %q; want true, none", node.Spec.Unschedulable, node.Status.Phase)
	}
	node = change(t, r, Nodes, "", "n1", "status", func(n *corev1.Node) { n.Spec.Unschedulable, n.Status.Phase = false, corev1.NodeRunning })
	if !node.Spec.Unschedulable || node.Status.Phase != corev1.NodeRunning {
		t.Errorf("node/status: unschedulable %t, phase %q; want true, Running", node.Spec.Unschedulable, node.Status.Phase)
	}

	ns := change(t, r, Namespaces, "", "team", "", func(ns *corev1.Namespace) {
		ns.Spec.Finalizers, ns.Status.Phase = nil, corev1.NamespaceTerminating
		ns.Labels = nil
	})
	if len(ns.Spec.Finalizers) != 1 || ns.Status.Phase != corev1.NamespaceActive || ns.Labels[corev1.LabelMetadataName] != "team" {
		t.Errorf("namespace: %+v, want nothing changed", ns)
	}
}

func TestPodConditionsKeepTheGenerationTheyWereSeenAt(t *testing.T) {
	status := corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: "A"}, {Type: "A", ObservedGeneration: 9}, {Type: "B"}, {Type: "A"}}}
	keepPodStatus(&status, &corev1.PodStatus{
		ObservedGeneration: 4,
		Conditions:         []corev1.PodCondition{{Type: "A", ObservedGeneration: 1}, {Type: "A", ObservedGeneration: 2}, {Type: "A", ObservedGeneration: 3}},
	})
	var got []int64
	for _, c := range status.Conditions {
		got = append(got, c.ObservedGeneration)
	}
	if fmt.Sprint(got) != "[1 9 0 3]" || status.ObservedGeneration != 4 {
		t.Errorf("generations %v and %d, want [1 9 0 3] and 4", got, status.ObservedGeneration)
	}
}

func TestUpdateCreatesWhereTheKindAllows(t *testing.T) {
	r := newRegistry(t)
	event, created, err := r.Update(t.Context(), Events, "default", "x", "", replace(newEvent("x")), UpdateOptions{})
	if err != nil || !created || event.GetUID() == "" {
		t.Fatalf("event %v, created %t, error %v; want a new event", event, created, err)
	}
	_, created, err = r.Update(t.Context(), Events, "default", "x", "", func(current store.Object) (store.Object, error) {
		current.(*corev1.Event).Count = 2
		return current, nil
	}, UpdateOptions{})
	if err != nil || created {
		t.Errorf("second update: created %t, error %v; want an update", created, err)
	}
	uid := types.UID("gone")
	_, _, err = r.Update(t.Context(), Events, "default", "y", "", replace(newEvent("y")), UpdateOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if !apierrors.IsConflict(err) {
		t.Errorf("update of an event that is gone: %v, want a conflict", err)
	}
	pod, created, err := r.Update(t.Context(), Pods, "default", "web", "", replace(newPod("web")), UpdateOptions{ForceAllowCreate: true})
	if err != nil || !created || pod.(*corev1.Pod).Status.Phase != corev1.PodPending {
		t.Errorf("apply of a new pod: %v, created %t, error %v", pod, created, err)
	}
	if _, _, err := r.Update(t.Context(), Pods, "default", "none", "status", replace(newPod("none")), UpdateOptions{ForceAllowCreate: true}); !apierrors.IsNotFound(err) {
		t.Errorf("apply of a status of nothing: %v, want NotFound", err)
	}
}

// Two PUTs create the same object. Provoked by one that comes in between.
func TestUpdateThatLosesTheRaceToCreateUpdates(t *testing.T) {
	r := newRegistry(t)
	raced := false
	got, created, err := r.Update(t.Context(), Events, "default", "x", "", func(store.Object) (store.Object, error) {
		if !raced {
			raced = true
			must(t, r, Events, "default", newEvent("x"))
		}
		event := newEvent("x")
		event.Count = 5
		return event, nil
	}, UpdateOptions{})
	if err != nil || created || got.(*corev1.Event).Count != 5 {
		t.Errorf("%v, created %t, error %v; want an update", got, created, err)
	}
}

func TestLastFinalizerEndsTheObject(t *testing.T) {
	r := newRegistry(t)
	pod := newPod("web")
	pod.Finalizers = []string{"example.org/a", "example.org/b"}
	must(t, r, Pods, "default", pod)
	obj, gone, err := r.Delete(t.Context(), Pods, "default", "web", nil)
	if err != nil || gone || obj.GetDeletionTimestamp() == nil || *obj.GetDeletionGracePeriodSeconds() != 0 {
		t.Fatalf("delete: %v, gone %t, %v; want it marked", obj, gone, err)
	}
	remove := func(p *corev1.Pod) { p.Finalizers = p.Finalizers[1:] }
	if p := change(t, r, Pods, "default", "web", "", remove); p.DeletionTimestamp == nil {
		t.Fatal("the first finalizer's update took the deletionTimestamp away")
	}
	if stored[*corev1.Pod](t, r, Pods, "default", "web") == nil {
		t.Fatal("gone with a finalizer left")
	}
	change(t, r, Pods, "default", "web", "", func(p *corev1.Pod) { p.Finalizers = append(p.Finalizers[:0:0], p.Finalizers...) })
	change(t, r, Pods, "default", "web", "", remove)
	if p := stored[*corev1.Pod](t, r, Pods, "default", "web"); p != nil {
		t.Errorf("stored %v, want it gone with its last finalizer", p)
	}
}

func TestFinalizersCannotBeAddedToWhatIsLeaving(t *testing.T) {
	r := newRegistry(t)
	pod := newPod("web")
	pod.Finalizers = []string{"example.org/a"}
	must(t, r, Pods, "default", pod)
	if _, _, err := r.Delete(t.Context(), Pods, "default", "web", nil); err != nil {
		t.Fatal(err)
	}
	_, _, err := r.Update(t.Context(), Pods, "default", "web", "", func(current store.Object) (store.Object, error) {
		current.SetFinalizers(append(current.GetFinalizers(), "example.org/late"))
		return current, nil
	}, UpdateOptions{})
	if !apierrors.IsInvalid(err) {
		t.Errorf("error %v, want 422", err)
	}
}

// A follower's replica is behind: what it refuses, does not find, or finds to
// be done already may be wrong.
func TestAnswersCountOnlyFromACurrentState(t *testing.T) {
	leaderStore, followerStore, log := newLagging()
	leader, follower := New(leaderStore, AdmitAll{}), New(followerStore, AdmitAll{})

	t.Run("not found", func(t *testing.T) {
		must(t, leader, Pods, "default", newPod("a"))
		change(t, follower, Pods, "default", "a", "", func(p *corev1.Pod) { p.Labels = map[string]string{"x": "1"} })
	})
	t.Run("conflict with a version this replica has not seen", func(t *testing.T) {
		newer := change(t, leader, Pods, "default", "a", "", func(p *corev1.Pod) { p.Labels = map[string]string{"x": "2"} })
		newer.Labels = map[string]string{"x": "3"}
		if _, _, err := follower.Update(t.Context(), Pods, "default", "a", "", replace(newer), UpdateOptions{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("nothing to do", func(t *testing.T) {
		change(t, leader, Pods, "default", "a", "", func(p *corev1.Pod) { p.Labels = map[string]string{"x": "4"} })
		change(t, follower, Pods, "default", "a", "", func(p *corev1.Pod) { p.Labels = map[string]string{"x": "3"} })
		if got := stored[*corev1.Pod](t, leader, Pods, "default", "a").Labels["x"]; got != "3" {
			t.Errorf("label %q, want the later writer's 3", got)
		}
	})
	t.Run("delete of what it does not know", func(t *testing.T) {
		must(t, leader, Pods, "default", newPod("b"))
		if _, gone, err := follower.Delete(t.Context(), Pods, "default", "b", nil); err != nil || !gone {
			t.Errorf("gone %t, %v", gone, err)
		}
	})
	t.Run("a dry run", func(t *testing.T) {
		must(t, leader, Pods, "default", newPod("c"))
		if _, err := follower.Create(t.Context(), Pods, "default", newPod("c"), CreateOptions{DryRun: true}); !apierrors.IsAlreadyExists(err) {
			t.Errorf("error %v, want AlreadyExists", err)
		}
	})
	t.Run("bindings", func(t *testing.T) {
		pod := must(t, leader, Pods, "default", newPod("d"))
		if err := follower.BindMany(t.Context(), []Binding{{Namespace: "default", Pod: "d", UID: pod.UID, Node: "n1"}})[0]; err != nil {
			t.Error(err)
		}
	})
	t.Run("an ordinary update needs no barrier", func(t *testing.T) {
		before := log.barriers
		change(t, follower, Pods, "default", "a", "", func(p *corev1.Pod) { p.Labels = map[string]string{"x": "5"} })
		if log.barriers != before {
			t.Errorf("%d barriers, want none", log.barriers-before)
		}
	})
}
