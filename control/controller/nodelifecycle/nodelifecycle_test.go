package nodelifecycle

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

// air is what can be heard of nodes.
type air struct {
	mu      sync.Mutex
	session map[string]bool
	gossip  map[string]bool
	silent  time.Duration // of sessions that end
	ready   bool
	changed chan struct{}
}

func newAir(nodes ...string) *air {
	a := &air{session: map[string]bool{}, gossip: map[string]bool{}, ready: true, changed: make(chan struct{})}
	for _, n := range nodes {
		a.session[n], a.gossip[n] = true, true
	}
	return a
}

func (a *air) Alive(node string) (bool, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.session[node], a.gossip[node]
}

func (a *air) SilentFor(string) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.silent
}

func (a *air) Ready() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ready
}

func (a *air) Changed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}

func (a *air) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *air) kill(nodes ...string) {
	a.set(func() {
		for _, n := range nodes {
			a.session[n], a.gossip[n] = false, false
		}
	})
}

func (a *air) revive(nodes ...string) {
	a.set(func() {
		for _, n := range nodes {
			a.session[n], a.gossip[n] = true, true
		}
	})
}

func run(m *test.Term, a *air) {
	m.Run(New(Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Presence: a, Logger: m.Logger}).Run)
}

// cluster is nodes with a ready pod on each that tolerates loss for two seconds,
// as admission makes it.
func cluster(m *test.Term, nodes ...string) {
	for _, n := range nodes {
		test.Create(m, resource.Nodes, test.Node(n))
		place(m, "on-"+n, n, 2)
	}
}

func place(m *test.Term, name, node string, tolerates int64) {
	p := test.Pod(name)
	p.Spec.NodeName = node
	if tolerates >= 0 {
		for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To(tolerates)})
		}
	}
	m.SetReady(test.Create(m, resource.Pods, p), true)
}

func leaving(m *test.Term, pod string) bool {
	p, ok := test.Get[*corev1.Pod](m, store.Pods, "default", pod)
	return !ok || p.DeletionTimestamp != nil
}

func wantLeaving(t *testing.T, m *test.Term, want map[string]bool) {
	t.Helper()
	for pod, w := range want {
		if got := leaving(m, pod); got != w {
			t.Errorf("pod %s is leaving: %v, want %v", pod, got, w)
		}
	}
}

func readyStatus(m *test.Term, node string) corev1.ConditionStatus {
	n, _ := test.Get[*corev1.Node](m, store.Nodes, "", node)
	if c := conditionOf(n, corev1.NodeReady); c != nil {
		return c.Status
	}
	return ""
}

func taintsOf(m *test.Term, node string) []string {
	n, _ := test.Get[*corev1.Node](m, store.Nodes, "", node)
	return describe(n.Spec.Taints)
}

// in runs a test in a bubble with its own clock.
func in(t *testing.T, f func(t *testing.T, m *test.Term)) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		f(t, m)
		m.End()
	})
}

