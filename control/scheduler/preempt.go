package scheduler

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Preemption, as upstream's DefaultPreemption has it: a pod that fits nowhere may
// have pods of lower priority evicted from one node if it fits there then. It
// is nominated to that node, waits until they are gone, and then takes its turn
// as any other pod.

// preemption is what is done to make room for a pod.
type preemption struct {
	node    string
	victims []*corev1.Pod // most important first; some may be on their way out already
	// outranked pods of lower priority were nominated to the node and are no longer.
	outranked []*corev1.Pod
}

// candidate is a node where evicting some pods would make room.
type candidate struct {
	node       *nodeInfo
	victims    []*podInfo // most important first
	violations int        // of budgets
}

// What upstream says about nodes where preemption does not help.
const (
	noVictims   = "No preemption victims found for incoming pod"
	notHelpful  = "Preemption is not helpful for scheduling"
	policyNever = "not eligible due to preemptionPolicy=Never."
	terminating = "not eligible due to a terminating pod on the nominated node."
)

// preempt looks for room that can be made for a pod which fits nowhere, and says
// what came of it, in upstream's words; useless is set if nothing would help any
// pod of its class either. Victims are marked and the pod is nominated; whoever
// takes the decision has the victims evicted.
func (c *core) preempt(e *entry) (p *preemption, why string, useless bool) {
	if e.neverPreempts {
		return nil, e.whyNever(), true
	}
	if c.waits(e) {
		return nil, terminating, false
	}
	best, diagnosis := c.bestCandidate(e.podInfo)
	if best == nil {
		if c.cluster.nominations.node(e.pod.UID) != "" {
			c.nominate(e.podInfo, "")
		}
		return nil, diagnosis.Error(), true
	}
	p = &preemption{node: best.node.name}
	for _, v := range best.victims {
		p.victims = append(p.victims, v.pod)
		c.evicting[v.pod.UID] = e.pod.UID
	}
	for _, it := range slices.Clone(c.cluster.nominations.on[p.node]) {
		if it.priority < e.priority {
			p.outranked = append(p.outranked, it.pod)
			c.nominate(it.podInfo, "")
			c.rouse(it.pod.UID)
		}
	}
	c.nominate(e.podInfo, p.node)
	return p, fmt.Sprintf("found a potential placement for pod on node %s, preempting %d victims", p.node, len(p.victims)), false
}

// whyNever is why a pod that never preempts does not; "" if its profile has no
// preemption to speak of.
func (p *podInfo) whyNever() string {
	if !p.profile.from.Preempts {
		return ""
	}
	return policyNever
}

// nominate changes for which node the pod waits; "" for none.
func (c *core) nominate(p *podInfo, node string) {
	c.lost(c.cluster.nominations.set(p, node, false))
}

// lost is told of a node to which a pod is nominated no longer.
func (c *core) lost(node string) {
	if n := c.cluster.nodes[node]; n != nil {
		c.cluster.gain(n)
	}
}

// waits says that pods are leaving the node which the pod is nominated to, and
// that more evictions would be too many. It need not wait for a node that would
// not take it in any case.
func (c *core) waits(e *entry) bool {
	n := c.cluster.nodes[c.cluster.nominations.node(e.pod.UID)]
	if n == nil || n.node == nil {
		return false
	}
	leaving := false
	for uid, p := range n.pods {
		if p.priority < e.priority {
			if _, marked := c.evicting[uid]; marked || leavesForOther(p.pod) {
				leaving = true
				break
			}
		}
	}
	if !leaving {
		return false
	}
	c.cluster.filters = c.cluster.applicable(e.podInfo, c.cluster.filters[:0])
	reasons, by := c.cluster.refuse(e.podInfo, n, nil)
	return resolvable(e.podInfo, n, by, reasons)
}

// leavesForOther says that a pod is on its way out because of preemption.
func leavesForOther(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp == nil {
		return false
	}
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.DisruptionTarget {
			return c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
		}
	}
	return false
}

