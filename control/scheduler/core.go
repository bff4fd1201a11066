package scheduler

import (
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// core decides. It is told what happened and answers which pod goes where; it
// does no I/O, holds no lock and reads no clock, so that tests can play any
// history to it. One goroutine owns it.
//
// What it promises: whenever next has nothing to offer, no parked pod fits on
// any node, nor would if pods of lower priority were evicted from one, unless it
// waits for such pods to leave.
type core struct {
	cluster   *cluster
	queue     *queue
	claimants claimants
	// misfits remembers for each class of pods the last diagnosis and the
	// cluster's gains then: while nothing was gained, the next pod of the class
	// fits nowhere either.
	misfits map[classKey]misfit
	// again are classes of which a pod was woken for other pods' sake and went
	// somewhere: the next may too.
	again map[classKey]struct{}

	// foreign are pods that wait for a node and are another scheduler's, as no
	// profile has their name.
	foreign map[types.UID]*corev1.Pod

	budgets budgets
	// evicting are pods that are to make room, and for whom, from when that was
	// decided until they are gone.
	evicting    map[types.UID]types.UID
	nextVictims int        // where in the cluster's order the next search for victims starts
	lower       []*podInfo // reused
}

type misfit struct {
	gains     uint64 // the cluster's
	others    uint64 // the index's, for the class
	diagnosis *Diagnosis
	useless   string // why preemption does not help, "" if it may
}

// decision is a pod and where it goes, or why nowhere.
type decision struct {
	entry     *entry
	node      string
	diagnosis *Diagnosis // nil when there is a node
	// volumes are what its claims are to have, if they are not bound yet; the pod
	// is to be bound once they are, see choose. attempt tells decisions of a pod apart.
	volumes map[string]choice
	attempt uint64
	// patience is how long that may take before the pod is decided about anew.
	patience time.Duration

	// of a pod that goes nowhere yet:

	preemption *preemption // what is done about it; nil for nothing
	why        string      // what preemption has to say, in upstream's words
	// nominated is the node that the pod's status is to name, nil to leave it.
	nominated *string
}

// message is what a pod that goes nowhere is told.
func (d *decision) message() string {
	if d.diagnosis.Nodes == 0 || d.why == "" {
		return d.diagnosis.Error()
	}
	return d.diagnosis.Error() + " preemption: " + d.why
}

func newCore(sample int) *core { return coreOf(newCluster(sample)) }

// coreOf decides about a cluster that is counted already.
func coreOf(cl *cluster) *core {
	return &core{
		cluster: cl, queue: newQueue(cl.index), claimants: newClaimants(), misfits: make(map[classKey]misfit), again: make(map[classKey]struct{}),
		foreign: make(map[types.UID]*corev1.Pod), budgets: make(budgets), evicting: make(map[types.UID]types.UID),
	}
}

func (c *core) setNode(n *corev1.Node) { c.cluster.setNode(n) }

func (c *core) removeNode(name string) {
	c.cluster.removeNode(name)
	for _, it := range c.cluster.nominations.on[name] {
		c.rouse(it.pod.UID) // there is nothing to wait for
	}
}

// setPod takes over a pod's state as the cache has it.
func (c *core) setPod(pod *corev1.Pod) {
	switch {
	case finished(pod):
		c.removePod(pod.UID)
	case pod.Spec.NodeName != "":
		c.drop(pod.UID)
		c.cluster.bound(pod)
		c.settleVolumes(pod.UID, nil)
	case c.cluster.pods[pod.UID] != nil:
		// Decided, and the binding is on its way. If it fails, this state counts.
		c.cluster.pods[pod.UID].latest = pod
	case c.cluster.wants(pod):
		p := c.cluster.read(pod)
		delete(c.foreign, pod.UID)
		c.queue.set(p)
		c.heed(p)
	default:
		c.drop(pod.UID)
		if wantsNode(pod) {
			c.foreign[pod.UID] = pod
		}
	}
}

// heed follows what a waiting pod's status says about where room is made for it.
func (c *core) heed(p *podInfo) {
	if lost := c.cluster.nominations.heed(p); lost != "" {
		c.lost(lost)
		c.rouse(p.pod.UID)
	}
}

// removePod forgets a pod that is gone or has finished.
func (c *core) removePod(uid types.UID) {
	delete(c.evicting, uid)
	c.drop(uid)
	c.release(uid)
}

// release takes a pod off its node, and back what was decided about its claims.
func (c *core) release(uid types.UID) {
	p := c.cluster.pods[uid]
	c.cluster.release(uid)
	if p != nil {
		c.settleVolumes(uid, p.podInfo)
	}
}

// drop takes a pod out of the queue. If it had been woken for room on a node, the
// room goes to the next.
func (c *core) drop(uid types.UID) {
	delete(c.foreign, uid)
	c.lost(c.cluster.nominations.remove(uid))
	if e := c.queue.remove(uid); e != nil {
		c.unfollow(e.podInfo)
		c.unclaimed(e)
	}
}

// unclaimed is told of a pod that was woken for a node and may not go there.
func (c *core) unclaimed(e *entry) {
	if n := c.cluster.nodes[e.wokenBy]; n != nil {
		c.cluster.gain(n)
	}
	e.wokenBy = ""
	if e.wokenAs != (classKey{}) {
		c.again[e.wokenAs] = struct{}{}
		e.wokenAs = classKey{}
	}
}

// next decides about the first ready pod; false when none is ready. A pod with a
// node is assumed to be there from now on: follow with bindFailed if it fails.
func (c *core) next() (decision, bool) {
	c.cluster.tidy()
	c.wakeParked()
	e := c.queue.pop()
	if e == nil {
		return decision{}, false
	}
	n, known := c.search(e)
	if n == nil {
		// What was taken from under a woken pod may have left room for a smaller
		// one. The diagnosis has seen that room, so it is remembered after.
		as := e.wokenAs
		e.wokenAs = classKey{}
		c.unclaimed(e)
		known.gains, known.others = c.cluster.gains, c.cluster.index.gainsOf(e.podInfo)
		d := decision{entry: e, diagnosis: known.diagnosis, why: known.useless}
		if known.useless == "" || c.cluster.nominations.of[e.pod.UID] != nil {
			var useless bool
			d.preemption, d.why, useless = c.preempt(e)
			if useless {
				known.useless = d.why
			}
		}
		c.remember(e.podInfo, known)
		if as != (classKey{}) && (as != e.classKey() || d.preemption != nil) {
			c.again[as] = struct{}{} // else the next of them does not fit either
		}
		if it := c.cluster.nominations.of[e.pod.UID]; it != nil && !it.told {
			d.nominated = &it.node
		}
		c.queue.park(e)
		c.claimants.follow(e.podInfo)
		return d, true
	}
	c.queue.remove(e.pod.UID)
	c.unfollow(e.podInfo)
	d := decision{entry: e, node: n.name}
	c.choose(&d, n)
	c.cluster.assume(e.podInfo, n)
	if at := c.cluster.nominations.remove(e.pod.UID); at != n.name {
		c.lost(at)
	}
	if e.wokenBy == n.name {
		e.wokenBy = ""
	}
	c.unclaimed(e)
	return d, true
}

// search finds the pod a node: the one that it is nominated to if that can take
// it, else the best. Without one it returns what is known of its class.
func (c *core) search(e *entry) (*nodeInfo, misfit) {
	if n := c.cluster.nodes[c.cluster.nominations.node(e.pod.UID)]; n != nil && n.node != nil && c.cluster.fits(e.podInfo, n) {
		return n, misfit{}
	}
	c.cluster.index.prepare(e.podInfo)
	if known, ok := c.misfit(e.podInfo); ok {
		return nil, known
	}
	n, diagnosis := c.cluster.place(e.podInfo)
	return n, misfit{diagnosis: diagnosis}
}

// misfitsMost bounds the memory of classes; beyond it all are forgotten, which
// costs one search each.
const misfitsMost = 10_000

func (c *core) remember(p *podInfo, known misfit) {
	if len(c.misfits) >= misfitsMost {
		clear(c.misfits)
	}
	c.misfits[p.classKey()] = known
}

// misfit is why the pod fits nowhere if that is known. What fits nowhere whoever
// it is, fits nowhere.
func (c *core) misfit(p *podInfo) (misfit, bool) {
	if len(p.claims) > 0 {
		return misfit{}, false // its claims may have changed since
	}
	others := c.cluster.index.gainsOf(p)
	for _, key := range [...]classKey{{asks: p.class}, p.classKey()} {
		if known, ok := c.misfits[key]; ok && known.gains == c.cluster.gains && known.others == others {
			return known, true
		}
	}
	return misfit{}, false
}

// bindFailed undoes a decision whose write failed. Unless the cache has meanwhile
// shown the pod on a node or removed it, it is tried again after a pause; gone
// says that there is no such pod to try.
func (c *core) bindFailed(d decision, gone bool, now time.Time) {
	if c.undo(d, gone) {
		c.queue.retry(d.entry, now)
	}
}

// giveUp undoes a decision that was not written, and will be taken again.
func (c *core) giveUp(d decision) {
	if c.undo(d, false) {
		c.queue.put(d.entry, inReady)
	}
}

// undo takes a decision back. False when the pod is not to be decided about again;
// otherwise its entry is to be put somewhere.
func (c *core) undo(d decision, gone bool) bool {
	uid := d.entry.pod.UID
	p := c.cluster.pods[uid]
	if p == nil || !p.assumed {
		return false
	}
	delete(c.evicting, uid) // it is nowhere to be evicted from
	c.release(uid)
	if gone {
		return false
	}
	pod := d.entry.pod
	if p.latest != nil {
		pod = p.latest
	}
	if !c.cluster.wants(pod) {
		if wantsNode(pod) {
			c.foreign[uid] = pod
		}
		return false
	}
	if pod != d.entry.pod || d.entry.profile != c.cluster.profiles.or(pod) || d.entry.profile.spread.hard {
		d.entry.podInfo = c.cluster.read(pod)
	}
	c.queue.entries[uid] = d.entry
	c.heed(d.entry.podInfo)
	return true
}

// wakeParked makes those parked pods ready that may fit somewhere by what
// happened since the last call: those that fit on a node which gained room, in
// order and no more of them than fit there together, and of those that other
// pods had kept out the first of each class; if it goes somewhere, the next
// follows. Waking all that fit alone would have thousands of pods run for one
// free place.
func (c *core) wakeParked() {
	x := c.cluster.index
	if len(x.barred) > 0 {
		c.queue.part(x.barred)
		x.barred = x.barred[:0]
	}
	for name := range c.cluster.gained {
		if n := c.cluster.nodes[name]; n != nil && n.node != nil && c.queue.parked.len() > 0 {
			c.wakeFor(n)
		}
		delete(c.cluster.gained, name)
	}
	if x.shifted {
		maps.Copy(x.heard, x.parked)
		x.shifted = false
	}
	for key := range c.again {
		if class := c.queue.classes[key]; class != nil {
			x.heard[class] = struct{}{}
		}
		delete(c.again, key)
	}
	for class := range x.heard {
		delete(x.heard, class)
		c.wakeOneOf(class)
	}
}

// wakeOneOf makes the first of a class ready that fits somewhere, or could preempt.
// All are alike but those for whom room is made.
func (c *core) wakeOneOf(class *parkedClass) {
	nominees, asked := len(c.cluster.nominations.of), false
	for e := range class.entries.all() {
		if nominees == 0 || c.cluster.nominations.of[e.pod.UID] == nil {
			if asked {
				continue
			}
			asked = true
		}
		if c.cluster.fitsSomewhere(e.podInfo) || c.roomSomewhere(e) {
			c.queue.wakeAs(e, class.key)
			return
		}
		if nominees == 0 {
			return
		}
	}
}

// wakeFor holds the parked pods against a node. One that would have to preempt is
// woken alone of its class: what it does decides what is left for the next.
func (c *core) wakeFor(n *nodeInfo) {
	refused := make(map[*parkedClass]bool)
	nominees := len(c.cluster.nominations.on[n.name])
	var woken, fit []*entry
	var away []*nomination // of those that fit, so that they count once
	c.cluster.try(func() {
		for e := range c.queue.parked.all() {
			mine := nominees > 0 && c.cluster.nominations.node(e.pod.UID) == n.name
			if refused[e.parkedIn] && !mine {
				continue
			}
			switch {
			case c.cluster.fits(e.podInfo, n):
				if mine {
					away = append(away, c.cluster.nominations.of[e.pod.UID])
					c.cluster.nominations.remove(e.pod.UID)
				}
				c.cluster.put(e.podInfo, n)
				fit, woken = append(fit, e), append(woken, e)
				continue
			case mine && !e.neverPreempts && !c.waits(e), c.mayPreempt(e, n):
				woken = append(woken, e)
			}
			refused[e.parkedIn] = true
			if len(refused) == len(c.queue.classes) && nominees == 0 {
				break
			}
		}
		for _, e := range fit {
			c.cluster.lift(e.podInfo, n)
		}
	})
	for _, it := range away {
		c.cluster.nominations.put(it)
	}
	for _, e := range woken {
		c.queue.wake(e, n.name)
	}
}
