package namespace

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
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
		m.Run(New(Config{Registry: m.Registry, Caches: m.Caches, Logger: m.Logger}).Run)
		test.Create(m, resource.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}})
		f(t, m)
		m.End()
	})
}

func put[T store.Object](m *test.Term, kind *resource.Kind, obj T) T {
	obj.SetNamespace("team")
	return test.Create(m, kind, obj)
}

func get(m *test.Term) (*corev1.Namespace, bool) {
	return test.Get[*corev1.Namespace](m, store.Namespaces, "", "team")
}

func left(m *test.Term) (n int) {
	for _, kind := range m.Registry.Kinds() {
		if kind.Namespaced() {
			n += m.Registry.Store().View().Count(kind.Spec.Prefix("team"))
		}
	}
	return n
}

func TestNamespaceGoesWithAllInIt(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		for i := range 20 {
			put(m, resource.Pods, test.Pod(fmt.Sprintf("p%d", i)))
		}
		put(m, resource.ReplicationControllers, test.ReplicationController("web", 3))
		put(m, resource.Events, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e"}, InvolvedObject: corev1.ObjectReference{Namespace: "team"}})
		test.Create(m, resource.Pods, test.Pod("elsewhere"))
		m.Delete(resource.Namespaces, "", "team")
		time.Sleep(time.Second)
		if _, ok := get(m); ok || left(m) != 0 {
			t.Errorf("the namespace is there: %v, with %d objects, want nothing", ok, left(m))
		}
		if _, ok := test.Get[*corev1.Pod](m, store.Pods, "default", "elsewhere"); !ok {
			t.Error("a pod of another namespace is gone")
		}
	})
}

// Pods with a grace period and objects with finalizers keep the namespace, which
// says so, and goes with the last of them.
func TestNamespaceWaitsForWhatHasToEnd(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		running := test.Pod("running")
		running.Spec.NodeName = "n1"
		put(m, resource.Pods, running)
		rc := test.ReplicationController("web", 0)
		rc.Finalizers = []string{"example.com/wait"}
		put(m, resource.ReplicationControllers, rc)
		m.Delete(resource.Namespaces, "", "team")
		time.Sleep(time.Second)
		ns, ok := get(m)
		if !ok {
			t.Fatal("the namespace is gone before its content")
		}
		said := map[corev1.NamespaceConditionType]corev1.NamespaceCondition{}
		for _, c := range ns.Status.Conditions {
			said[c.Type] = c
		}
		for typ, want := range map[corev1.NamespaceConditionType]string{
			corev1.NamespaceContentRemaining:       "Some resources are remaining: pods. has 1 resource instances, replicationcontrollers. has 1 resource instances",
			corev1.NamespaceFinalizersRemaining:    "Some content in the namespace has finalizers remaining: example.com/wait in 1 resource instances",
			corev1.NamespaceDeletionContentFailure: "All content successfully deleted, may be waiting on finalization",
		} {
			if said[typ].Message != want {
				t.Errorf("%s says %q, want %q", typ, said[typ].Message, want)
			}
		}
		before := m.Registry.Store().Revision()
		time.Sleep(time.Hour)
		if now := m.Registry.Store().Revision(); now != before {
			t.Errorf("%d writes while nothing happens, want none", now-before)
		}

		m.Delete(resource.Pods, "team", "running", metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))}) // as its agent says
		time.Sleep(time.Second)
		if _, ok := get(m); !ok {
			t.Error("the namespace is gone before the last of its content")
		}
		test.Change(m, resource.ReplicationControllers, "team", "web", "", func(rc *corev1.ReplicationController) { rc.Finalizers = nil })
		time.Sleep(time.Second)
		if _, ok := get(m); ok {
			t.Error("the namespace is there after the last of its content")
		}
	})
}

// What pods use, and what guards them, is there until the last of them is gone.
func TestPodsGoFirst(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		pod := test.Pod("p")
		pod.Finalizers = []string{"example.com/wait"}
		put(m, resource.Pods, pod)
		put(m, resource.ReplicationControllers, test.ReplicationController("web", 0))
		m.Delete(resource.Namespaces, "", "team")
		time.Sleep(time.Minute)
		if pod, ok := test.Get[*corev1.Pod](m, store.Pods, "team", "p"); !ok || pod.DeletionTimestamp == nil {
			t.Errorf("the pod is there: %v, want it to be going", ok)
		}
		if rc, ok := test.Get[*corev1.ReplicationController](m, store.ReplicationControllers, "team", "web"); !ok || rc.DeletionTimestamp != nil {
			t.Errorf("other content is there: %v, want it untouched", ok)
		}
		test.Change(m, resource.Pods, "team", "p", "", func(p *corev1.Pod) { p.Finalizers = nil })
		time.Sleep(time.Second)
		if _, ok := get(m); ok || left(m) != 0 {
			t.Errorf("after the pod %d objects are left, want nothing", left(m))
		}
	})
}

