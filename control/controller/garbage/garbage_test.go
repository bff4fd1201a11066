package garbage

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// in runs a test in a bubble with its own clock, over a running controller.
func in(t *testing.T, f func(t *testing.T, m *test.Term)) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		m.Run(New(Config{Registry: m.Registry, Logger: m.Logger}).Run)
		f(t, m)
		m.End()
	})
}

func wantPods(t *testing.T, m *test.Term, want ...string) {
	t.Helper()
	time.Sleep(time.Second)
	var got []string
	for _, p := range test.List[*corev1.Pod](m, store.Pods) {
		got = append(got, p.Name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("pods %q, want %q", got, want)
	}
}

func owned(name string, owners ...metav1.OwnerReference) *corev1.Pod {
	p := test.Pod(name)
	p.OwnerReferences = owners
	return p
}

func ref(rc *corev1.ReplicationController) metav1.OwnerReference {
	r := *metav1.NewControllerRef(rc, store.ReplicationControllers.Kind)
	r.Controller = nil
	return r
}

func deleteRC(m *test.Term, name string, policy metav1.DeletionPropagation) {
	m.Delete(resource.ReplicationControllers, "default", name, metav1.DeleteOptions{PropagationPolicy: &policy})
}

func rcExists(m *test.Term, name string) bool {
	_, ok := test.Get[*corev1.ReplicationController](m, store.ReplicationControllers, "default", name)
	return ok
}

func TestBackgroundDeletionTakesDependentsAfter(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		a := test.Create(m, resource.ReplicationControllers, test.ReplicationController("a", 0))
		b := test.Create(m, resource.ReplicationControllers, test.ReplicationController("b", 0))
		test.Create(m, resource.Pods, owned("of-a", ref(a)))
		test.Create(m, resource.Pods, owned("of-b", ref(b)))
		test.Create(m, resource.Pods, owned("of-both", ref(a), ref(b)))
		test.Create(m, resource.Pods, owned("free"))
		wantPods(t, m, "free", "of-a", "of-b", "of-both")
		deleteRC(m, "a", metav1.DeletePropagationBackground)
		wantPods(t, m, "free", "of-b", "of-both")
		left, _ := test.Get[*corev1.Pod](m, store.Pods, "default", "of-both")
		if len(left.OwnerReferences) != 1 || left.OwnerReferences[0].UID != b.UID {
			t.Errorf("owners %v, want the one that is left", left.OwnerReferences)
		}
		deleteRC(m, "b", metav1.DeletePropagationBackground)
		wantPods(t, m, "free")
	})
}

func TestOrphanedDependentsLive(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		a := test.Create(m, resource.ReplicationControllers, test.ReplicationController("a", 0))
		test.Create(m, resource.Pods, owned("of-a", ref(a)))
		deleteRC(m, "a", metav1.DeletePropagationOrphan)
		wantPods(t, m, "of-a")
		if rcExists(m, "a") {
			t.Error("the owner is still there")
		}
		left, _ := test.Get[*corev1.Pod](m, store.Pods, "default", "of-a")
		if len(left.OwnerReferences) != 0 {
			t.Errorf("owners %v, want none", left.OwnerReferences)
		}
	})
}

// A dependent was read, its owner lets it live and goes, and then the owner is looked for: that
// must not be taken for an object that lost its owner.
func TestADependentThatIsOrphanedMeanwhileLives(t *testing.T) {
	m := test.Begin(t, storetest.New(t))
	c := New(Config{Registry: m.Registry, Logger: m.Logger})
	a := test.Create(m, resource.ReplicationControllers, test.ReplicationController("a", 0))
	read := test.Create(m, resource.Pods, owned("of-a", ref(a)))
	test.Change(m, resource.Pods, "default", "of-a", "", func(now *corev1.Pod) { now.OwnerReferences = nil })
	deleteRC(m, "a", metav1.DeletePropagationBackground)
	if err := c.collect(t.Context(), resource.Pods, read); !apierrors.IsConflict(err) {
		t.Errorf("error %v, want a conflict", err)
	}
	if _, ok := test.Get[*corev1.Pod](m, store.Pods, "default", "of-a"); !ok {
		t.Error("the dependent was deleted")
	}
}

func TestForegroundDeletionTakesDependentsFirst(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		a := test.Create(m, resource.ReplicationControllers, test.ReplicationController("a", 0))
		b := test.Create(m, resource.ReplicationControllers, test.ReplicationController("b", 0))
		running := owned("running", ref(a))
		running.Spec.NodeName = "n1"
		test.Create(m, resource.Pods, running)
		test.Create(m, resource.Pods, owned("waiting", ref(a)))
		test.Create(m, resource.Pods, owned("of-both", ref(a), ref(b)))
		deleteRC(m, "a", metav1.DeletePropagationForeground)
		wantPods(t, m, "of-both", "running")
		if !rcExists(m, "a") {
			t.Error("the owner is gone before its dependent, which has a grace period")
		}
		m.Delete(resource.Pods, "default", "running", metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))}) // as its agent says
		wantPods(t, m, "of-both")
		if rcExists(m, "a") {
			t.Error("the owner is there after its last dependent")
		}
	})
}

