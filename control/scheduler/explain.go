package scheduler

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// ErrNoPod says that there is no such pod.
var ErrNoPod = errors.New("no such pod")

// Explanation is why a pod is where it is, or is nowhere, as things are now.
type Explanation struct {
	Pod   *corev1.Pod
	State PodState
	// Pause is nil unless scheduling is paused.
	Pause *Pause
	// Node is where the pod is or is about to be, Nominated where room is made for it.
	Node, Nominated string
	// Answer is every node's, for the pod as if it came anew; what it takes itself,
	// and what it is nominated to, does not count against it.
	Answer Answer
	// Needs are what would have to be otherwise for the pod to fit, by node.
	Needs map[string][]string
	// Closest are the nodes that lack least, at most closestMost, each for another
	// reason.
	Closest []string
	// Preemption is what evictions would give a pod that fits nowhere.
	Preemption Preemption
}

// PodState is what the scheduler makes of a pod.
type PodState string

const (
	PodBound         PodState = "bound"
	PodBinding       PodState = "binding"       // has a node that is being written down
	PodFinished      PodState = "finished"      // has ended, or is on its way out
	PodGated         PodState = "gated"         // has scheduling gates
	PodForeign       PodState = "foreign"       // is another scheduler's
	PodReady         PodState = "ready"         // waits for its turn
	PodBackingOff    PodState = "backing off"   // waits after a write that failed
	PodUnschedulable PodState = "unschedulable" // fits nowhere
	PodPreempting    PodState = "preempting"    // waits until pods have left
)

// Preemption is what evictions would do for a pod.
type Preemption struct {
	Why        string // it does not help, in upstream's words
	Node       string // "" for none
	Victims    []*corev1.Pod
	Violations int // of disruption budgets
}

const closestMost = 5

// Explain works out where a pod could go and what keeps it from other nodes, from
// the very indexes that decisions are made with. Decisions wait meanwhile, some
// milliseconds in a cluster of thousands of nodes.
func (s *Scheduler) Explain(ctx context.Context, namespace, name string) (*Explanation, error) {
	pod, ok := s.caches.Pods.Get(namespace, name)
	if !ok {
		return nil, ErrNoPod
	}
	x := &Explanation{Pod: pod, Pause: Brake{s.registry.Store()}.Paused(), Needs: make(map[string][]string)}
	err := s.ask(ctx, x.fill)
	return x, err
}

// fill asks the core, and leaves it as it is.
func (x *Explanation) fill(c *core) {
	p := c.cluster.read(x.Pod)
	x.Nominated = c.cluster.nominations.node(x.Pod.UID)
	placed := c.cluster.pods[x.Pod.UID]
	if placed != nil {
		x.Node = placed.on.name
		c.cluster.suppose(placed.podInfo, placed.on, -1)
	}
	x.State = stateOf(c, x.Pod)
	snapshot := Snapshot{cluster: c.cluster}
	x.Answer = snapshot.Ask(x.Pod)
	x.keepClear(c, p)
	x.lack(c, p)
	if x.Answer.Best == "" {
		x.preempt(c, p)
	}
	if placed != nil {
		c.cluster.suppose(placed.podInfo, placed.on, 1)
	}
}

func stateOf(c *core, pod *corev1.Pod) PodState {
	e := c.queue.entries[pod.UID]
	switch {
	case finished(pod) || pod.DeletionTimestamp != nil:
		return PodFinished
	case pod.Spec.NodeName != "":
		return PodBound
	case c.cluster.pods[pod.UID] != nil:
		return PodBinding
	case len(pod.Spec.SchedulingGates) > 0:
		return PodGated
	case !c.cluster.wants(pod):
		return PodForeign
	case e == nil || e.place == inReady:
		return PodReady
	case e.place == inLater:
		return PodBackingOff
	case c.waits(e):
		return PodPreempting
	}
	return PodUnschedulable
}

// keepClear takes out of the answer the nodes that are kept for pods for whom room
// was made there.
func (x *Explanation) keepClear(c *core, p *podInfo) {
	if len(c.cluster.nominations.of) == 0 {
		return
	}
	fs := c.cluster.applicable(p, nil)
	x.Answer.Best = ""
	var best int64
	for i := range x.Answer.Nodes {
		at := &x.Answer.Nodes[i]
		if len(at.Refusals) > 0 {
			continue
		}
		c.cluster.filters = fs
		if reasons, by := c.cluster.refuse(p, c.cluster.nodes[at.Node], nil); len(reasons) > 0 {
			at.Refusals = []Refusal{{by, reasons}}
			at.Scores, at.Total = nil, 0
			continue
		}
		if x.Answer.Best == "" || at.Total > best {
			x.Answer.Best, best = at.Node, at.Total
		}
	}
}

// lack fills in what the pod needs of nodes that refuse it.
func (x *Explanation) lack(c *core, p *podInfo) {
	type short struct {
		node   string
		effort float64
	}
	var shorts []short
	for _, at := range x.Answer.Nodes {
		if len(at.Refusals) == 0 {
			continue
		}
		n := c.cluster.nodes[at.Node]
		needs, effort := needsOf(p, n, at.Refusals)
		if len(needs) == 0 {
			needs, effort = []string{"the room that is kept there for pods of no lower priority"}, effortMuch
		}
		x.Needs[at.Node] = needs
		shorts = append(shorts, short{at.Node, effort})
	}
	slices.SortFunc(shorts, func(a, b short) int { return cmp.Or(cmp.Compare(a.effort, b.effort), cmp.Compare(a.node, b.node)) })
	seen := make(map[string]bool)
	for _, it := range shorts {
		text := strings.Join(x.Needs[it.node], "\x00")
		if !seen[text] && len(x.Closest) < closestMost {
			x.Closest = append(x.Closest, it.node)
		}
		seen[text] = true
	}
}

// preempt fills in what evictions would give.
func (x *Explanation) preempt(c *core, p *podInfo) {
	e := c.queue.entries[x.Pod.UID]
	switch {
	case p.neverPreempts:
		x.Preemption.Why = cmp.Or(p.whyNever(), "its scheduler profile evicts nobody")
		return
	case e != nil && c.waits(e):
		x.Preemption.Why = terminating
		return
	}
	best, why := c.bestCandidate(p)
	if best == nil {
		x.Preemption.Why = why.Error()
		return
	}
	x.Preemption.Node, x.Preemption.Violations = best.node.name, best.violations
	for _, v := range best.victims {
		x.Preemption.Victims = append(x.Preemption.Victims, v.pod)
	}
}
