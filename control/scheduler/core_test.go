package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// world plays a random history to a core and keeps what the store would hold.
type world struct {
	t     *testing.T
	r     *rand.Rand
	core  *core
	nodes map[string]*corev1.Node
	pods  map[types.UID]*corev1.Pod
	open  []decision // decided, the write still under way
	rules bool       // pods have rules about others
	// profiles come and go
	profiles bool
	// labels of namespaces
	namespaces map[string]labels.Set
	// evict and tell are what decisions want done about other pods and in statuses.
	evict []types.UID
	tell  map[types.UID]string
	// made is the room that is made for whom.
	made map[types.UID]*preemption
	now  time.Time
	seq  int
}

func newWorld(t *testing.T, seed uint64) *world {
	return &world{
		t: t, r: rand.New(rand.NewPCG(seed, 7)), core: newCore(3),
		nodes: map[string]*corev1.Node{}, pods: map[types.UID]*corev1.Pod{}, now: time.Unix(1e9, 0),
		namespaces: map[string]labels.Set{},
		tell:       map[types.UID]string{}, made: map[types.UID]*preemption{},
	}
}

func (w *world) step() {
	if w.profiles && w.r.IntN(12) == 0 {
		w.changeProfiles()
		return
	}
	step := w.r.IntN(17)
	if w.rules && w.seq > 20 && w.r.IntN(10) > 0 && (step == 4 || step == 5 || step == 12) {
		step = 6 // a change of nodes has all pods with rules looked at again
	}
	switch step {
	case 12:
		name := fmt.Sprint("ns", w.r.IntN(2))
		w.namespaces[name] = labels.Set{"team": fmt.Sprint(w.r.IntN(2))}
		w.core.cluster.index.setNamespace(name, w.namespaces[name])
	case 13, 14:
		w.carryOut()
	case 15:
		w.tellOne()
	case 16:
		w.leave()
	case 0, 1, 2, 3:
		w.addPod()
	case 4:
		w.setNode()
	case 5:
		w.removeNode()
	case 6, 7:
		w.removePod()
	case 8:
		w.changePod()
	case 9, 10:
		w.answer()
	case 11:
		w.now = w.now.Add(time.Duration(w.r.IntN(3000)) * time.Millisecond)
	}
}

func (w *world) addPod() {
	w.seq++
	changes := []func(*corev1.Pod){
		requesting("cpu", fmt.Sprint(w.r.IntN(5)), "memory", fmt.Sprintf("%dGi", w.r.IntN(5))), priority(int32(w.r.IntN(3))),
		named("app", fmt.Sprint(w.r.IntN(3))), func(p *corev1.Pod) { p.Namespace = fmt.Sprint("ns", w.r.IntN(2)) },
	}
	if w.rules {
		// Room is not what they wait for.
		changes = append(changes, requesting("cpu", fmt.Sprint(w.r.IntN(2))))
		if w.r.IntN(2) == 0 {
			// And what happens on a node matters to who can't go there.
			host := fmt.Sprintf("n%d", w.r.IntN(6))
			changes = append(changes, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: host} })
		}
		for w.r.IntN(2) == 0 {
			changes = append(changes, w.anyRule())
		}
	}
	if w.r.IntN(4) == 0 {
		changes = append(changes, usingPort("", "TCP", int32(80+w.r.IntN(2))))
	}
	if w.r.IntN(4) == 0 {
		changes = append(changes, tolerating("k", ""))
	}
	if w.r.IntN(4) == 0 {
		changes = append(changes, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": fmt.Sprint(w.r.IntN(2))} })
	}
	if w.r.IntN(10) == 0 {
		changes = append(changes, func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} })
	}
	if w.r.IntN(10) == 0 || w.profiles && w.r.IntN(2) == 0 {
		changes = append(changes, func(p *corev1.Pod) { p.Spec.SchedulerName = "other" })
	}
	if w.r.IntN(6) == 0 {
		changes = append(changes, func(p *corev1.Pod) { p.Spec.PreemptionPolicy = ptr.To(corev1.PreemptNever) })
	}
	w.put(makePod(fmt.Sprintf("p%d", w.seq), changes...))
}

