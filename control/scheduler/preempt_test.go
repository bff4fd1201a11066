package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// preempted checks what is done for a pod that fits nowhere: evictions make room,
// none is needless, none is of a pod that counts as much, and nobody has more
// evicted while those before are still leaving.
func (w *world) preempted(d decision) {
	e, p := d.entry, d.preemption
	if d.nominated != nil {
		w.tell[e.pod.UID] = *d.nominated
	}
	if p == nil {
		if n := w.anyRoom(e); n != "" {
			w.t.Fatalf("%s has nobody evicted (%s) though it would help on %s", e.pod.Name, d.why, n)
		}
		return
	}
	if e.neverPreempts {
		w.t.Fatalf("%s preempts, and must not", e.pod.Name)
	}
	if before := w.made[e.pod.UID]; before != nil {
		w.checkDone(e, before)
	}
	w.made[e.pod.UID] = p
	for _, o := range p.outranked {
		w.tell[o.UID] = ""
	}
	fresh, asks := w.rebuild(e.pod.UID), w.read(e.pod)
	n := fresh.nodes[p.node]
	victims := make([]*podInfo, len(p.victims))
	for i, v := range p.victims {
		at := fresh.pods[v.UID]
		if at == nil || at.on != n || at.priority >= e.priority {
			w.t.Fatalf("%s (priority %d) has %s evicted: %+v", e.pod.Name, e.priority, v.Name, at)
		}
		victims[i] = at.podInfo
		fresh.suppose(at.podInfo, n, -1)
		if v.DeletionTimestamp == nil {
			w.evict = append(w.evict, v.UID)
		}
	}
	if !fresh.fits(asks, n) {
		w.t.Fatalf("%s does not fit on %s after %d evictions", e.pod.Name, n.name, len(victims))
	}
	for _, v := range victims {
		fresh.suppose(v, n, 1)
		if fresh.fits(asks, n) {
			w.t.Fatalf("%s has %s evicted for nothing", e.pod.Name, v.pod.Name)
		}
		fresh.suppose(v, n, -1)
	}
}

// checkDone fails if room that was made for the pod before is still being made, on
// a node that would take it.
func (w *world) checkDone(e *entry, before *preemption) {
	fresh, asks := w.rebuild(e.pod.UID), w.read(e.pod)
	n := fresh.nodes[before.node]
	if n == nil || n.node == nil {
		return
	}
	for _, v := range before.victims {
		if at := fresh.pods[v.UID]; at == nil || at.on != n || !slices.Contains(w.evict, v.UID) && at.pod.DeletionTimestamp == nil {
			continue
		}
		empty := &nodeInfo{name: "empty", node: n.node, allocatable: n.allocatable, hardTaints: n.hardTaints}
		if w.core.cluster.nominations.node(e.pod.UID) != before.node && fresh.fits(asks, empty) && e.pod.Status.NominatedNodeName == before.node {
			w.t.Fatalf("%s preempts again while %s leaves %s for it", e.pod.Name, v.Name, n.name)
		}
	}
}

// anyRoom returns a node on which evictions would let the pod in, unless it may
// have none or waits for some already.
func (w *world) anyRoom(e *entry) string {
	if e.neverPreempts || w.core.waits(e) {
		return ""
	}
	fresh, asks := w.rebuild(e.pod.UID), w.read(e.pod)
	for _, name := range slices.Sorted(maps.Keys(w.nodes)) {
		n := fresh.nodes[name]
		var lower []*podInfo
		for _, p := range n.pods {
			if p.priority < e.priority {
				lower = append(lower, p)
			}
		}
		for _, p := range lower {
			fresh.suppose(p, n, -1)
		}
		if len(lower) > 0 && fresh.fits(asks, n) {
			return name
		}
		for _, p := range lower {
			fresh.suppose(p, n, 1)
		}
	}
	return ""
}