func TestLostNodesPodsLeaveInTime(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		cluster(m, "n1", "n2")
		place(m, "intolerant", "n1", -1)
		place(m, "patient", "n1", 60)
		a := newAir("n1", "n2")
		run(m, a)
		time.Sleep(10 * time.Second)
		quiet := m.Registry.Store().Revision()
		time.Sleep(time.Hour)
		if now := m.Registry.Store().Revision(); now != quiet {
			t.Errorf("%d writes in an idle hour, want none", now-quiet)
		}

		a.kill("n1")
		time.Sleep(graceDefault - time.Millisecond)
		if s := readyStatus(m, "n1"); s != corev1.ConditionTrue {
			t.Errorf("Ready is %s within the grace, want True", s)
		}
		time.Sleep(100 * time.Millisecond)
		if s := readyStatus(m, "n1"); s != corev1.ConditionUnknown {
			t.Errorf("Ready is %s after the grace, want Unknown", s)
		}
		if got, want := fmt.Sprint(taintsOf(m, "n1")), "[node.kubernetes.io/unreachable:NoSchedule node.kubernetes.io/unreachable:NoExecute]"; got != want {
			t.Errorf("taints %s, want %s", got, want)
		}
		p, _ := test.Get[*corev1.Pod](m, store.Pods, "default", "patient")
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status != corev1.ConditionFalse {
				t.Error("a pod on the lost node counts as ready")
			}
		}
		wantLeaving(t, m, map[string]bool{"intolerant": true, "on-n1": false, "patient": false, "on-n2": false})
		time.Sleep(1800 * time.Millisecond)
		wantLeaving(t, m, map[string]bool{"on-n1": false})
		time.Sleep(200 * time.Millisecond)
		wantLeaving(t, m, map[string]bool{"on-n1": true, "patient": false, "on-n2": false})
		time.Sleep(57 * time.Second)
		wantLeaving(t, m, map[string]bool{"patient": false})
		time.Sleep(2 * time.Second)
		wantLeaving(t, m, map[string]bool{"patient": true, "on-n2": false})
		p, _ = test.Get[*corev1.Pod](m, store.Pods, "default", "patient")
		if c := p.Status.Conditions[len(p.Status.Conditions)-1]; c.Type != corev1.DisruptionTarget || c.Reason != "DeletionByTaintManager" {
			t.Errorf("last condition %+v, want DisruptionTarget", c)
		}
	})
}

func TestShortSilenceKillsNothing(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		cluster(m, "n1", "n2")
		a := newAir("n1", "n2")
		run(m, a)
		time.Sleep(10 * time.Second)
		before := m.Registry.Store().Revision()
		for range 20 {
			a.kill("n1")
			time.Sleep(graceDefault - 50*time.Millisecond)
			a.revive("n1")
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		if now := m.Registry.Store().Revision(); now != before {
			t.Errorf("%d writes, want none", now-before)
		}
	})
}

// The node comes back within its pods' tolerance: nothing was killed, the agent
// reports, and the taints go.
func TestRecoveredNodeKeepsItsPods(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		cluster(m, "n1", "n2")
		place(m, "patient", "n1", 60)
		a := newAir("n1", "n2")
		run(m, a)
		a.kill("n1")
		time.Sleep(10 * time.Second)
		if s := readyStatus(m, "n1"); s != corev1.ConditionUnknown {
			t.Fatalf("Ready is %s, want Unknown", s)
		}
		a.revive("n1")
		test.Change(m, resource.Nodes, "", "n1", "status", func(n *corev1.Node) { conditionOf(n, corev1.NodeReady).Status = corev1.ConditionTrue })
		time.Sleep(time.Second)
		if got := taintsOf(m, "n1"); len(got) != 0 {
			t.Errorf("taints %q, want none", got)
		}
		time.Sleep(time.Hour)
		wantLeaving(t, m, map[string]bool{"patient": false})
		if s := readyStatus(m, "n1"); s != corev1.ConditionTrue {
			t.Errorf("Ready is %s, want what the agent says", s)
		}
	})
}

func TestGossipAloneCountsForAWhile(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		cluster(m, "n1", "n2")
		a := newAir("n1", "n2")
		run(m, a)
		a.set(func() { a.session["n1"] = false })
		time.Sleep(sessionGraceDefault - time.Second)
		if s := readyStatus(m, "n1"); s != corev1.ConditionTrue {
			t.Errorf("Ready is %s while gossip hears the node, want True", s)
		}
		time.Sleep(2 * time.Second)
		if s := readyStatus(m, "n1"); s != corev1.ConditionUnknown {
			t.Errorf("Ready is %s without a session for so long, want Unknown", s)
		}
	})
}

