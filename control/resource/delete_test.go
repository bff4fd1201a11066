package resource

import (
	"cmp"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/store"
)

// bound makes a pod that runs on a node.
func bound(t testing.TB, r *Registry, name string, grace int64) *corev1.Pod {
	t.Helper()
	pod := newPod(name)
	pod.Spec.TerminationGracePeriodSeconds = &grace
	pod = must(t, r, Pods, "default", pod)
	if err := r.BindMany(t.Context(), []Binding{{Namespace: "default", Pod: name, UID: pod.UID, Node: "n1"}})[0]; err != nil {
		t.Fatal(err)
	}
	return stored[*corev1.Pod](t, r, Pods, "default", name)
}

func seconds(s int64) *int64 { return &s }

func TestPodsAreGivenTimeToEnd(t *testing.T) {
	for _, test := range []struct {
		name    string
		own     int64 // in the pod's spec, 30 if 0
		prepare func(*corev1.Pod)
		unbound bool
		options *metav1.DeleteOptions
		gone    bool
		grace   int64
	}{
		{name: "its own grace", options: &metav1.DeleteOptions{}, grace: 30},
		{name: "the user's grace", options: &metav1.DeleteOptions{GracePeriodSeconds: seconds(5)}, grace: 5},
		{name: "forced", options: &metav1.DeleteOptions{GracePeriodSeconds: seconds(0)}, gone: true},
		{name: "negative", options: &metav1.DeleteOptions{GracePeriodSeconds: seconds(-3)}, grace: 1},
		{name: "negative in its spec", own: -7, options: &metav1.DeleteOptions{}, grace: 1},
		{name: "no options", gone: true},
		{name: "on no node", unbound: true, options: &metav1.DeleteOptions{GracePeriodSeconds: seconds(5)}, gone: true},
		{name: "failed", prepare: func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, options: &metav1.DeleteOptions{}, gone: true},
		{name: "succeeded", prepare: func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, options: &metav1.DeleteOptions{}, gone: true},
		{name: "running", prepare: func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }, options: &metav1.DeleteOptions{}, grace: 30},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRegistry(t)
			if test.unbound {
				must(t, r, Pods, "default", newPod("web"))
			} else {
				bound(t, r, "web", cmp.Or(test.own, 30))
			}
			if test.prepare != nil {
				change(t, r, Pods, "default", "web", "status", test.prepare)
			}
			obj, gone, err := r.Delete(t.Context(), Pods, "default", "web", test.options)
			if err != nil || gone != test.gone {
				t.Fatalf("gone %t, error %v; want %t", gone, err, test.gone)
			}
			left := stored[*corev1.Pod](t, r, Pods, "default", "web")
			if (left == nil) != test.gone {
				t.Fatalf("stored %v, want gone %t", left, test.gone)
			}
			if obj.GetName() != "web" || obj.GetResourceVersion() != fmt.Sprint(r.store.Revision()) {
				t.Errorf("answer %s at %s, want web at the delete's revision %d", obj.GetName(), obj.GetResourceVersion(), r.store.Revision())
			}
			if test.gone {
				return
			}
			if *left.DeletionGracePeriodSeconds != test.grace {
				t.Errorf("grace %d, want %d", *left.DeletionGracePeriodSeconds, test.grace)
			}
			if in := time.Until(left.DeletionTimestamp.Time); in > time.Duration(test.grace)*time.Second || in < time.Duration(test.grace-2)*time.Second {
				t.Errorf("deletionTimestamp in %v, want in about %d s", in, test.grace)
			}
			if left.Generation != 2 {
				t.Errorf("generation %d, want 2", left.Generation)
			}
		})
	}
}

func TestGraceCanOnlyBeShortened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(t)
		pod := bound(t, r, "web", 30)
		start := time.Now()
		try := func(grace *int64) (gone, wrote bool) {
			t.Helper()
			before := r.store.Revision()
			_, gone, err := r.Delete(t.Context(), Pods, "default", "web", &metav1.DeleteOptions{GracePeriodSeconds: grace})
			if err != nil {
				t.Fatal(err)
			}
			return gone, r.store.Revision() != before
		}
		expect := func(grace int64, at time.Time) {
			t.Helper()
			p := stored[*corev1.Pod](t, r, Pods, "default", "web")
			if p == nil || *p.DeletionGracePeriodSeconds != grace || p.DeletionTimestamp.Unix() != at.Unix() {
				t.Fatalf("stored %v, want grace %d until %v", p, grace, at)
			}
		}
		try(nil)
		expect(30, start.Add(30*time.Second))
		for _, same := range []*int64{nil, seconds(30), seconds(60)} {
			if gone, wrote := try(same); gone || wrote {
				t.Errorf("a second delete: gone %t, wrote %t; want nothing", gone, wrote)
			}
		}
		time.Sleep(2 * time.Second)
		try(seconds(10))
		expect(10, start.Add(10*time.Second))
		time.Sleep(6 * time.Second)
		// Five seconds from the start are over: the shortest grace that still lets
		// the node confirm.
		try(seconds(5))
		expect(1, start.Add(8*time.Second))
		// What the node says once nothing runs any more.
		other := types.UID("other")
		_, _, err := r.Delete(t.Context(), Pods, "default", "web", &metav1.DeleteOptions{GracePeriodSeconds: seconds(0), Preconditions: &metav1.Preconditions{UID: &other}})
		if !apierrors.IsConflict(err) {
			t.Errorf("delete of another uid: %v, want a conflict", err)
		}
		_, gone, err := r.Delete(t.Context(), Pods, "default", "web", &metav1.DeleteOptions{GracePeriodSeconds: seconds(0), Preconditions: &metav1.Preconditions{UID: &pod.UID}})
		if err != nil || !gone || stored[*corev1.Pod](t, r, Pods, "default", "web") != nil {
			t.Errorf("gone %t, %v; want it gone", gone, err)
		}
	})
}