func (w *world) put(pod *corev1.Pod) {
	w.pods[pod.UID] = pod
	w.core.setPod(pod)
}

func (w *world) setNode() {
	changes := []func(*corev1.Node){
		allocatable("cpu", fmt.Sprint(w.r.IntN(9)), "memory", fmt.Sprintf("%dGi", w.r.IntN(9)), "pods", fmt.Sprint(w.r.IntN(6))),
		labelled("zone", fmt.Sprint(w.r.IntN(2))),
	}
	if w.rules {
		changes = append(changes, allocatable("cpu", "10", "memory", "10Gi", "pods", "10"))
	}
	if w.r.IntN(6) == 0 {
		changes = append(changes, func(n *corev1.Node) { delete(n.Labels, "zone") })
	}
	if w.r.IntN(4) == 0 {
		changes = append(changes, tainted("k", "NoSchedule"))
	}
	if w.r.IntN(6) == 0 {
		changes = append(changes, unready)
	}
	if w.r.IntN(6) == 0 {
		changes = append(changes, func(n *corev1.Node) { n.Spec.Unschedulable = true })
	}
	n := makeNode(fmt.Sprintf("n%d", w.r.IntN(6)), changes...)
	w.nodes[n.Name] = n
	w.core.setNode(n)
}

func (w *world) removeNode() {
	if name, ok := pick(w.r, slices.Sorted(maps.Keys(w.nodes))); ok {
		delete(w.nodes, name)
		w.core.removeNode(name)
	}
}

func (w *world) removePod() {
	if uid, ok := pick(w.r, slices.Sorted(maps.Keys(w.pods))); ok {
		pod := w.pods[uid].DeepCopy()
		if w.r.IntN(2) == 0 {
			delete(w.pods, uid)
			w.core.removePod(uid)
			return
		}
		pod.Status.Phase = corev1.PodSucceeded
		w.put(pod)
	}
}

// changePod changes what does not matter, what does, or starts a deletion.
func (w *world) changePod() {
	uid, ok := pick(w.r, slices.Sorted(maps.Keys(w.pods)))
	if !ok {
		return
	}
	pod := w.pods[uid].DeepCopy()
	switch w.r.IntN(6) {
	case 4:
		named("app", fmt.Sprint(w.r.IntN(3)))(pod)
	case 5:
		if pod.Spec.NodeName != "" {
			return
		}
		// Somebody has an opinion about where the pod should wait.
		pod.Status.NominatedNodeName = []string{"", "n0", "n1", "nowhere"}[w.r.IntN(4)]
	case 0:
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: fmt.Sprint(w.seq)})
	case 1:
		tolerating("k", "")(pod)
	case 2:
		pod.Spec.SchedulingGates = nil
	case 3:
		if pod.Spec.NodeName == "" {
			delete(w.pods, uid)
			w.core.removePod(uid)
			return
		}
		pod.DeletionTimestamp = ptr.To(metav1.NewTime(w.now))
	}
	w.put(pod)
}

// answer settles the oldest decision: bound, lost though bound, or failed.
func (w *world) answer() {
	if len(w.open) == 0 {
		return
	}
	d := w.open[0]
	w.open = w.open[1:]
	uid := d.entry.pod.UID
	stored := w.pods[uid]
	if stored == nil || finished(stored) {
		w.core.bindFailed(d, true, w.now)
		return
	}
	switch w.r.IntN(8) {
	case 0:
		w.core.bindFailed(d, false, w.now)
		return
	case 1:
		w.core.giveUp(d)
		return
	}
	pod := stored.DeepCopy()
	pod.Spec.NodeName = d.node
	w.put(pod)
	if w.r.IntN(4) == 0 {
		w.core.bindFailed(d, false, w.now) // the answer was lost, and comes after the news
	}
}