// The only dependent has another owner too: it is let go, and with that the one
// that waits for it.
func TestForegroundDeletionLetsSharedDependentsGo(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		a := test.Create(m, resource.ReplicationControllers, test.ReplicationController("a", 0))
		b := test.Create(m, resource.ReplicationControllers, test.ReplicationController("b", 0))
		test.Create(m, resource.Pods, owned("of-both", ref(a), ref(b)))
		deleteRC(m, "a", metav1.DeletePropagationForeground)
		wantPods(t, m, "of-both")
		if rcExists(m, "a") {
			t.Error("the owner waits for a dependent that is not its own any more")
		}
	})
}

// A deployment's foreground deletion is over when its pods are gone, which the replica
// sets between them own. What does not block an owner goes after it.
func TestForegroundDeletionGoesAllTheWayDown(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		a := test.Create(m, resource.ReplicationControllers, test.ReplicationController("a", 0))
		middle := test.ReplicationController("middle", 0)
		middle.OwnerReferences = []metav1.OwnerReference{ref(a)}
		middle = test.Create(m, resource.ReplicationControllers, middle)
		running := owned("running", ref(middle))
		running.Spec.NodeName = "n1"
		test.Create(m, resource.Pods, running)
		beside := ref(a)
		beside.BlockOwnerDeletion = nil
		free := owned("beside", beside)
		free.Spec.NodeName = "n1"
		test.Create(m, resource.Pods, free)
		deleteRC(m, "a", metav1.DeletePropagationForeground)
		time.Sleep(time.Second)
		if !rcExists(m, "a") || !rcExists(m, "middle") {
			t.Errorf("owner there %v, the one between %v; want both until the pod is gone", rcExists(m, "a"), rcExists(m, "middle"))
		}
		m.Delete(resource.Pods, "default", "running", metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))})
		time.Sleep(time.Second)
		if rcExists(m, "a") || rcExists(m, "middle") {
			t.Error("owners are there after what blocked them")
		}
		left, ok := test.Get[*corev1.Pod](m, store.Pods, "default", "beside")
		if !ok || left.DeletionTimestamp == nil {
			t.Error("what did not block the owner is not being deleted after it")
		}
	})
}

// Owners that go round in a circle, of one, two or three objects that say that nobody may go
// before them. However one of them or all are deleted, all go.
func TestCirclesOfOwnersGo(t *testing.T) {
	for count := 1; count <= 3; count++ {
		for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground} {
			for _, all := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d, %s, all %v", count, policy, all), func(t *testing.T) {
					in(t, func(t *testing.T, m *test.Term) {
						var circle []*corev1.ReplicationController
						for i := range count {
							circle = append(circle, test.Create(m, resource.ReplicationControllers, test.ReplicationController(fmt.Sprint("c", i), 0)))
						}
						for i, rc := range circle {
							test.Change(m, resource.ReplicationControllers, "default", rc.Name, "", func(now *corev1.ReplicationController) {
								now.OwnerReferences = []metav1.OwnerReference{ref(circle[(i+1)%count])}
							})
						}
						test.Create(m, resource.Pods, owned("of-all", ref(circle[count-1])))
						time.Sleep(time.Second)
						for i, rc := range circle {
							if !all && i > 0 {
								continue
							}
							_, _, err := m.Registry.Delete(t.Context(), resource.ReplicationControllers, "default", rc.Name, &metav1.DeleteOptions{PropagationPolicy: &policy})
							if err != nil && !apierrors.IsNotFound(err) {
								t.Fatal(err)
							}
						}
						wantPods(t, m)
						for _, rc := range circle {
							if rcExists(m, rc.Name) {
								t.Errorf("%s is still there", rc.Name)
							}
						}
					})
				})
			}
		}
	}
}

// A dependent that is created when its owner is gone already, or whose owner was
// replaced by another of the same name.
func TestLateDependentsGo(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		old := test.Create(m, resource.ReplicationControllers, test.ReplicationController("a", 0))
		deleteRC(m, "a", metav1.DeletePropagationBackground)
		time.Sleep(time.Second)
		now := test.Create(m, resource.ReplicationControllers, test.ReplicationController("a", 0))
		test.Create(m, resource.Pods, owned("of-old", ref(old)))
		test.Create(m, resource.Pods, owned("of-new", ref(now)))
		wantPods(t, m, "of-new")
	})
}

func TestOwnersOfOtherKindsAreTakenToExist(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		test.Create(m, resource.Pods, owned("of-custom", metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Thing", Name: "t", UID: "x"}))
		test.Create(m, resource.Pods, owned("of-node", metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "gone", UID: "x"}))
		node := test.Create(m, resource.Nodes, test.Node("n1"))
		test.Create(m, resource.Pods, owned("of-n1", metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "n1", UID: node.UID}))
		wantPods(t, m, "of-custom", "of-n1")
		m.Delete(resource.Nodes, "", "n1")
		wantPods(t, m, "of-custom")
	})
}

// The leader changes between the deletion of an owner and that of its dependents.
func TestNextLeaderCollects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		a := test.Create(m, resource.ReplicationControllers, test.ReplicationController("a", 0))
		b := test.Create(m, resource.ReplicationControllers, test.ReplicationController("b", 0))
		test.Create(m, resource.Pods, owned("of-a", ref(a)))
		test.Create(m, resource.Pods, owned("of-b", ref(b)))
		deleteRC(m, "a", metav1.DeletePropagationBackground)
		deleteRC(m, "b", metav1.DeletePropagationOrphan)
		m.Run(New(Config{Registry: m.Registry, Logger: m.Logger}).Run)
		wantPods(t, m, "of-b")
		if rcExists(m, "b") {
			t.Error("the owner that orphans is still there")
		}
		m.End()
	})
}