// mayPreempt says whether evictions from this node would let in a pod that does
// not fit there. It is true exactly if preempt would consider the node.
func (c *core) mayPreempt(e *entry, n *nodeInfo) bool {
	if e.neverPreempts || !c.cluster.outranks(e.priority) || c.waits(e) {
		return false
	}
	lower, reasons, _ := c.vacate(e.podInfo, n)
	for _, v := range lower {
		c.cluster.suppose(v, n, 1)
	}
	return len(lower) > 0 && len(reasons) == 0
}

// roomSomewhere is mayPreempt for any node.
func (c *core) roomSomewhere(e *entry) bool {
	if e.neverPreempts || !c.cluster.outranks(e.priority) || c.waits(e) {
		return false
	}
	return slices.ContainsFunc(c.cluster.order, func(n *nodeInfo) bool { return c.mayPreempt(e, n) })
}

// bestCandidate tries nodes until it has found as many that would do as are scored
// for a placement, one of them without breaking a budget; upstream tries a hundred or a
// tenth of all nodes. Without any it says why for each node.
func (c *core) bestCandidate(p *podInfo) (*candidate, *Diagnosis) {
	c.cluster.filters = c.cluster.applicable(p, c.cluster.filters[:0])
	nodes, elsewhere := c.cluster.among(p)
	total := len(nodes)
	why := &Diagnosis{Nodes: len(c.cluster.order), Reasons: make(map[string]int)}
	if c.cluster.volumes.barred(p) != "" {
		why.Reasons[notHelpful] = why.Nodes
		return nil, why
	}
	if elsewhere > 0 {
		why.Reasons[notHelpful] = elsewhere
	}
	var found []*candidate
	harmless, visited, enough := false, 0, p.profile.candidates(c.cluster)
	for ; visited < total && (len(found) < enough || !harmless); visited++ {
		n := nodes[(c.nextVictims+visited)%total]
		if it := c.victims(p, n, why); it != nil {
			found = append(found, it)
			harmless = harmless || it.violations == 0
		}
	}
	if len(found) == 0 {
		return nil, why
	}
	if elsewhere == 0 {
		c.nextVictims = (c.nextVictims + visited) % total
	}
	return slices.MinFunc(found, compareCandidates), nil
}

// compareCandidates puts the node first whose victims are the smaller loss: fewer broken
// budgets, then the lowest of the highest priorities, the lower sum, fewer pods,
// and those that began last.
func compareCandidates(a, b *candidate) int {
	return cmp.Or(
		cmp.Compare(a.violations, b.violations),
		cmp.Compare(a.victims[0].priority, b.victims[0].priority),
		cmp.Compare(a.sum(), b.sum()),
		cmp.Compare(len(a.victims), len(b.victims)),
		cmp.Compare(b.earliest(), a.earliest()),
	)
}

// sum adds the priorities up so that a negative one counts too, as upstream does.
func (it *candidate) sum() (sum int64) {
	for _, v := range it.victims {
		sum += int64(v.priority) + math.MaxInt32 + 1
	}
	return sum
}

// earliest is when the first of the most important victims began.
func (it *candidate) earliest() int64 {
	earliest := int64(math.MaxInt64)
	for _, v := range it.victims {
		if v.priority == it.victims[0].priority {
			earliest = min(earliest, began(v.pod))
		}
	}
	return earliest
}

// began is when a pod started, in nanoseconds; one that has not is the newest.
func began(pod *corev1.Pod) int64 {
	if pod.Status.StartTime == nil {
		return math.MaxInt64
	}
	return pod.Status.StartTime.UnixNano()
}

// vacate takes all pods of lower priority off the node, for a question, and says
// why the pod does not fit even so. The pods are good until the next call.
func (c *core) vacate(p *podInfo, n *nodeInfo) (lower []*podInfo, reasons []string, by string) {
	lower = c.lower[:0]
	for _, v := range n.pods {
		if v.priority < p.priority {
			lower = append(lower, v)
		}
	}
	c.lower = lower
	for _, v := range lower {
		c.cluster.suppose(v, n, -1)
	}
	c.cluster.filters = c.cluster.applicable(p, c.cluster.filters[:0])
	c.cluster.reasons, by = c.cluster.refuse(p, n, c.cluster.reasons[:0])
	return lower, c.cluster.reasons, by
}