// When a machine's processes are killed its session ends at once, and gossip
// finds out two seconds later. That is the moment: the session has had its grace.
func TestGraceCountsFromTheEndOfTheSession(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		cluster(m, "n1", "n2")
		a := newAir("n1", "n2")
		run(m, a)
		time.Sleep(10 * time.Second)
		a.set(func() { a.session["n1"] = false })
		time.Sleep(2 * time.Second)
		if s := readyStatus(m, "n1"); s != corev1.ConditionTrue {
			t.Errorf("Ready is %s while gossip hears the node, want True", s)
		}
		a.set(func() { a.gossip["n1"] = false })
		time.Sleep(100 * time.Millisecond)
		if s := readyStatus(m, "n1"); s != corev1.ConditionUnknown {
			t.Errorf("Ready is %s when gossip calls the node dead as well, want Unknown", s)
		}
		a.revive("n1")
		test.Change(m, resource.Nodes, "", "n1", "status", func(n *corev1.Node) { conditionOf(n, corev1.NodeReady).Status = corev1.ConditionTrue })
		time.Sleep(time.Second)
		// The other way round the session has its grace all the same.
		a.set(func() { a.gossip["n1"] = false })
		time.Sleep(time.Minute)
		a.kill("n1")
		time.Sleep(graceDefault - 100*time.Millisecond)
		if s := readyStatus(m, "n1"); s != corev1.ConditionTrue {
			t.Errorf("Ready is %s while the session may be moving, want True", s)
		}
	})
}

// When the power fails nothing breaks: the session ends after three seconds of
// silence, which is more than the grace. Nobody waits for it once more.
func TestSilenceBeforeTheEndOfTheSessionCounts(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		cluster(m, "n1", "n2")
		a := newAir("n1", "n2")
		run(m, a)
		time.Sleep(10 * time.Second)
		a.set(func() { a.gossip["n1"] = false })
		time.Sleep(time.Second)
		a.set(func() { a.session["n1"], a.silent = false, 3*time.Second })
		time.Sleep(100 * time.Millisecond)
		if s := readyStatus(m, "n1"); s != corev1.ConditionUnknown {
			t.Errorf("Ready is %s when the session has ended for silence, want Unknown", s)
		}
	})
}

func TestNotReadyNodeIsTainted(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		cluster(m, "n1", "n2")
		run(m, newAir("n1", "n2"))
		test.Change(m, resource.Nodes, "", "n1", "status", func(n *corev1.Node) { conditionOf(n, corev1.NodeReady).Status = corev1.ConditionFalse })
		time.Sleep(time.Second)
		if got, want := fmt.Sprint(taintsOf(m, "n1")), "[node.kubernetes.io/not-ready:NoSchedule node.kubernetes.io/not-ready:NoExecute]"; got != want {
			t.Errorf("taints %s, want %s", got, want)
		}
		wantLeaving(t, m, map[string]bool{"on-n1": false})
		time.Sleep(2 * time.Second)
		wantLeaving(t, m, map[string]bool{"on-n1": true, "on-n2": false})
	})
}

// All nodes fall silent at once: more likely it is us. Nothing is evicted until
// one is heard again; then the others' pods go, after their time.
func TestNothingIsEvictedWhileNoNodeIsHeard(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		cluster(m, "n1", "n2", "n3")
		place(m, "intolerant", "n1", -1)
		a := newAir("n1", "n2", "n3")
		run(m, a)
		time.Sleep(5 * time.Second)
		a.kill("n1")
		time.Sleep(300 * time.Millisecond)
		a.kill("n2", "n3")
		time.Sleep(time.Minute)
		for _, n := range []string{"n1", "n2", "n3"} {
			if s := readyStatus(m, n); s != corev1.ConditionUnknown {
				t.Errorf("Ready of %s is %s, want Unknown", n, s)
			}
			if got, want := fmt.Sprint(taintsOf(m, n)), "[node.kubernetes.io/unreachable:NoSchedule]"; got != want {
				t.Errorf("taints of %s %s, want %s", n, got, want)
			}
		}
		wantLeaving(t, m, map[string]bool{"intolerant": false, "on-n1": false, "on-n2": false, "on-n3": false})

		a.revive("n3")
		test.Change(m, resource.Nodes, "", "n3", "status", func(n *corev1.Node) { conditionOf(n, corev1.NodeReady).Status = corev1.ConditionTrue })
		time.Sleep(time.Second)
		wantLeaving(t, m, map[string]bool{"intolerant": true, "on-n1": false, "on-n2": false, "on-n3": false})
		time.Sleep(2 * time.Second)
		wantLeaving(t, m, map[string]bool{"on-n1": true, "on-n2": true, "on-n3": false})
	})
}