// carryOut begins an eviction that was decided, or gives it up.
func (w *world) carryOut() {
	if len(w.evict) == 0 {
		return
	}
	uid := w.evict[0]
	w.evict = w.evict[1:]
	pod := w.pods[uid]
	switch {
	case w.r.IntN(6) == 0:
		w.core.spared(uid, w.core.evicting[uid])
	case pod == nil || finished(pod) || pod.DeletionTimestamp != nil:
	case pod.Spec.NodeName == "":
		if _, marked := w.core.evicting[uid]; marked {
			w.evict = append(w.evict, uid) // once it is bound
		}
	default:
		pod = pod.DeepCopy()
		pod.DeletionTimestamp = ptr.To(metav1.NewTime(w.now))
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler}}
		w.put(pod)
	}
}

// tellOne writes down to which node a pod is nominated.
func (w *world) tellOne() {
	uid, ok := pick(w.r, slices.Sorted(maps.Keys(w.tell)))
	if !ok {
		return
	}
	if pod := w.pods[uid]; pod != nil && pod.Spec.NodeName == "" && !finished(pod) {
		pod = pod.DeepCopy()
		pod.Status.NominatedNodeName = w.tell[uid]
		w.put(pod)
	}
	delete(w.tell, uid)
}

// leave ends a pod that is on its way out.
func (w *world) leave() {
	for _, uid := range slices.Sorted(maps.Keys(w.pods)) {
		if w.pods[uid].DeletionTimestamp != nil {
			delete(w.pods, uid)
			w.core.removePod(uid)
			return
		}
	}
}

// finish does what is left to do, and says whether there was something.
func (w *world) finish() bool {
	busy := len(w.open)+len(w.evict)+len(w.tell) > 0
	for len(w.open) > 0 {
		w.answer()
	}
	for range 10 * len(w.evict) {
		w.carryOut()
	}
	for len(w.tell) > 0 {
		w.tellOne()
	}
	for uid, pod := range w.pods {
		if pod.DeletionTimestamp != nil {
			delete(w.pods, uid)
			w.core.removePod(uid)
			busy = true
		}
	}
	return busy
}

// all takes decisions until there are none and returns them.
func all(c *core) (list []decision) {
	for {
		d, ok := c.next()
		if !ok {
			return list
		}
		list = append(list, d)
	}
}

func victimNames(p *preemption) (names []string) {
	if p == nil {
		return nil
	}
	for _, v := range p.victims {
		names = append(names, v.Name)
	}
	return names
}

func startedAt(minute int) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.StartTime = ptr.To(metav1.Unix(int64(60*minute), 0)) }
}

func app(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels = map[string]string{"app": name} }
}

func makeBudget(name string, allowed int32) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("pdb-" + name)},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}},
		Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: allowed},
	}
}

