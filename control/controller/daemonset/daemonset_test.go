package daemonset

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/controller"
	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func lead(m *test.Term) {
	m.Run(New(Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run)
}

func daemons3(m *test.Term) *appsv1.DaemonSet {
	for i := range 3 {
		test.Create(m, resource.Nodes, test.Node(fmt.Sprint("n", i)))
	}
	set := test.ReplicaSet("agent", 0)
	return test.Create(m, resource.DaemonSets, &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "agent"},
		Spec:       appsv1.DaemonSetSpec{Selector: set.Spec.Selector, Template: set.Spec.Template},
	})
}

// bindAndReady does what the scheduler and agents do with the pods that there are.
func bindAndReady(m *test.Term) {
	for _, p := range test.List[*corev1.Pod](m, store.Pods) {
		if p.Spec.NodeName == "" {
			m.Registry.BindMany(context.Background(), []resource.Binding{{Namespace: p.Namespace, Pod: p.Name, UID: p.UID, Node: targetOf(p)}})
		}
		if p.DeletionTimestamp != nil {
			m.Delete(resource.Pods, p.Namespace, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
		} else if _, ready := controller.ReadySince(p); !ready {
			m.SetReady(p, true)
		}
	}
}

func wantDaemons(t *testing.T, m *test.Term, image string, want int32) {
	t.Helper()
	test.Eventually(t, func() string {
		bindAndReady(m)
		ds, _ := test.Get[*appsv1.DaemonSet](m, store.DaemonSets, "default", "agent")
		if s := ds.Status; s.ObservedGeneration != ds.Generation || s.DesiredNumberScheduled != want || s.UpdatedNumberScheduled != want || s.NumberAvailable != want {
			return fmt.Sprintf("status %+v, want %d of everything", s, want)
		}
		on := map[string]bool{}
		for _, p := range test.List[*corev1.Pod](m, store.Pods) {
			if p.Spec.Containers[0].Image != image || on[targetOf(p)] {
				return fmt.Sprintf("pod %s is of %s on %s, want one of %s on each node", p.Name, p.Spec.Containers[0].Image, targetOf(p), image)
			}
			on[targetOf(p)] = true
		}
		if len(on) != int(want) {
			return fmt.Sprintf("pods on %d nodes, want %d", len(on), want)
		}
		return ""
	})
}

func setImage(m *test.Term, image string) {
	test.Change(m, resource.DaemonSets, "default", "agent", "", func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.Containers[0].Image = image })
}

func TestRunsOneOnEachNodeAndRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		lead(m)
		daemons3(m)
		wantDaemons(t, m, "image", 3)
		test.Create(m, resource.Nodes, test.Node("n3"))
		wantDaemons(t, m, "image", 4)
		setImage(m, "second")
		wantDaemons(t, m, "second", 4)
		setImage(m, "image") // undo
		wantDaemons(t, m, "image", 4)
		revisions := map[int64]bool{}
		for _, r := range test.List[*appsv1.ControllerRevision](m, store.ControllerRevisions) {
			revisions[r.Revision] = true
		}
		if len(revisions) != 2 || !revisions[2] || !revisions[3] {
			t.Errorf("revisions %v, want 2 and 3", revisions)
		}
		before := m.Settled(time.Second)
		time.Sleep(24 * time.Hour)
		if after := m.Registry.Store().Revision(); after != before {
			t.Errorf("%d writes while nothing happened", after-before)
		}
	})
}

// A daemon that fails again and again is replaced later and later.
func TestReplacesFailedDaemonsEverMoreSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		lead(m)
		daemons3(m)
		wantDaemons(t, m, "image", 3)
		seen := map[string]bool{}
		for range 600 {
			for _, p := range test.List[*corev1.Pod](m, store.Pods) {
				if targetOf(p) != "n0" {
					continue
				}
				seen[p.Name] = true
				if p.DeletionTimestamp != nil {
					m.Delete(resource.Pods, p.Namespace, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
				} else if p.Status.Phase != corev1.PodFailed {
					test.Change(m, resource.Pods, p.Namespace, p.Name, "status", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if len(seen) < 3 || len(seen) > 9 {
			t.Errorf("%d daemons in a minute, want a few: 1, 2, 4, 8, 16 and 32 seconds apart", len(seen))
		}
	})
}

func TestLeaderDiesAtAnyWriteOfAnUpdate(t *testing.T) {
	test.LeaderDiesAtAnyWrite(t, 8, func(t *testing.T, user *test.Term) {
		first := test.Resume(t, user.Registry.Store())
		lead(first)
		daemons3(user)
		wantDaemons(t, user, "image", 3)
		first.End()
		setImage(user, "second")
	}, lead, func(t *testing.T, m *test.Term) {
		wantDaemons(t, m, "second", 3)
		if got := len(test.List[*appsv1.ControllerRevision](m, store.ControllerRevisions)); got != 2 {
			t.Errorf("%d revisions, want 2", got)
		}
	})
}
