package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	test "github.com/musterhq/muster/control/controller/controllertest"
	kinds "github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/scheduler"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func begin(t testing.TB, s *store.Store) *test.Term {
	m := test.Begin(t, s)
	m.Run(scheduler.New(scheduler.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run)
	return m
}

func bound(m *test.Term) (n int, perNode map[string]int) {
	perNode = map[string]int{}
	for _, p := range test.List[*corev1.Pod](m, store.Pods) {
		if p.Spec.NodeName != "" {
			n++
			perNode[p.Spec.NodeName]++
		}
	}
	return n, perNode
}

func wantBound(t testing.TB, m *test.Term, want int) map[string]int {
	t.Helper()
	var perNode map[string]int
	test.Eventually(t, func() string {
		var n int
		if n, perNode = bound(m); n != want {
			return fmt.Sprintf("%d pods bound, want %d", n, want)
		}
		return ""
	})
	return perNode
}

func condition(p *corev1.Pod) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == corev1.PodScheduled {
			return c
		}
	}
	return nil
}

func TestSchedulesOverHundredsOfNodes(t *testing.T) {
	synctest.Test(t, testSchedulesOverHundredsOfNodes)
}

func testSchedulesOverHundredsOfNodes(t *testing.T) {
	m := begin(t, storetest.New(t))
	for i := range 300 {
		test.Create(m, kinds.Nodes, test.Node(fmt.Sprintf("n%03d", i)))
	}
	for i := range 1500 {
		test.Create(m, kinds.Pods, test.Pod(fmt.Sprintf("p%d", i)))
	}
	perNode := wantBound(t, m, 1500)
	for node, n := range perNode {
		if n < 3 || n > 7 {
			t.Errorf("%d pods on %s, want about 5", n, node)
		}
	}
	p, _ := test.Get[*corev1.Pod](m, store.Pods, "default", "p7")
	if c := condition(p); c == nil || c.Status != corev1.ConditionTrue {
		t.Errorf("condition %+v, want PodScheduled", c)
	}
	test.Eventually(t, func() string {
		for _, e := range test.List[*corev1.Event](m, store.Events) {
			if e.Reason == "Scheduled" && e.InvolvedObject.UID == p.UID {
				if want := "Successfully assigned default/p7 to " + p.Spec.NodeName; e.Message != want {
					t.Errorf("event says %q, want %q", e.Message, want)
				}
				return ""
			}
		}
		return "no Scheduled event for p7"
	})
}

// Pods of more than the cluster holds: none may be bound beyond what nodes
// allow, the rest must say why, and go when there is room again.
func TestFillsNodesAndExplainsTheRest(t *testing.T) {
	synctest.Test(t, testFillsNodesAndExplainsTheRest)
}