// Which pods go, and from which node, is upstream's choice.
func TestVictimsAreTheSmallestLoss(t *testing.T) {
	four := func(p *corev1.Pod) { requesting("cpu", "4")(p) }
	two := func(p *corev1.Pod) { requesting("cpu", "2")(p) }
	for _, test := range []struct {
		name    string
		pods    []*corev1.Pod // bound, on nodes of 4 cores
		budgets []*policyv1.PodDisruptionBudget
		pod     *corev1.Pod
		node    string
		victims []string
	}{
		{"none of the same priority", []*corev1.Pod{makePod("a", on("n1"), four, priority(5))}, nil, makePod("p", four, priority(5)), "", nil},
		{"no more than needed, and the unimportant", []*corev1.Pod{
			makePod("a", on("n1"), two, priority(3)), makePod("b", on("n1"), two, priority(1)),
		}, nil, makePod("p", two, priority(9)), "n1", []string{"b"}},
		{"the younger of equals", []*corev1.Pod{
			makePod("a", on("n1"), two, startedAt(5)), makePod("b", on("n1"), two, startedAt(3)),
		}, nil, makePod("p", two, priority(9)), "n1", []string{"a"}},
		{"who has not begun is the youngest", []*corev1.Pod{
			makePod("a", on("n1"), two, startedAt(5)), makePod("b", on("n1"), two),
		}, nil, makePod("p", two, priority(9)), "n1", []string{"b"}},
		{"lowest highest priority", []*corev1.Pod{
			makePod("a", on("n1"), four, priority(3)), makePod("b", on("n2"), two, priority(2)), makePod("c", on("n2"), two, priority(2)),
		}, nil, makePod("p", four, priority(9)), "n2", []string{"b", "c"}},
		{"lowest sum", []*corev1.Pod{
			makePod("a", on("n1"), two, priority(2)), makePod("b", on("n1"), two, priority(2)),
			makePod("c", on("n2"), two, priority(2)), makePod("d", on("n2"), two, priority(-7)),
		}, nil, makePod("p", four, priority(9)), "n2", []string{"c", "d"}},
		{"fewest, also of negative priorities", []*corev1.Pod{
			makePod("a", on("n1"), two, priority(-2)), makePod("b", on("n1"), two, priority(-2)), makePod("c", on("n2"), four, priority(-2)),
		}, nil, makePod("p", four, priority(9)), "n2", []string{"c"}},
		{"those that began last", []*corev1.Pod{makePod("a", on("n1"), four, startedAt(3)), makePod("b", on("n2"), four, startedAt(5))},
			nil, makePod("p", four, priority(9)), "n2", []string{"b"}},
		{"a budget counts more than priority", []*corev1.Pod{
			makePod("a", on("n1"), four, app("a")), makePod("b", on("n2"), four, priority(7)),
		}, []*policyv1.PodDisruptionBudget{makeBudget("a", 0)}, makePod("p", four, priority(9)), "n2", []string{"b"}},
		{"on one node too", []*corev1.Pod{
			makePod("a", on("n1"), two, app("a")), makePod("b", on("n1"), two, priority(7)),
		}, []*policyv1.PodDisruptionBudget{makeBudget("a", 0)}, makePod("p", two, priority(9)), "n1", []string{"b"}},
		{"a budget with something left is none", []*corev1.Pod{
			makePod("a", on("n1"), two, app("a")), makePod("b", on("n1"), two, priority(7)),
		}, []*policyv1.PodDisruptionBudget{makeBudget("a", 1)}, makePod("p", two, priority(9)), "n1", []string{"a"}},
		{"a budget is broken if nothing else helps", []*corev1.Pod{makePod("a", on("n1"), four, app("a"))},
			[]*policyv1.PodDisruptionBudget{makeBudget("a", 0)}, makePod("p", four, priority(9)), "n1", []string{"a"}},
		{"policy Never", []*corev1.Pod{makePod("a", on("n1"), four)}, nil, makePod("p", four, priority(9), func(p *corev1.Pod) {
			p.Spec.PreemptionPolicy = ptr.To(corev1.PreemptNever)
		}), "", nil},
		{"not for what no eviction would give", []*corev1.Pod{makePod("a", on("n1"), four)}, nil, makePod("p", requesting("cpu", "5"), priority(9)), "", nil},
		{"ports and extended resources", []*corev1.Pod{
			makePod("a", on("n1"), usingPort("", "TCP", 80)), makePod("b", on("n1"), requesting("example.org/fish", "2")), makePod("c", on("n1"), two),
		}, nil, makePod("p", usingPort("", "TCP", 80), requesting("example.org/fish", "1"), priority(9)), "n1", []string{"a", "b"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCore(100)
			with := func(n *corev1.Node) { n.Status.Allocatable["example.org/fish"] = *ptr.To(list("f", "2")["f"]) }
			nodes := map[string]bool{}
			for _, p := range test.pods {
				nodes[p.Spec.NodeName] = true
				c.setPod(p)
			}
			for name := range nodes {
				c.setNode(makeNode(name, with))
			}
			for _, b := range test.budgets {
				c.budgets.set(b)
			}
			c.setPod(test.pod)
			d, _ := c.next()
			got := victimNames(d.preemption)
			slices.Sort(got)
			if !slices.Equal(got, test.victims) || d.preemption != nil && d.preemption.node != test.node {
				t.Fatalf("victims %q of %+v (%s), want %q on %s", got, d.preemption, d.why, test.victims, test.node)
			}
			if (d.nominated != nil) != (test.node != "") || d.nominated != nil && *d.nominated != test.node {
				t.Errorf("nominated to %v, want %s", d.nominated, test.node)
			}
		})
	}
}