// Of an event that its finalizer keeps no news comes: the namespace goes all the
// same, a little after it.
func TestNamespaceNoticesContentOfWhichNoNewsComes(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		put(m, resource.Events, &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Name: "e", Finalizers: []string{"example.com/wait"}},
			InvolvedObject: corev1.ObjectReference{Namespace: "team"},
		})
		m.Delete(resource.Namespaces, "", "team")
		time.Sleep(time.Minute)
		if _, ok := get(m); !ok {
			t.Fatal("the namespace is gone before its content")
		}
		test.Change(m, resource.Events, "team", "e", "", func(e *corev1.Event) { e.Finalizers = nil })
		time.Sleep(recheck + time.Second)
		if _, ok := get(m); ok {
			t.Error("the namespace is there after the last of its content")
		}
	})
}

// A create was admitted before the namespace ended and is stored after.
func TestLateArrivalsAreRemoved(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		m.Delete(resource.Namespaces, "", "team")
		time.Sleep(100 * time.Millisecond)
		if _, ok := get(m); ok {
			t.Fatal("the namespace is still there")
		}
		put(m, resource.Pods, test.Pod("late"))
		time.Sleep(2 * time.Second)
		if n := left(m); n != 0 {
			t.Errorf("%d objects left in no namespace", n)
		}
	})
}

func TestLiveNamespacesAreLeftAlone(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		put(m, resource.Pods, test.Pod("p"))
		m.Delete(resource.Pods, "team", "p")
		put(m, resource.Pods, test.Pod("q"))
		time.Sleep(time.Minute)
		if _, ok := get(m); !ok || left(m) != 1 {
			t.Errorf("namespace there: %v, %d objects, want it with one", ok, left(m))
		}
	})
}

// The leader dies at any of its writes, and the next one finishes.
func TestNextLeaderFinishes(t *testing.T) {
	for at := range 8 {
		t.Run(fmt.Sprint("write ", at), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, log, _ := storetest.Open(t)
				m := test.Begin(t, s)
				test.Create(m, resource.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}})
				for i := range 3 {
					put(m, resource.Pods, test.Pod(fmt.Sprintf("p%d", i)))
				}
				m.Delete(resource.Namespaces, "", "team")
				dying := test.Resume(t, s.WithLog(&failing{Log: log, left: at}))
				dying.Run(New(Config{Registry: dying.Registry, Caches: dying.Caches, Logger: dying.Logger}).Run)
				time.Sleep(time.Second)
				dying.End()

				m.Run(New(Config{Registry: m.Registry, Caches: m.Caches, Logger: m.Logger}).Run)
				time.Sleep(2 * time.Second)
				if _, ok := get(m); ok || left(m) != 0 {
					t.Errorf("the namespace is there: %v, with %d objects, want nothing", ok, left(m))
				}
				m.End()
			})
		})
	}
}

// failing is a log whose leader is deposed after some writes.
type failing struct {
	*storetest.Log
	mu   sync.Mutex
	left int
}

var errDeposed = errors.New("not the leader")

func (f *failing) Propose(ctx context.Context, cmd []byte) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left--; f.left < 0 {
		return nil, errDeposed
	}
	return f.Log.Propose(ctx, cmd)
}

func TestConditionsChangeOnlyWhenTheyDiffer(t *testing.T) {
	then, now := metav1.NewTime(time.Unix(1000, 0)), metav1.NewTime(time.Unix(2000, 0))
	left := content{resources: map[string]int{"pods.": 2, "a.b": 1}, finalizers: map[string]int{}}
	var status corev1.NamespaceStatus
	if !merge(&status, conditions(left, nil), then) || len(status.Conditions) != 5 {
		t.Fatalf("conditions %v, want five", status.Conditions)
	}
	if merge(&status, conditions(left, nil), now) {
		t.Error("the same conditions change something")
	}
	left.resources["pods."] = 1
	if !merge(&status, conditions(left, errors.New("no")), now) {
		t.Error("new conditions change nothing")
	}
	for _, c := range status.Conditions {
		switch c.Type {
		case corev1.NamespaceContentRemaining:
			if !c.LastTransitionTime.Equal(&then) || !strings.HasSuffix(c.Message, "a.b has 1 resource instances, pods. has 1 resource instances") {
				t.Errorf("%+v, want a new message and the old time", c)
			}
		case corev1.NamespaceDeletionContentFailure:
			if !c.LastTransitionTime.Equal(&now) || c.Status != corev1.ConditionTrue {
				t.Errorf("%+v, want True since now", c)
			}
		}
	}
}
