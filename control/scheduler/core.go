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
// any node.
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
}

type misfit struct {
	gains     uint64 // the cluster's
	others    uint64 // the index's, for the class
	diagnosis *Diagnosis
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
}

func newCore(sample int) *core {
	cl := newCluster(sample)
	return &core{
		cluster: cl, queue: newQueue(cl.index), claimants: newClaimants(), misfits: make(map[classKey]misfit), again: make(map[classKey]struct{}),
	}
}

func (c *core) setNode(n *corev1.Node) { c.cluster.setNode(n) }
func (c *core) removeNode(name string) { c.cluster.removeNode(name) }

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
	case wantsNode(pod):
		c.queue.set(newPodInfo(pod))
	default:
		c.drop(pod.UID)
	}
}

// removePod forgets a pod that is gone or has finished.
func (c *core) removePod(uid types.UID) {
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
	var n *nodeInfo
	c.cluster.index.prepare(e.podInfo)
	diagnosis := c.misfit(e.podInfo)
	if diagnosis == nil {
		n, diagnosis = c.cluster.place(e.podInfo)
	}
	if n == nil {
		// What was taken from under a woken pod may have left room for a smaller
		// one. The diagnosis has seen that room, so it is remembered after.
		if e.wokenAs == e.classKey() {
			e.wokenAs = classKey{} // nor does the next of them fit
		}
		c.unclaimed(e)
		c.remember(e.podInfo, diagnosis)
		c.queue.park(e)
		c.claimants.follow(e.podInfo)
		return decision{entry: e, diagnosis: diagnosis}, true
	}
	c.queue.remove(e.pod.UID)
	c.unfollow(e.podInfo)
	d := decision{entry: e, node: n.name}
	c.choose(&d, n)
	c.cluster.assume(e.podInfo, n)
	if e.wokenBy == n.name {
		e.wokenBy = ""
	}
	c.unclaimed(e)
	return d, true
}

// misfitsMost bounds the memory of classes; beyond it all are forgotten, which
// costs one search each.
const misfitsMost = 10_000

func (c *core) remember(p *podInfo, d *Diagnosis) {
	if len(c.misfits) >= misfitsMost {
		clear(c.misfits)
	}
	c.misfits[p.classKey()] = misfit{c.cluster.gains, c.cluster.index.gainsOf(p), d}
}

// misfit is why the pod fits nowhere if that is known, nil if it is not. What
// fits nowhere whoever it is, fits nowhere.
func (c *core) misfit(p *podInfo) *Diagnosis {
	if len(p.claims) > 0 {
		return nil // its claims may have changed since
	}
	others := c.cluster.index.gainsOf(p)
	for _, key := range [...]classKey{{asks: p.class}, p.classKey()} {
		if known, ok := c.misfits[key]; ok && known.gains == c.cluster.gains && known.others == others {
			return known.diagnosis
		}
	}
	return nil
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
	c.release(uid)
	if gone {
		return false
	}
	if p.latest != nil {
		if !wantsNode(p.latest) {
			return false
		}
		d.entry.podInfo = newPodInfo(p.latest)
	}
	c.queue.entries[uid] = d.entry
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
		if n := c.cluster.nodes[name]; n != nil && n.node != nil && len(c.queue.parked) > 0 {
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
		if c.cluster.fitsSomewhere(class.entries[0].podInfo) {
			c.queue.wakeFirst(class)
		}
	}
}

func (c *core) wakeFor(n *nodeInfo) {
	refused := make(map[*parkedClass]bool)
	var woken []*entry
	c.cluster.try(func() {
		for _, e := range c.queue.parked {
			if refused[e.parkedIn] {
				continue
			}
			if c.cluster.fits(e.podInfo, n) {
				c.cluster.put(e.podInfo, n)
				woken = append(woken, e)
				continue
			}
			refused[e.parkedIn] = true
			if len(refused) == len(c.queue.classes) {
				break
			}
		}
		for _, e := range woken {
			c.cluster.lift(e.podInfo, n)
		}
	})
	for _, e := range woken {
		c.queue.wake(e, n.name)
	}
}
