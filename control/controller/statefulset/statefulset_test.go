package statefulset

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func lead(m *test.Term) {
	m.Run(New(Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run)
}

func database(replicas int32) *appsv1.StatefulSet {
	set := test.ReplicaSet("db", replicas)
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: ptr.To(replicas), Selector: set.Spec.Selector, Template: set.Spec.Template, ServiceName: "db",
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{
				ObjectMeta: metav1.ObjectMeta{Name: "data"},
				Spec: corev1.PersistentVolumeClaimSpec{
					AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: apiresource.MustParse("1Gi")}},
				},
			}},
		},
	}
}

// agents make pods ready, and take away those that are being deleted.
func agents(m *test.Term) {
	for _, p := range test.List[*corev1.Pod](m, store.Pods) {
		if p.Spec.NodeName == "" {
			m.Registry.BindMany(context.Background(), []resource.Binding{{Namespace: p.Namespace, Pod: p.Name, UID: p.UID, Node: "n"}})
		}
		if p.DeletionTimestamp != nil {
			m.Delete(resource.Pods, p.Namespace, p.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
		} else if _, ready := controller.ReadySince(p); !ready {
			m.SetReady(p, true)
		}
	}
}

func wantPods(t *testing.T, m *test.Term, image string, want int32) {
	t.Helper()
	test.Eventually(t, func() string {
		agents(m)
		set, _ := test.Get[*appsv1.StatefulSet](m, store.StatefulSets, "default", "db")
		if s := set.Status; s.ObservedGeneration != set.Generation || s.Replicas != want || s.UpdatedReplicas != want || s.AvailableReplicas != want || s.CurrentRevision != s.UpdateRevision {
			return fmt.Sprintf("status %+v, want %d of everything", s, want)
		}
		pods := test.List[*corev1.Pod](m, store.Pods)
		for _, p := range pods {
			if p.Spec.Containers[0].Image != image {
				return fmt.Sprintf("pod %s is of %s, want %s", p.Name, p.Spec.Containers[0].Image, image)
			}
		}
		if len(pods) != int(want) {
			return fmt.Sprintf("%d pods, want %d", len(pods), want)
		}
		return ""
	})
}

func setImage(m *test.Term, image string) {
	test.Change(m, resource.StatefulSets, "default", "db", "", func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = image })
}

func TestUpdatesUndoesAndRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		lead(m)
		test.Create(m, resource.Nodes, test.Node("n"))
		test.Create(m, resource.StatefulSets, database(3))
		wantPods(t, m, "image", 3)
		setImage(m, "second")
		wantPods(t, m, "second", 3)
		setImage(m, "image") // undo
		wantPods(t, m, "image", 3)
		revisions := map[int64]bool{}
		for _, r := range test.List[*appsv1.ControllerRevision](m, store.ControllerRevisions) {
			revisions[r.Revision] = true
		}
		if len(revisions) != 2 || !revisions[2] || !revisions[3] {
			t.Errorf("revisions %v, want 2 and 3", revisions)
		}
		if claims := test.List[*corev1.PersistentVolumeClaim](m, store.PersistentVolumeClaims); len(claims) != 3 {
			t.Errorf("%d claims, want 3", len(claims))
		}
		before := m.Settled(time.Second)
		time.Sleep(24 * time.Hour)
		if after := m.Registry.Store().Revision(); after != before {
			t.Errorf("%d writes while nothing happened", after-before)
		}
	})
}

func TestLeaderDiesAtAnyWriteOfAnUpdate(t *testing.T) {
	test.LeaderDiesAtAnyWrite(t, 10, func(t *testing.T, user *test.Term) {
		first := test.Resume(t, user.Registry.Store())
		lead(first)
		test.Create(user, resource.Nodes, test.Node("n"))
		test.Create(user, resource.StatefulSets, database(2))
		wantPods(t, user, "image", 2)
		first.End()
		setImage(user, "second")
		test.Change(user, resource.StatefulSets, "default", "db", "scale", func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To(int32(3)) })
	}, lead, func(t *testing.T, m *test.Term) {
		wantPods(t, m, "second", 3)
		if got := len(test.List[*appsv1.ControllerRevision](m, store.ControllerRevisions)); got != 2 {
			t.Errorf("%d revisions, want 2", got)
		}
	})
}
