package nodelifecycle

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/proto/agent/fencing"
)

// waits is how long the leader waits for an agent that promises the usual.
const waits = 20 * time.Second

// promising is nodes whose agents stop by themselves, old enough to count, with
// a pod on each that must not run twice and one that may.
func promising(t *testing.T, m *test.Term, nodes ...string) {
	t.Helper()
	for _, n := range nodes {
		node := test.Node(n)
		node.Annotations = map[string]string{fencing.NodeAnnotation: fencing.StopsWithin(fencing.StopAfterDefault).String()}
		test.Create(m, resource.Nodes, node)
		place(m, "may-on-"+n, n, 2)
		guarded := test.Pod("on-" + n)
		guarded.Annotations = map[string]string{fencing.PodAnnotation: "true"}
		guarded.Spec.NodeName = n
		m.SetReady(test.Create(m, resource.Pods, guarded), true)
	}
	time.Sleep(2 * fencing.SettledAge)
}

func gone(m *test.Term, pod string) bool {
	_, ok := test.Get[*corev1.Pod](m, store.Pods, "default", pod)
	return !ok
}

func wantGone(t *testing.T, m *test.Term, when string, want map[string]bool) {
	t.Helper()
	for pod, w := range want {
		if got := gone(m, pod); got != w {
			t.Errorf("%s: pod %s is gone: %v, want %v", when, pod, got, w)
		}
	}
}

func TestGuardedPodIsRemovedWhenItHasCertainlyStopped(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		promising(t, m, "n1", "n2", "n3")
		a := newAir("n1", "n2", "n3")
		run(m, a)
		time.Sleep(time.Minute)
		a.kill("n1")
		time.Sleep(waits)
		wantLeaving(t, m, map[string]bool{"on-n1": true, "may-on-n1": true})
		wantGone(t, m, "before the wait is over", map[string]bool{"on-n1": false})
		time.Sleep(graceDefault + 100*time.Millisecond)
		wantGone(t, m, "after it", map[string]bool{"on-n1": true, "may-on-n1": false, "on-n2": false})

		// Deleted by somebody much later: nothing is left to wait for.
		late := test.Pod("late")
		late.Annotations = map[string]string{fencing.PodAnnotation: "true"}
		late.Spec.NodeName = "n1"
		late.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
		test.Create(m, resource.Pods, late)
		time.Sleep(time.Hour)
		wantGone(t, m, "while it may stay", map[string]bool{"late": false})
		m.Delete(resource.Pods, "default", "late")
		time.Sleep(100 * time.Millisecond)
		wantGone(t, m, "when it was deleted", map[string]bool{"late": true})
	})
}

// A moment of contact may have given the agent new certainty: the wait begins
// anew.
func TestContactBeginsTheWaitAnew(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		promising(t, m, "n1", "n2", "n3")
		a := newAir("n1", "n2", "n3")
		run(m, a)
		time.Sleep(time.Minute)
		a.kill("n1")
		time.Sleep(15 * time.Second)
		a.set(func() { a.session["n1"] = true })
		time.Sleep(100 * time.Millisecond)
		a.kill("n1")
		time.Sleep(waits - time.Second)
		wantGone(t, m, "before the wait is over", map[string]bool{"on-n1": false})
		time.Sleep(2 * time.Second)
		wantGone(t, m, "after it", map[string]bool{"on-n1": true})
	})
}

// Whoever holds a session that this leader does not hear of corrects what is
// stored of the node.
func TestNodeThatReportsIsNotFenced(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		promising(t, m, "n1", "n2", "n3")
		a := newAir("n1", "n2", "n3")
		run(m, a)
		time.Sleep(time.Minute)
		a.kill("n1")
		for range 10 {
			time.Sleep(15 * time.Second)
			test.Change(m, resource.Nodes, "", "n1", "status", func(n *corev1.Node) { conditionOf(n, corev1.NodeReady).Status = corev1.ConditionTrue })
		}
		wantLeaving(t, m, map[string]bool{"on-n1": true})
		wantGone(t, m, "while somebody reports", map[string]bool{"on-n1": false})
	})
}

