package podgc

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

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
		m.Run(New(Config{Registry: m.Registry, Caches: m.Caches, FinishedMost: 5, Logger: m.Logger}).Run)
		f(t, m)
		m.End()
	})
}

func names(m *test.Term) []string {
	var all []string
	for _, p := range test.List[*corev1.Pod](m, store.Pods) {
		all = append(all, p.Name)
	}
	slices.Sort(all)
	return all
}

func wantNames(t *testing.T, m *test.Term, want ...string) {
	t.Helper()
	if got := names(m); !slices.Equal(got, want) {
		t.Errorf("pods %q, want %q", got, want)
	}
}

func place(m *test.Term, name, node string) *corev1.Pod {
	p := test.Pod(name)
	p.Spec.NodeName = node
	return test.Create(m, resource.Pods, p)
}

func TestPodsOfMissingNodesGoAfterAGrace(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		test.Create(m, resource.Nodes, test.Node("n1"))
		test.Create(m, resource.Nodes, test.Node("n2"))
		place(m, "a", "n1")
		place(m, "b", "n2")
		place(m, "unbound", "")
		place(m, "nowhere", "never-was")
		time.Sleep(graceDefault - time.Second)
		wantNames(t, m, "a", "b", "nowhere", "unbound")
		time.Sleep(2 * time.Second)
		wantNames(t, m, "a", "b", "unbound")

		m.Delete(resource.Nodes, "", "n1")
		time.Sleep(graceDefault - time.Second)
		wantNames(t, m, "a", "b", "unbound")
		time.Sleep(2 * time.Second)
		wantNames(t, m, "b", "unbound")
	})
}

// A node is deleted, registers again, and is deleted again: its pods' grace
// begins anew.
func TestNodeThatComesBackSavesItsPods(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		test.Create(m, resource.Nodes, test.Node("n1"))
		place(m, "a", "n1")
		m.Delete(resource.Nodes, "", "n1")
		time.Sleep(graceDefault / 2)
		test.Create(m, resource.Nodes, test.Node("n1"))
		time.Sleep(graceDefault / 4)
		m.Delete(resource.Nodes, "", "n1")
		time.Sleep(graceDefault / 2)
		wantNames(t, m, "a")
		test.Create(m, resource.Nodes, test.Node("n1"))
		time.Sleep(time.Hour)
		wantNames(t, m, "a")
	})
}

func TestOldestFinishedPodsGoAboveTheLimit(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		test.Create(m, resource.Nodes, test.Node("n1"))
		for i := range 8 {
			p := place(m, fmt.Sprintf("p%d", i), "n1")
			if i == 0 {
				continue // runs
			}
			time.Sleep(time.Second)
			test.Change(m, resource.Pods, "default", p.Name, "status", func(p *corev1.Pod) {
				p.Status.Phase = corev1.PodSucceeded
			})
		}
		time.Sleep(time.Second)
		wantNames(t, m, "p0", "p3", "p4", "p5", "p6", "p7")
	})
}

// On a node that an administrator has declared dead nobody ends a deletion.
func TestOutOfServiceNodeLetsItsPodsGo(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		test.Create(m, resource.Nodes, test.Node("n1"))
		place(m, "deleted", "n1")
		place(m, "stays", "n1")
		m.Delete(resource.Pods, "default", "deleted")
		taint := func() {
			test.Change(m, resource.Nodes, "", "n1", "", func(n *corev1.Node) {
				n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute, TimeAdded: &metav1.Time{Time: time.Now()}}}
			})
		}
		taint()
		time.Sleep(time.Minute)
		wantNames(t, m, "deleted", "stays") // the node is ready: the taint is premature
		test.Change(m, resource.Nodes, "", "n1", "status", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown })
		time.Sleep(time.Second)
		wantNames(t, m, "stays")
	})
}

func TestLeavesForGood(t *testing.T) {
	deleted := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{}}}
	if !leavesForGood(deleted, nil) {
		t.Error("a deleted pod without a node stays")
	}
	if leavesForGood(&corev1.Pod{}, nil) {
		t.Error("a pod that waits for a node goes")
	}
	deleted.Spec.NodeName = "n1"
	if leavesForGood(deleted, test.Node("n1")) {
		t.Error("a pod goes that its node has to end")
	}
}

func TestSurplusTakesTheOldest(t *testing.T) {
	var pods []*corev1.Pod
	for i, age := range []int{3, 1, 4, 1, 5, 9, 2, 6} {
		pods = append(pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprint(age), UID: types.UID(fmt.Sprint(i)), CreationTimestamp: metav1.NewTime(time.Unix(int64(1000-age), 0))}})
	}
	var got []string
	for _, p := range surplus(pods, 5) {
		got = append(got, p.Name)
	}
	if want := []string{"9", "6", "5"}; !slices.Equal(got, want) {
		t.Errorf("got those of age %q, want %q", got, want)
	}
	if got := surplus(pods, 8); got != nil {
		t.Errorf("%d pods above the limit, want none", len(got))
	}
}
