package scheduler

import (
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
	cluster *cluster
	queue   *queue
	// misfits remembers for each class of pods the last diagnosis and the
	// cluster's gains then: while nothing was gained, the next pod of the class
	// fits nowhere either.
	misfits map[string]misfit
}

type misfit struct {
	gains     uint64
	diagnosis *Diagnosis
}

// decision is a pod and where it goes, or why nowhere.
type decision struct {
	entry     *entry
	node      string
	diagnosis *Diagnosis // nil when there is a node
}

func newCore(sample int) *core {
	return &core{cluster: newCluster(sample), queue: newQueue(), misfits: make(map[string]misfit)}
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
	c.cluster.release(uid)
}

// drop takes a pod out of the queue. If it had been woken for room on a node, the
// room goes to the next.
func (c *core) drop(uid types.UID) {
	if e := c.queue.remove(uid); e != nil {
		c.unclaimed(e)
	}
}

// unclaimed is told of a pod that was woken for a node and may not go there.
func (c *core) unclaimed(e *entry) {
	if n := c.cluster.nodes[e.wokenBy]; n != nil {
		c.cluster.gain(n)
	}
	e.wokenBy = ""
}

// next decides about the first ready pod; false when none is ready. A pod with a
// node is assumed to be there from now on: follow with bindFailed if it fails.
func (c *core) next() (decision, bool) {
	c.wakeParked()
	e := c.queue.pop()
	if e == nil {
		return decision{}, false
	}
	var n *nodeInfo
	known, ok := c.misfits[e.class]
	diagnosis := known.diagnosis
	if !ok || known.gains != c.cluster.gains {
		n, diagnosis = c.cluster.place(e.podInfo)
	}
	if n == nil {
		// What was taken from under a woken pod may have left room for a smaller
		// one. The diagnosis has seen that room, so it is remembered after.
		c.unclaimed(e)
		c.remember(e.class, diagnosis)
		c.queue.park(e)
		return decision{entry: e, diagnosis: diagnosis}, true
	}
	delete(c.misfits, e.class)
	c.queue.remove(e.pod.UID)
	c.cluster.assume(e.podInfo, n)
	if e.wokenBy == n.name {
		e.wokenBy = ""
	}
	c.unclaimed(e)
	return decision{entry: e, node: n.name}, true
}

// misfitsMost bounds the memory of classes; beyond it all are forgotten, which
// costs one search each.
const misfitsMost = 10_000

func (c *core) remember(class string, d *Diagnosis) {
	if len(c.misfits) >= misfitsMost {
		clear(c.misfits)
	}
	c.misfits[class] = misfit{gains: c.cluster.gains, diagnosis: d}
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
	c.cluster.release(uid)
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

// wakeParked makes those parked pods ready that fit on a node which gained room
// since the last call, in order and no more of them than fit there together.
// Waking all that fit alone would have thousands of pods run for one free place.
func (c *core) wakeParked() {
	if len(c.cluster.gained) == 0 {
		return
	}
	for name := range c.cluster.gained {
		if n := c.cluster.nodes[name]; n != nil && n.node != nil && len(c.queue.parked) > 0 {
			c.wakeFor(n)
		}
		delete(c.cluster.gained, name)
	}
}

func (c *core) wakeFor(n *nodeInfo) {
	refused := make(map[string]bool)
	var woken []*entry
	for _, e := range c.queue.parked {
		if refused[e.class] {
			continue
		}
		if c.cluster.fits(e.podInfo, n) {
			n.take(e.podInfo, 1)
			woken = append(woken, e)
			continue
		}
		refused[e.class] = true
		if len(refused) == len(c.queue.classes) {
			break
		}
	}
	for _, e := range woken {
		n.take(e.podInfo, -1)
		c.queue.wake(e, n.name)
	}
}