// A new leader knows nobody at first. It must neither declare nodes lost, nor
// act on the taints it finds, before it has asked around; but not wait for ever.
func TestNewLeaderAsksBeforeItJudges(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		cluster(m, "n1", "n2", "n3")
		place(m, "intolerant", "n1", -1)
		test.Change(m, resource.Nodes, "", "n1", "", func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}}
		})
		a := newAir()
		a.ready = false
		run(m, a)
		time.Sleep(3 * time.Second)
		for _, n := range []string{"n1", "n2", "n3"} {
			if s := readyStatus(m, n); s != corev1.ConditionTrue {
				t.Errorf("Ready of %s is %s before anything was heard, want True", n, s)
			}
		}
		wantLeaving(t, m, map[string]bool{"intolerant": false})
		a.set(func() { a.session["n1"], a.session["n2"], a.ready = true, true, true })
		time.Sleep(100 * time.Millisecond)
		if s := readyStatus(m, "n3"); s != corev1.ConditionUnknown {
			t.Errorf("Ready of n3 is %s, want Unknown: its silence began before the answers were in", s)
		}
		if got := taintsOf(m, "n1"); len(got) != 0 {
			t.Errorf("taints of n1, which is heard and ready, %q, want none", got)
		}
		wantLeaving(t, m, map[string]bool{"on-n3": false})
		time.Sleep(2 * time.Second)
		wantLeaving(t, m, map[string]bool{"on-n3": true, "on-n1": false, "on-n2": false})
	})
}

func TestNewLeaderDoesNotWaitForEver(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		cluster(m, "n1", "n2")
		a := newAir("n1")
		a.ready = false
		run(m, a)
		time.Sleep(settleMost + 100*time.Millisecond)
		if s := readyStatus(m, "n2"); s != corev1.ConditionUnknown {
			t.Errorf("Ready of n2 is %s, want Unknown", s)
		}
	})
}

// The old leader tainted the node and died before it evicted. The next one keeps
// to the time that began then.
func TestNextLeaderEvictsByTheSameClock(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		cluster(m, "n1", "n2")
		place(m, "patient", "n1", 60)
		a := newAir("n1", "n2")
		run(m, a)
		a.kill("n1")
		time.Sleep(30 * time.Second)
		m.End()
		time.Sleep(10 * time.Second)
		next := test.Begin(t, m.Registry.Store())
		run(next, a)
		time.Sleep(20 * time.Second)
		wantLeaving(t, next, map[string]bool{"patient": false})
		time.Sleep(3 * time.Second)
		wantLeaving(t, next, map[string]bool{"patient": true, "on-n2": false})
		next.End()
	})
}

func TestUsersNoExecuteTaintEvicts(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		cluster(m, "n1", "n2")
		run(m, newAir("n1", "n2"))
		test.Change(m, resource.Nodes, "", "n1", "", func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "maintenance", Effect: corev1.TaintEffectNoExecute}}
		})
		time.Sleep(100 * time.Millisecond)
		wantLeaving(t, m, map[string]bool{"on-n1": true, "on-n2": false})
		if got := taintsOf(m, "n1"); len(got) != 1 {
			t.Errorf("taints %q, want the user's", got)
		}
	})
}

// A node that is stored as lost is heard again, and dies for good before its
// agent could say that it is well: its pods are spared while it is heard, and go
// after.
func TestSparedPodsGoWhenTheNodeIsLostAgain(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		cluster(m, "n1", "n2")
		a := newAir("n1", "n2")
		run(m, a)
		a.kill("n1")
		time.Sleep(2 * time.Second)
		a.set(func() { a.session["n1"] = true })
		time.Sleep(time.Minute)
		wantLeaving(t, m, map[string]bool{"on-n1": false})
		a.kill("n1")
		time.Sleep(2 * time.Second)
		wantLeaving(t, m, map[string]bool{"on-n1": true})
	})
}