func TestDeletePreconditions(t *testing.T) {
	r := newRegistry(t)
	pod := must(t, r, Pods, "default", newPod("web"))
	uid, version := types.UID("other"), "1000"
	for name, p := range map[string]metav1.Preconditions{"uid": {UID: &uid}, "resourceVersion": {ResourceVersion: &version}} {
		if _, _, err := r.Delete(t.Context(), Pods, "default", "web", &metav1.DeleteOptions{Preconditions: &p}); !apierrors.IsConflict(err) {
			t.Errorf("another %s: %v, want a conflict", name, err)
		}
	}
	if _, gone, err := r.Delete(t.Context(), Pods, "default", "web", &metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &pod.UID, ResourceVersion: &pod.ResourceVersion},
	}); err != nil || !gone {
		t.Errorf("the right ones: gone %t, %v", gone, err)
	}
	if _, _, err := r.Delete(t.Context(), Pods, "default", "web", nil); !apierrors.IsNotFound(err) {
		t.Errorf("delete of nothing: %v, want NotFound", err)
	}
	bad := metav1.DeletionPropagation("Sideways")
	must(t, r, Pods, "default", newPod("web"))
	if _, _, err := r.Delete(t.Context(), Pods, "default", "web", &metav1.DeleteOptions{PropagationPolicy: &bad}); !apierrors.IsInvalid(err) {
		t.Errorf("an unknown policy: %v, want 422", err)
	}
}

func TestDeleteSaysWhatBecomesOfDependents(t *testing.T) {
	orphan, foreground, background := metav1.DeletePropagationOrphan, metav1.DeletePropagationForeground, metav1.DeletePropagationBackground
	yes, no := true, false
	for _, test := range []struct {
		name       string
		options    metav1.DeleteOptions
		finalizers string // of the controller that is left, "" if it is gone
	}{
		{"core/v1 orphans unless told", metav1.DeleteOptions{}, "[orphan]"},
		{"background", metav1.DeleteOptions{PropagationPolicy: &background}, ""},
		{"orphan", metav1.DeleteOptions{PropagationPolicy: &orphan}, "[orphan]"},
		{"foreground", metav1.DeleteOptions{PropagationPolicy: &foreground}, "[foregroundDeletion]"},
		{"orphanDependents", metav1.DeleteOptions{OrphanDependents: &yes}, "[orphan]"},
		{"no orphanDependents", metav1.DeleteOptions{OrphanDependents: &no}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRegistry(t)
			must(t, r, ReplicationControllers, "default", newRC("web", 1))
			_, gone, err := r.Delete(t.Context(), ReplicationControllers, "default", "web", &test.options)
			if err != nil {
				t.Fatal(err)
			}
			left := stored[*corev1.ReplicationController](t, r, ReplicationControllers, "default", "web")
			if test.finalizers == "" {
				if !gone || left != nil {
					t.Errorf("gone %t, left %v; want it gone", gone, left)
				}
				return
			}
			if gone || left == nil || fmt.Sprint(left.Finalizers) != test.finalizers || left.DeletionTimestamp == nil || left.Generation != 2 {
				t.Fatalf("gone %t, left %+v; want it marked with %s", gone, left, test.finalizers)
			}
			// The garbage collector's last step.
			change(t, r, ReplicationControllers, "default", "web", "", func(rc *corev1.ReplicationController) { rc.Finalizers = nil })
			if stored[*corev1.ReplicationController](t, r, ReplicationControllers, "default", "web") != nil {
				t.Error("left without a finalizer")
			}
		})
	}
	t.Run("nobody would take the finalizer off an event", func(t *testing.T) {
		r := newRegistry(t)
		must(t, r, Events, "default", newEvent("e"))
		if _, gone, err := r.Delete(t.Context(), Events, "default", "e", &metav1.DeleteOptions{PropagationPolicy: &orphan}); err != nil || !gone {
			t.Errorf("gone %t, %v; want it gone", gone, err)
		}
	})
}