func testFillsNodesAndExplainsTheRest(t *testing.T) {
	m := begin(t, storetest.New(t))
	for i := range 2 {
		test.Create(m, kinds.Nodes, test.Node(fmt.Sprintf("n%d", i)))
	}
	tainted := test.Node("n2")
	tainted.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
	test.Create(m, kinds.Nodes, tainted)
	for i := range 5 {
		p := test.Pod(fmt.Sprintf("p%d", i))
		p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("2")
		test.Create(m, kinds.Pods, p)
	}
	perNode := wantBound(t, m, 4)
	if perNode["n0"] != 2 || perNode["n1"] != 2 {
		t.Errorf("per node %v, want two each on n0 and n1", perNode)
	}
	const why = "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. " +
		"preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod."
	test.Eventually(t, func() string {
		for _, p := range test.List[*corev1.Pod](m, store.Pods) {
			if c := condition(p); p.Spec.NodeName == "" && c != nil && c.Status == corev1.ConditionFalse &&
				c.Reason == corev1.PodReasonUnschedulable && c.Message == why {
				return ""
			}
		}
		return "no pod says why it waits"
	})
	test.Eventually(t, func() string {
		for _, e := range test.List[*corev1.Event](m, store.Events) {
			if e.Reason == "FailedScheduling" && e.Message == why && e.Type == corev1.EventTypeWarning {
				return ""
			}
		}
		return "no FailedScheduling event"
	})

	before := m.Settled(200 * time.Millisecond)
	time.Sleep(500 * time.Millisecond)
	if after := m.Registry.Store().Revision(); after != before {
		t.Errorf("%d writes while a pod waits and nothing happens, want none", after-before)
	}

	for _, p := range test.List[*corev1.Pod](m, store.Pods) {
		if p.Spec.NodeName == "n1" {
			test.Change(m, kinds.Pods, "default", p.Name, "status", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
			break
		}
	}
	wantBound(t, m, 5)
}

func TestNodeEventsWakeWaitingPods(t *testing.T) { synctest.Test(t, testNodeEventsWakeWaitingPods) }

func testNodeEventsWakeWaitingPods(t *testing.T) {
	m := begin(t, storetest.New(t))
	test.Create(m, kinds.Pods, test.Pod("p"))
	m.Settled(100 * time.Millisecond)
	node := test.Node("n")
	node.Status.Conditions = nil
	test.Create(m, kinds.Nodes, node)
	m.Settled(100 * time.Millisecond)
	if n, _ := bound(m); n != 0 {
		t.Error("bound to a node that never reported")
	}
	test.Change(m, kinds.Nodes, "", "n", "status", func(n *corev1.Node) { n.Status.Conditions = test.Node("n").Status.Conditions })
	wantBound(t, m, 1)

	test.Change(m, kinds.Nodes, "", "n", "", func(n *corev1.Node) { n.Spec.Unschedulable = true })
	test.Create(m, kinds.Pods, test.Pod("q"))
	m.Settled(100 * time.Millisecond)
	if n, _ := bound(m); n != 1 {
		t.Error("bound to a cordoned node")
	}
	test.Change(m, kinds.Nodes, "", "n", "", func(n *corev1.Node) { n.Spec.Unschedulable = false })
	wantBound(t, m, 2)
}

// A leader dies in the midst: writes fail from some point on. The next one must
// finish, and no node may end up with more than it holds.
func TestNextLeaderFinishes(t *testing.T) { synctest.Test(t, testNextLeaderFinishes) }

func testNextLeaderFinishes(t *testing.T) {
	s, log, _ := storetest.Open(t)
	m := begin(t, s)
	for i := range 10 {
		n := test.Node(fmt.Sprintf("n%d", i))
		n.Status.Allocatable = n.Status.Allocatable.DeepCopy()
		n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("20")
		test.Create(m, kinds.Nodes, n)
	}
	m.End()
	user := test.Begin(t, s)
	for i := range 200 {
		test.Create(user, kinds.Pods, test.Pod(fmt.Sprintf("p%d", i)))
	}
	for _, lose := range []int{1, 50, 1} {
		f := &failing{Log: log, left: lose, gone: make(chan struct{})}
		dying := test.Resume(t, s.WithLog(f))
		dying.Run(scheduler.New(scheduler.Config{Registry: dying.Registry, Caches: dying.Caches, Events: dying.Events, Logger: dying.Logger}).Run)
		<-f.gone
		dying.End()
	}
	next := begin(t, s)
	for node, n := range wantBound(t, next, 200) {
		if n != 20 {
			t.Errorf("%d pods on %s, want 20", n, node)
		}
	}
}

// failing is a log whose leader is deposed after some writes.
type failing struct {
	*storetest.Log
	mu   sync.Mutex
	left int
	gone chan struct{}
}

var errDeposed = errors.New("not the leader")

func (f *failing) Propose(ctx context.Context, cmd []byte) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch f.left--; {
	case f.left == 0:
		close(f.gone)
		_, err := f.Log.Propose(ctx, cmd) // committed, but nobody hears of it
		return nil, errors.Join(err, errDeposed)
	case f.left < 0:
		return nil, errDeposed
	}
	return f.Log.Propose(ctx, cmd)
}

// Writes that fail for a while must not lose a pod, nor the room that was
// reserved for it.
func TestBindsAfterWritesFailed(t *testing.T) { synctest.Test(t, testBindsAfterWritesFailed) }

func testBindsAfterWritesFailed(t *testing.T) {
	s, log, _ := storetest.Open(t)
	m := begin(t, s)
	n := test.Node("n")
	n.Status.Allocatable = n.Status.Allocatable.DeepCopy()
	n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("5")
	test.Create(m, kinds.Nodes, n)
	user := test.Begin(t, s)
	for i := range 5 {
		// The first writes of the scheduler find the log refusing.
		test.Create(user, kinds.Pods, test.Pod(fmt.Sprintf("p%d", i)))
		if i < 3 {
			log.Refuse(errDeposed)
			time.Sleep(20 * time.Millisecond)
			log.Refuse(nil)
		}
	}
	wantBound(t, m, 5)
}

// A pod that no node can take today must not stop those behind it.
func TestUnschedulablePodsDoNotBlock(t *testing.T) { synctest.Test(t, testUnschedulablePodsDoNotBlock) }

func testUnschedulablePodsDoNotBlock(t *testing.T) {
	m := begin(t, storetest.New(t))
	for i := range 1000 {
		p := test.Pod(fmt.Sprintf("big%d", i))
		p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("64")
		test.Create(m, kinds.Pods, p)
	}
	test.Create(m, kinds.Nodes, test.Node("n"))
	test.Create(m, kinds.Pods, test.Pod("small"))
	test.Eventually(t, func() string {
		p, _ := test.Get[*corev1.Pod](m, store.Pods, "default", "small")
		if p.Spec.NodeName != "n" {
			return "the small pod waits"
		}
		return ""
	})
	for _, p := range test.List[*corev1.Pod](m, store.Pods) {
		if strings.HasPrefix(p.Name, "big") && p.Spec.NodeName != "" {
			t.Fatalf("%s is bound", p.Name)
		}
	}
}