// decide takes decisions and checks each. Once none is left to take, no parked
// pod may fit anywhere.
func (w *world) decide(most int) {
	for i := 0; ; i++ {
		if i == most {
			return
		}
		w.core.queue.due(w.now)
		d, ok := w.core.next()
		if !ok {
			break
		}
		if d.diagnosis != nil {
			if n := w.anyFit(d.entry.podInfo, ""); n != "" {
				w.t.Fatalf("%s refused (%v) though it fits on %s", d.entry.pod.Name, d.diagnosis, n)
			}
			w.preempted(d)
			continue
		}
		if n := w.anyFit(d.entry.podInfo, d.node); n != d.node {
			w.t.Fatalf("%s placed on %s, where it does not fit", d.entry.pod.Name, d.node)
		}
		w.open = append(w.open, d)
	}
	for e := range w.core.queue.parked.all() {
		if n := w.anyFit(e.podInfo, ""); n != "" {
			w.t.Fatalf("%s is parked though it fits on %s", e.pod.Name, n)
		}
		if n := w.anyRoom(e); n != "" {
			w.t.Fatalf("%s is parked though evictions on %s would help", e.pod.Name, n)
		}
	}
}

// anyFit builds the cluster anew from what is stored and assumed, without the
// pod in question, and returns a node (this one, if given) that can take the pod.
func (w *world) anyFit(p *podInfo, only string) string {
	fresh := w.rebuild(p.pod.UID)
	p = w.read(p.pod) // what was looked up is of another index
	for _, name := range slices.Sorted(maps.Keys(w.nodes)) {
		if (only == "" || only == name) && fresh.fits(p, fresh.nodes[name]) {
			return name
		}
	}
	return ""
}

// read reads a pod for another cluster: nothing is looked up yet.
func (w *world) read(pod *corev1.Pod) *podInfo { return w.core.cluster.read(pod) }

func (w *world) rebuild(without types.UID) *cluster {
	fresh := newCluster(1000)
	fresh.profiles = w.core.cluster.profiles
	fresh.keepers.services = w.core.cluster.keepers.services
	for name, set := range w.namespaces {
		fresh.index.setNamespace(name, set)
	}
	for _, n := range w.nodes {
		fresh.setNode(n)
	}
	for uid, pod := range w.pods {
		if pod.Spec.NodeName != "" && !finished(pod) && uid != without {
			fresh.bound(pod)
		}
	}
	for uid, p := range w.core.cluster.pods {
		if p.assumed && uid != without {
			fresh.assume(w.read(p.pod), fresh.node(p.on.name))
		}
	}
	for _, it := range w.core.cluster.nominations.of {
		fresh.nominations.set(w.read(it.pod), it.node, it.told)
	}
	return fresh
}