func TestNamespacesEndInTwoSteps(t *testing.T) {
	r := newRegistry(t)
	must(t, r, Namespaces, "", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}})
	other := types.UID("other")
	if _, _, err := r.Delete(t.Context(), Namespaces, "", "team", &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &other}}); !apierrors.IsConflict(err) {
		t.Errorf("delete of another uid: %v, want a conflict", err)
	}
	obj, gone, err := r.Delete(t.Context(), Namespaces, "", "team", &metav1.DeleteOptions{})
	if err != nil || gone {
		t.Fatalf("gone %t, %v; want it terminating", gone, err)
	}
	ns := obj.(*corev1.Namespace)
	if ns.Status.Phase != corev1.NamespaceTerminating || ns.DeletionTimestamp == nil || fmt.Sprint(ns.Spec.Finalizers) != "[kubernetes]" {
		t.Fatalf("%+v, want it terminating with its finalizer", ns)
	}
	before := r.store.Revision()
	if _, gone, err := r.Delete(t.Context(), Namespaces, "", "team", &metav1.DeleteOptions{}); err != nil || gone || r.store.Revision() != before {
		t.Errorf("second delete: gone %t, %v, wrote %t; want nothing", gone, err, r.store.Revision() != before)
	}
	change(t, r, Namespaces, "", "team", "status", func(ns *corev1.Namespace) {
		ns.Status.Conditions = []corev1.NamespaceCondition{{Type: corev1.NamespaceContentRemaining, Status: corev1.ConditionFalse}}
	})
	if got := stored[*corev1.Namespace](t, r, Namespaces, "", "team"); got == nil || len(got.Status.Conditions) != 1 {
		t.Fatalf("stored %v, want it to live until it is finalized", got)
	}
	change(t, r, Namespaces, "", "team", "finalize", func(ns *corev1.Namespace) { ns.Spec.Finalizers = nil })
	if got := stored[*corev1.Namespace](t, r, Namespaces, "", "team"); got != nil {
		t.Errorf("stored %v, want it gone once finalized", got)
	}

	held := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.org/wait"}}}
	must(t, r, Namespaces, "", held)
	if _, _, err := r.Delete(t.Context(), Namespaces, "", "held", nil); err != nil {
		t.Fatal(err)
	}
	change(t, r, Namespaces, "", "held", "finalize", func(ns *corev1.Namespace) { ns.Spec.Finalizers = nil })
	if stored[*corev1.Namespace](t, r, Namespaces, "", "held") == nil {
		t.Fatal("gone with a finalizer in its metadata")
	}
	change(t, r, Namespaces, "", "held", "", func(ns *corev1.Namespace) { ns.Finalizers = nil })
	if stored[*corev1.Namespace](t, r, Namespaces, "", "held") != nil {
		t.Error("left without any finalizer")
	}
}

// A delete reads, decides, and writes: what it read may have changed by then.
// Provoked by admission that recreates the object under the same name.
func TestDeleteByUIDNeverTakesASuccessor(t *testing.T) {
	r := newRegistry(t)
	pod := must(t, r, Pods, "default", newPod("web"))
	plain, once := r.With(r.store), true
	r.admission = demanding(func(a *Attributes) error {
		if a.Operation == Delete && once {
			once = false
			if _, _, err := plain.Delete(t.Context(), Pods, "default", "web", nil); err != nil {
				return err
			}
			must(t, plain, Pods, "default", newPod("web"))
		}
		return nil
	})
	_, _, err := r.Delete(t.Context(), Pods, "default", "web", &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if !apierrors.IsConflict(err) {
		t.Errorf("error %v, want a conflict", err)
	}
	if got := stored[*corev1.Pod](t, r, Pods, "default", "web"); got == nil || got.UID == pod.UID {
		t.Errorf("stored %v, want the successor", got)
	}
}

func TestDeleteCollection(t *testing.T) {
	r := newRegistry(t)
	for i := range 150 {
		pod := newPod(fmt.Sprint("p", i))
		pod.Labels = map[string]string{"third": fmt.Sprint(i % 3)}
		must(t, r, Pods, "default", pod)
	}
	must(t, r, Pods, "other", newPod("p0"))
	selector, err := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchLabels: map[string]string{"third": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	deleted, _, err := r.DeleteCollection(t.Context(), Pods, &metav1.DeleteOptions{}, store.ListOptions{Namespace: "default", Labels: selector})
	if err != nil || len(deleted) != 50 {
		t.Fatalf("%d deleted, error %v; want 50", len(deleted), err)
	}
	left, _, err := store.Of[*corev1.Pod](r.store, store.Pods).List(t.Context(), store.ListOptions{})
	if err != nil || len(left) != 101 {
		t.Errorf("%d left, error %v; want 101", len(left), err)
	}
	for _, pod := range left {
		if pod.Labels["third"] == "1" {
			t.Errorf("%s is left", pod.Name)
		}
	}
}