// From decision to placement: the pod waits until its victims are gone, has no more
// evicted meanwhile, and no pod that counts as little as it takes the room.
func TestNomineeGetsTheRoomThatWasMadeForIt(t *testing.T) {
	c := newCore(100)
	c.setNode(makeNode("n1"))
	c.setNode(makeNode("n2"))
	for _, n := range []string{"n1", "n2"} {
		c.setPod(makePod("low-"+n, on(n), requesting("cpu", "4")))
	}
	c.setPod(makePod("p", requesting("cpu", "3"), priority(9)))
	ds := all(c)
	if len(ds) != 1 || len(victimNames(ds[0].preemption)) != 1 {
		t.Fatalf("%+v, want one pod evicted", ds)
	}
	node, victim := ds[0].preemption.node, ds[0].preemption.victims[0]

	leaving := victim.DeepCopy()
	leaving.DeletionTimestamp = ptr.To(metav1.Unix(1, 0))
	leaving.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler}}
	c.setPod(leaving)
	c.setPod(makePod("p", requesting("cpu", "3"), priority(9), func(p *corev1.Pod) {
		p.Status.NominatedNodeName = node
		p.Annotations = map[string]string{"changed": "yes"}
	}))
	if ds := all(c); len(ds) != 0 {
		t.Fatalf("%+v while the victim leaves, want nothing", ds)
	}
	// Asked again, it has nobody else evicted.
	c.rouse("pod-p")
	if d, _ := c.next(); d.preemption != nil || d.why != terminating {
		t.Errorf("asked again: %+v, %q; want that it waits", d.preemption, d.why)
	}
	c.setPod(makePod("same", requesting("cpu", "2"), priority(9), func(p *corev1.Pod) { p.Spec.PreemptionPolicy = ptr.To(corev1.PreemptNever) }))
	c.setPod(makePod("small", requesting("cpu", "1")))
	c.removePod(victim.UID)
	placed := map[string]string{}
	for _, d := range all(c) {
		placed[d.entry.pod.Name] = d.node
	}
	if want := map[string]string{"p": node, "small": node, "same": ""}; !maps.Equal(placed, want) {
		t.Errorf("placed %v, want %v", placed, want)
	}
}

// A higher pod may take the room, and those who had it made look for other room.
func TestHigherPodOutranksANominee(t *testing.T) {
	c := newCore(100)
	c.setNode(makeNode("n1"))
	c.setPod(makePod("low", on("n1"), requesting("cpu", "4")))
	c.setPod(makePod("mid", requesting("cpu", "4"), priority(5)))
	if ds := all(c); len(ds) != 1 || ds[0].preemption == nil {
		t.Fatalf("%+v, want a preemption", ds)
	}
	c.setPod(makePod("high", requesting("cpu", "4"), priority(7)))
	ds := all(c)
	if len(ds) != 2 || ds[0].entry.pod.Name != "high" || len(ds[0].preemption.outranked) != 1 || ds[0].preemption.outranked[0].Name != "mid" {
		t.Fatalf("%+v, want high to outrank mid", ds)
	}
	if ds[1].preemption != nil || ds[1].nominated == nil || *ds[1].nominated != "" {
		t.Errorf("mid: %+v, want its nomination taken back", ds[1])
	}
	c.removePod("pod-low")
	if ds := all(c); len(ds) != 1 || ds[0].node != "n1" || ds[0].entry.pod.Name != "high" {
		t.Errorf("%+v, want high placed", ds)
	}
}