// victims finds the pods to evict from the node so that the pod fits, as few and
// unimportant as can be: all of lower priority are taken off, and put back one
// by one while the pod still fits. Those whose eviction would break a budget are put
// back first, and within both the more important ones. Nil, and counted in why,
// when it does not fit even so.
func (c *core) victims(p *podInfo, n *nodeInfo, why *Diagnosis) *candidate {
	lower, reasons, by := c.vacate(p, n)
	if len(lower) == 0 || len(reasons) > 0 {
		for _, v := range lower {
			c.cluster.suppose(v, n, 1)
		}
		switch {
		case !resolvable(p, n, by, reasons):
			why.Reasons[notHelpful]++
		case len(lower) == 0:
			why.Reasons[noVictims]++
		default:
			for _, reason := range reasons {
				why.Reasons[reason]++
			}
		}
		return nil
	}
	slices.SortFunc(lower, compareImportance)
	violates := c.budgets.violating(lower)
	it := &candidate{node: n}
	putBack := func(breaking bool) {
		for i, v := range lower {
			if (violates != nil && violates[i]) != breaking {
				continue
			}
			c.cluster.suppose(v, n, 1)
			c.cluster.reasons, _ = c.cluster.refuse(p, n, c.cluster.reasons[:0])
			if len(c.cluster.reasons) == 0 {
				continue
			}
			c.cluster.suppose(v, n, -1)
			it.victims = append(it.victims, v)
			if breaking {
				it.violations++
			}
		}
	}
	if violates != nil {
		putBack(true)
	}
	putBack(false)
	for _, v := range it.victims {
		c.cluster.suppose(v, n, 1)
	}
	if len(it.victims) == 0 {
		return nil // it fits as it is
	}
	if violates != nil {
		slices.SortFunc(it.victims, compareImportance)
	}
	return it
}

// compareImportance orders by priority, and the older first; the rest only makes
// it the same every time.
func compareImportance(a, b *podInfo) int {
	return cmp.Or(
		cmp.Compare(b.priority, a.priority),
		cmp.Compare(began(a.pod), began(b.pod)),
		cmp.Compare(a.pod.UID, b.pod.UID),
	)
}

// unresolvable are filters that refuse a node for what it is, which no eviction
// changes: upstream's UnschedulableAndUnresolvable.
var unresolvable = map[string]bool{
	"NodeUnschedulable": true, "NodeName": true, "TaintToleration": true, "NodeAffinity": true, "DynamicResources": true,
	"NodeDeclaredFeatures": true,
	"VolumeBinding":        true, "VolumeZone": true,
}

// unresolvableReasons are the same of filters that have others, too.
var unresolvableReasons = map[string]bool{
	"node(s) didn't match pod topology spread constraints (missing required label)": true,
	"node(s) didn't match pod affinity rules":                                       true,
}

// resolvable says whether the refusal of a filter could go with pods on the node.
// Without a refusal there is nothing to resolve.
func resolvable(p *podInfo, n *nodeInfo, filter string, reasons []string) bool {
	if len(reasons) == 0 {
		return true
	}
	if unresolvable[filter] || unresolvableReasons[reasons[0]] {
		return false
	}
	if filter == (resourcesFit{}).name() {
		empty := nodeInfo{node: n.node, allocatable: n.allocatable}
		return len(p.profile.fit.refuse(p, &empty, nil)) == 0
	}
	return true
}

// spared is told that a pod which was to be evicted for another will not be.
func (c *core) spared(uid, preemptor types.UID) {
	if c.evicting[uid] == preemptor {
		delete(c.evicting, uid)
		if p := c.cluster.pods[uid]; p != nil {
			c.lost(p.on.name)
		}
	}
}

// rouse has a parked pod looked at again.
func (c *core) rouse(uid types.UID) {
	if e := c.queue.entries[uid]; e != nil && e.place == inParked {
		c.queue.wake(e, "")
	}
}