// sums compares what is counted step by step with what a fresh count gives.
func (w *world) checkSums() {
	want := w.rebuild("")
	if got := len(w.core.cluster.nodes); got != len(want.nodes) {
		w.t.Fatalf("%d nodes known, want %d", got, len(want.nodes))
	}
	for name, n := range want.nodes {
		got := w.core.cluster.nodes[name]
		if got == nil {
			w.t.Fatalf("node %s is not known", name)
		}
		if got.requested.milliCPU != n.requested.milliCPU || got.requested.memory != n.requested.memory ||
			got.scoredCPU != n.scoredCPU || got.scoredMemory != n.scoredMemory ||
			!slices.Equal(slices.Sorted(maps.Keys(got.pods)), slices.Sorted(maps.Keys(n.pods))) ||
			!maps.Equal(got.ports, n.ports) {
			w.t.Fatalf("node %s counts %+v, want %+v", name, got, n)
		}
	}
	if w.r.IntN(4) == 0 {
		w.checkIndex(want)
	}
	waiting := map[types.UID]bool{}
	for uid, pod := range w.pods {
		if p := w.core.cluster.pods[uid]; w.core.cluster.wants(pod) && (p == nil || !p.assumed) {
			waiting[uid] = true
		}
	}
	foreign := 0
	for uid, pod := range w.pods {
		if p := w.core.cluster.pods[uid]; wantsNode(pod) && !waiting[uid] && p == nil {
			foreign++
		}
	}
	if len(w.core.foreign) != foreign {
		w.t.Fatalf("%d pods are left to others, want %d", len(w.core.foreign), foreign)
	}
	if got := w.core.queue.entries; len(got) != len(waiting) {
		w.t.Fatalf("%d pods queued, want %d", len(got), len(waiting))
	}
	for uid, it := range w.core.cluster.nominations.of {
		if !waiting[uid] {
			w.t.Fatalf("%s is nominated to %q and does not wait", uid, it.node)
		}
	}
	for uid := range w.core.evicting {
		if w.core.cluster.pods[uid] == nil {
			w.t.Fatalf("%s is being evicted and on no node", uid)
		}
	}
	parked := 0
	for uid, e := range w.core.queue.entries {
		if !waiting[uid] || e.place == inNone {
			w.t.Fatalf("%s is queued (place %d), want it waiting: %v", uid, e.place, waiting[uid])
		}
		if e.place == inParked {
			parked++
		}
		if now := w.read(w.pods[uid]); now.class != e.class || now.priority != e.priority {
			w.t.Fatalf("%s is queued as it was before it changed", uid)
		}
	}
	if listed := slices.Collect(w.core.queue.parked.all()); parked != len(listed) || !slices.IsSortedFunc(listed, compareEntries) {
		w.t.Fatalf("%d parked of %d, sorted %v", len(listed), parked, slices.IsSortedFunc(listed, compareEntries))
	}
}

// Whatever happens in whatever order, to pods, nodes and writes: no pod is put
// where it does not fit, none is refused or left parked while some node can take
// it, and the running sums are right.
func TestCoreOverAnyHistory(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(t, seed)
		w.rules = seed%2 == 0
		w.profiles = seed%3 == 0
		for range 200 {
			w.step()
			// With rules, half of the histories are looked at after each step, since
			// most steps have others looked at again, which hides what was missed.
			if seed%4 == 0 {
				w.decide(-1)
			}
			switch w.r.IntN(4) {
			case 0:
				w.decide(-1)
			case 1:
				w.decide(1)
			}
			w.checkSums()
		}
		// In the end every write is answered, every pause over and every victim gone.
		for w.finish() {
			w.now = w.now.Add(time.Minute)
			w.decide(-1)
			w.checkSums()
		}
		for e := range w.core.queue.parked.all() {
			if w.core.waits(e) {
				t.Errorf("%s waits on %s, and nobody is leaving", e.pod.Name, w.core.cluster.nominations.node(e.pod.UID))
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func pick[T cmp.Ordered](r *rand.Rand, from []T) (T, bool) {
	if len(from) == 0 {
		var none T
		return none, false
	}
	return from[r.IntN(len(from))], true
}

// Ten thousand pods wait for room. One place becomes free: one pod may run for
// it, the one with the highest priority, and not ten thousand.
func TestOneFreePlaceWakesOnePod(t *testing.T) {
	c := newCore(100)
	c.setNode(makeNode("n", allocatable("pods", "1", "cpu", "4")))
	c.setPod(makePod("first", on("n")))
	for i := range 10_000 {
		p := makePod(fmt.Sprintf("p%d", i), requesting("cpu", fmt.Sprint(i%3)))
		if i == 7000 {
			priority(5)(p)
		}
		c.setPod(p)
	}
	for {
		if d, ok := c.next(); !ok {
			break
		} else if d.diagnosis == nil {
			t.Fatalf("%s was placed on a full node", d.entry.pod.Name)
		}
	}
	c.removePod("pod-first")
	d, ok := c.next()
	if !ok || d.node != "n" || d.entry.pod.Name != "p7000" {
		t.Fatalf("got %+v, want p7000 on n", d)
	}
	if d, ok := c.next(); ok {
		t.Errorf("%s was woken as well", d.entry.pod.Name)
	}
}

// A pod is woken for a free place and deleted before its turn: the place goes to
// the next that waits.
func TestPlaceOfADeletedPodGoesToTheNext(t *testing.T) {
	c := newCore(100)
	c.setNode(makeNode("n", allocatable("pods", "2")))
	c.setPod(makePod("a", on("n")))
	c.setPod(makePod("b", on("n")))
	for _, name := range []string{"p1", "p2", "p3"} {
		c.setPod(makePod(name))
		c.next()
	}
	c.removePod("pod-a")
	c.removePod("pod-b")
	if d, _ := c.next(); d.node != "n" || d.entry.pod.Name != "p1" {
		t.Fatalf("got %+v, want p1 placed", d)
	}
	c.removePod("pod-p2")
	if d, ok := c.next(); !ok || d.node != "n" || d.entry.pod.Name != "p3" {
		t.Errorf("got %+v, want p3 placed", d)
	}
}

func TestQueueOrdersByPriorityThenArrival(t *testing.T) {
	c := newCore(100)
	for _, n := range nodeNames(3) {
		c.setNode(makeNode(n))
	}
	for _, p := range []*corev1.Pod{makePod("a"), makePod("b", priority(10)), makePod("c"), makePod("d", priority(10)), makePod("e", priority(-1))} {
		c.setPod(p)
	}
	var got []string
	for {
		d, ok := c.next()
		if !ok {
			break
		}
		got = append(got, d.entry.pod.Name)
	}
	if want := []string{"b", "d", "a", "c", "e"}; !slices.Equal(got, want) {
		t.Errorf("order %q, want %q", got, want)
	}
}

// What another scheduler places, gated pods, pods on their way out, and those
// that have ended are not ours to place.
func TestLeavesOthersPodsAlone(t *testing.T) {
	c := newCore(100)
	c.setNode(makeNode("n"))
	for _, p := range []*corev1.Pod{
		makePod("other", func(p *corev1.Pod) { p.Spec.SchedulerName = "other" }),
		makePod("gated", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }),
		makePod("leaving", func(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.Now()) }),
		makePod("ended", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }),
		makePod("bound", on("n")),
	} {
		c.setPod(p)
	}
	if d, ok := c.next(); ok {
		t.Errorf("decided about %s", d.entry.pod.Name)
	}
	gated := makePod("gated")
	c.setPod(gated)
	if d, ok := c.next(); !ok || d.entry.pod != gated || d.node != "n" {
		t.Errorf("the pod whose gate was lifted: got %+v, want it on n", d)
	}
}