// A new leader knows from statuses for whom room is made, and does not make it twice.
func TestNewLeaderGoesOnWithAPreemption(t *testing.T) {
	c := newCore(100)
	c.setNode(makeNode("n1"))
	c.setNode(makeNode("n2"))
	c.setPod(makePod("gone", on("n1"), requesting("cpu", "4"), func(p *corev1.Pod) {
		p.DeletionTimestamp = ptr.To(metav1.Unix(1, 0))
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler}}
	}))
	c.setPod(makePod("other", on("n2"), requesting("cpu", "4")))
	c.setPod(makePod("p", requesting("cpu", "4"), priority(9), func(p *corev1.Pod) { p.Status.NominatedNodeName = "n1" }))
	if ds := all(c); len(ds) != 1 || ds[0].preemption != nil || ds[0].why != terminating {
		t.Fatalf("%+v, want it to wait", ds)
	}
	// The node goes: there is nothing to wait for.
	c.removeNode("n1")
	if ds := all(c); len(ds) != 1 || !slices.Equal(victimNames(ds[0].preemption), []string{"other"}) {
		t.Errorf("%+v, want other evicted", ds)
	}
}

// Many pods wait that could have one low pod evicted. One does; the others are
// not looked at in vain for ever.
func TestOneVictimIsEvictedOnce(t *testing.T) {
	c := newCore(100)
	c.setNode(makeNode("n1", allocatable("cpu", "4", "pods", "110")))
	c.setPod(makePod("top", on("n1"), requesting("cpu", "4"), priority(10)))
	for _, name := range []string{"a", "b", "c"} {
		c.setPod(makePod(name, requesting("cpu", "4"), priority(5)))
	}
	all(c)
	c.setPod(makePod("low", on("n1"))) // not by this scheduler
	if ds := all(c); len(ds) != 0 {
		t.Fatalf("%+v, want nothing", ds)
	}
	c.setPod(makePod("top", on("n1"), requesting("cpu", "4"), priority(1)))
	evictions := 0
	c.cluster.gain(c.cluster.nodes["n1"])
	for _, d := range all(c) {
		if d.preemption != nil {
			evictions++
		}
	}
	if evictions != 1 {
		t.Errorf("%d preemptions, want 1", evictions)
	}
}

// What a snapshot tells of a pod that fits nowhere is what would be done for it, and
// asking changes nothing.
func TestMakeRoomTellsWhatPreemptionDoes(t *testing.T) {
	budget := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b", UID: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "kept"}}},
	}
	s := NewSnapshot(State{
		Nodes:   []*corev1.Node{makeNode("a"), makeNode("b"), makeNode("c")},
		Budgets: []*policyv1.PodDisruptionBudget{budget},
		Pods: []*corev1.Pod{
			makePod("kept", on("a"), named("app", "kept"), requesting("cpu", "4")),
			makePod("loose", on("b"), requesting("cpu", "4")),
			makePod("high", on("c"), requesting("cpu", "4"), priority(100)),
		},
	})
	for range 2 {
		var got []string
		for _, r := range s.MakeRoom(makePod("p", requesting("cpu", "1"), priority(10))) {
			for _, v := range r.Victims {
				got = append(got, fmt.Sprint(v.Name, " on ", r.Node, ", ", r.Violations, " broken"))
			}
		}
		if want := []string{"loose on b, 0 broken", "kept on a, 1 broken"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := s.MakeRoom(makePod("p", requesting("cpu", "1"), func(p *corev1.Pod) { p.Spec.PreemptionPolicy = ptr.To(corev1.PreemptNever) })); got != nil {
		t.Errorf("%d rooms for a pod that never preempts, want none", len(got))
	}
}