// The agents that are not heard may hear each other, and go on.
func TestNothingIsRemovedWhenTooFewNodesAreHeard(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		promising(t, m, "n1", "n2", "n3", "n4", "n5")
		a := newAir("n1", "n2", "n3", "n4", "n5")
		run(m, a)
		time.Sleep(time.Minute)
		a.kill("n1", "n2", "n3")
		time.Sleep(time.Hour)
		wantLeaving(t, m, map[string]bool{"on-n1": true, "on-n2": true, "on-n3": true})
		wantGone(t, m, "with two of five heard", map[string]bool{"on-n1": false, "on-n2": false, "on-n3": false})

		// A node that is new to those who are cut off is no witness.
		test.Create(m, resource.Nodes, test.Node("n6"))
		test.Create(m, resource.Nodes, test.Node("n7"))
		a.revive("n6", "n7")
		time.Sleep(time.Hour)
		wantGone(t, m, "with two more that came later", map[string]bool{"on-n1": false})

		a.revive("n3")
		test.Change(m, resource.Nodes, "", "n3", "status", func(n *corev1.Node) { conditionOf(n, corev1.NodeReady).Status = corev1.ConditionTrue })
		time.Sleep(waits - time.Second)
		wantGone(t, m, "with three of five for too short a time", map[string]bool{"on-n1": false, "on-n2": false})
		time.Sleep(2*time.Second + fenceAgain)
		wantGone(t, m, "with three of five", map[string]bool{"on-n1": true, "on-n2": true})
	})
}

func TestNewLeaderWaitsAnew(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		promising(t, m, "n1", "n2", "n3")
		a := newAir("n1", "n2", "n3")
		run(m, a)
		time.Sleep(time.Minute)
		a.kill("n1")
		time.Sleep(15 * time.Second)
		m.End()
		next := test.Begin(t, m.Registry.Store())
		run(next, a)
		time.Sleep(waits - time.Second)
		wantGone(t, next, "before it has waited itself", map[string]bool{"on-n1": false})
		time.Sleep(2 * time.Second)
		wantGone(t, next, "after", map[string]bool{"on-n1": true})
		next.End()
	})
}

func TestNodeWithoutAPromiseIsNotFenced(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		promising(t, m, "n1", "n2", "n3")
		test.Change(m, resource.Nodes, "", "n1", "", func(n *corev1.Node) { n.Annotations = nil })
		a := newAir("n1", "n2", "n3")
		run(m, a)
		time.Sleep(time.Minute)
		a.kill("n1")
		time.Sleep(time.Hour)
		wantLeaving(t, m, map[string]bool{"on-n1": true})
		wantGone(t, m, "after an hour", map[string]bool{"on-n1": false})
	})
}

// A session that moves between control nodes has not been interrupted.
func TestMoveIsNoInterruption(t *testing.T) {
	a := newAttendance()
	now := time.Now()
	at := func(d time.Duration, heard bool) { a.session("n", heard, now.Add(d)) }
	at(0, true)
	at(30*time.Second, false)
	at(30*time.Second+gapMost-time.Millisecond, true)
	if got, want := a.heardFor("n", now.Add(40*time.Second)), 40*time.Second; got != want {
		t.Errorf("heard for %v after a move, want %v", got, want)
	}
	at(50*time.Second, false)
	at(50*time.Second+gapMost, true)
	if got, want := a.heardFor("n", now.Add(60*time.Second)), 10*time.Second-gapMost; got != want {
		t.Errorf("heard for %v after a gap, want %v", got, want)
	}
	if _, lost := a.lostFor("n", now.Add(time.Minute)); lost {
		t.Error("a node that is heard is lost")
	}
}