func TestFailedWritesBackOff(t *testing.T) {
	c := newCore(100)
	c.setNode(makeNode("n"))
	c.setPod(makePod("p"))
	now := time.Unix(1e9, 0)
	var pauses []time.Duration
	for range 12 {
		d, ok := c.next()
		if !ok || d.node != "n" {
			t.Fatalf("got %+v, %v, want a placement", d, ok)
		}
		c.bindFailed(d, false, now)
		next, waiting := c.queue.due(now)
		if !waiting {
			t.Fatal("no pause")
		}
		pauses = append(pauses, next.Sub(now))
		now = next
		c.queue.due(now)
	}
	if pauses[0] != backOffFirst || pauses[1] != 2*backOffFirst || pauses[11] != backOffMost {
		t.Errorf("pauses %v, want them to double from %v to %v", pauses, backOffFirst, backOffMost)
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, nodes := range []int{100, 1000, 5000} {
		b.Run(fmt.Sprint(nodes, "nodes"), func(b *testing.B) {
			c := newCore(sampleDefault)
			keep(c.cluster, "rc")
			for _, name := range nodeNames(nodes) {
				c.setNode(makeNode(name, allocatable("cpu", "1000000", "memory", "100000Gi", "pods", "1000000")))
			}
			pods := make([]*corev1.Pod, b.N)
			for i := range pods {
				pods[i] = makePod(fmt.Sprint(i), requesting("cpu", "100m", "memory", "100Mi"), ownedBy("rc"))
			}
			b.ReportAllocs()
			b.ResetTimer()
			for _, p := range pods {
				c.setPod(p)
				if d, ok := c.next(); !ok || d.node == "" {
					b.Fatal("not placed")
				}
			}
		})
	}
}

// The last pods of a nearly full cluster: almost every node refuses.
func BenchmarkDecideNearlyFull(b *testing.B) {
	const nodes = 5000
	c := newCore(sampleDefault)
	for i, name := range nodeNames(nodes) {
		cpu := "0"
		if i == nodes/2 {
			cpu = "1000000"
		}
		c.setNode(makeNode(name, allocatable("cpu", cpu, "memory", "8Gi", "pods", "1000000")))
	}
	p := newPodInfo(makePod("p", requesting("cpu", "100m")), usual)
	for b.Loop() {
		if n, _ := c.cluster.place(p); n == nil {
			b.Fatal("not placed")
		}
	}
}

// Pods with rules about others, on 5,000 nodes in five zones.
func BenchmarkDecideRules(b *testing.B) {
	term := func(key string) corev1.PodAffinityTerm {
		return corev1.PodAffinityTerm{TopologyKey: key, LabelSelector: matching("app", "x")}
	}
	affinity := func(a corev1.Affinity) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Affinity = &a } }
	for name, rule := range map[string]func(*corev1.Pod){
		"spread": evenly("x"),
		"softspread": func(p *corev1.Pod) {
			evenly("x")(p)
			p.Spec.TopologySpreadConstraints[0].WhenUnsatisfiable = corev1.ScheduleAnyway
		},
		"hostspread": func(p *corev1.Pod) {
			evenly("x")(p)
			p.Spec.TopologySpreadConstraints[0].TopologyKey = corev1.LabelHostname
		},
		"affinity": affinity(corev1.Affinity{PodAffinity: &corev1.PodAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term("zone")}}}),
		"hostantiaffinity": affinity(corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term(corev1.LabelHostname)}}}),
		"preferred": affinity(corev1.Affinity{
			PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
				{Weight: 1, PodAffinityTerm: term("zone")}}},
			PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
				{Weight: 1, PodAffinityTerm: term(corev1.LabelHostname)}}},
		}),
	} {
		b.Run(name, func(b *testing.B) {
			c := newCore(sampleDefault)
			for i, name := range nodeNames(5000) {
				c.setNode(makeNode(name, labelled("zone", fmt.Sprint(i%5))))
			}
			pods := make([]*corev1.Pod, b.N)
			for i := range pods {
				pods[i] = makePod(fmt.Sprint(i), requesting("cpu", "10m", "memory", "10Mi"), named("app", "x"), rule)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for _, p := range pods {
				c.setPod(p)
				if d, ok := c.next(); !ok || d.node == "" {
					b.Fatal("not placed")
				}
				bound := *p
				bound.Spec.NodeName = c.cluster.pods[p.UID].on.name
				c.setPod(&bound)
			}
		})
	}
}

// Every pod has to preempt, on nodes that are full of pods of lower priority.
func BenchmarkPreempt(b *testing.B) {
	for _, nodes := range []int{1000, 5000} {
		b.Run(fmt.Sprint(nodes, "nodes"), func(b *testing.B) {
			var c *core
			for n := 0; b.Loop(); n++ {
				if n%nodes == 0 {
					b.StopTimer()
					c = fullOfLow(nodes)
					b.StartTimer()
				}
				c.setPod(makePod(fmt.Sprint("high", n), requesting("cpu", "3", "memory", "500Mi"), priority(10)))
				if d, ok := c.next(); !ok || d.preemption == nil {
					b.Fatalf("%+v, want a preemption", d)
				}
			}
		})
	}
}

func fullOfLow(nodes int) *core {
	c := newCore(sampleDefault)
	for _, name := range nodeNames(nodes) {
		c.setNode(makeNode(name, allocatable("cpu", "4", "memory", "32Gi", "pods", "110")))
		for i := range 4 {
			c.setPod(makePod(fmt.Sprint(name, "-", i), on(name), requesting("cpu", "900m", "memory", "500Mi")))
		}
	}
	return c
}
