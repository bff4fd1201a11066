package scheduler

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
)

// cluster is what decisions are made from: the nodes and what the pods on them
// take, bound or about to be. It is kept up to date by small steps and belongs
// to one goroutine. Pods and nodes in it are shared with caches: read only.
type cluster struct {
	nodes map[string]*nodeInfo
	order []*nodeInfo // those of nodes that exist, in no particular order
	pods  map[types.UID]*placed

	// sample is how many nodes that fit are scored; the search ends there.
	sample    int
	algorithm Algorithm
	profiles  *Profiles
	next      int // where in order the next search starts

	// gained holds the nodes that may be able to take more than they could, since
	// it was last emptied; gains counts such changes over all time.
	gained map[string]struct{}
	gains  uint64

	index   *index
	keepers keepers
	volumes *volumes
	slots   []*nodeInfo    // nil: free
	vacant  int            // how many are
	images  map[string]int // on how many nodes that exist each is

	nominations *nominations
	ranks       map[int32]int // how many placed pods have each priority

	scratch
}

// scratch is reused from one decision to the next.
type scratch struct {
	filters  []filter
	reasons  []string
	refused  map[string]int
	feasible []*nodeInfo
	pinned   []*nodeInfo
	scores   []int64
	totals   []int64
	seen     []uint64 // by domain: the stamp when it was
	stamp    uint64
}

// nodeInfo is a node and the sum of what is on it. Pods may be bound to a node
// that does not exist (any more); then node is nil and it is not in order.
type nodeInfo struct {
	name  string
	node  *corev1.Node
	index int // in order
	slot  int // among all, for as long as it is known

	volumes *volumes // the cluster's
	domains []int32  // by slot of the topology, see topology

	hardTaints, softTaints []corev1.Taint
	allocatable, requested resources
	scoredCPU              int64
	scoredMemory           int64
	pods                   map[types.UID]*podInfo
	ports                  map[hostPort]int // how many pods hold it
	images                 map[string]int64 // their size, by name
}

// placed is a pod on a node.
type placed struct {
	*podInfo
	on      *nodeInfo
	assumed bool // decided here and not yet seen in the cache
	// latest is the pod as the cache has shown it since it was assumed, nil if not.
	latest *corev1.Pod
}

func newCluster(sample int) *cluster {
	x := newIndex()
	return &cluster{
		nodes:    make(map[string]*nodeInfo),
		pods:     make(map[types.UID]*placed),
		sample:   sample,
		profiles: standard,
		gained:   make(map[string]struct{}),
		images:   make(map[string]int),
		index:    x,
		keepers:  newKeepers(),
		volumes:  newVolumes(),

		nominations: newNominations(x),
		ranks:       make(map[int32]int),

		scratch: scratch{refused: make(map[string]int)},
	}
}

// wants says whether it is this scheduler's turn to find the pod a node.
func (c *cluster) wants(pod *corev1.Pod) bool {
	return wantsNode(pod) && c.profiles.of[pod.Spec.SchedulerName] != nil
}

// read works out what a pod that waits for a node asks, by its profile.
func (c *cluster) read(pod *corev1.Pod) *podInfo {
	p := newPodInfo(pod, c.profiles.or(pod))
	if p.profile.spread.hard && len(pod.Spec.TopologySpreadConstraints) == 0 {
		c.spreadHard(p)
	}
	return p
}

func (c *cluster) node(name string) *nodeInfo {
	n := c.nodes[name]
	if n == nil {
		n = &nodeInfo{
			name:    name,
			volumes: c.volumes,
			slot:    len(c.slots),
			pods:    make(map[types.UID]*podInfo),
			ports:   make(map[hostPort]int),
		}
		if i := slices.Index(c.slots, nil); c.vacant > 0 && i >= 0 {
			n.slot = i
			c.vacant--
		} else {
			c.slots = append(c.slots, nil)
		}
		c.slots[n.slot] = n
		c.nodes[name] = n
	}
	return n
}

// setNode adds a node or takes over its changed state. Changes that filters do
// not look at, which is most of them, wake nobody.
func (c *cluster) setNode(node *corev1.Node) {
	n := c.node(node.Name)
	old := n.node
	if old == nil {
		n.index = len(c.order)
		c.order = append(c.order, n)
	}
	hard, soft := taintsOf(node)
	moved := old == nil || !maps.Equal(old.Labels, node.Labels) || !equality.Semantic.DeepEqual(n.hardTaints, hard)
	if moved && old != nil {
		c.index.detach(n)
	}
	n.node = node
	n.allocatable = resourcesOf(node.Status.Allocatable)
	n.hardTaints, n.softTaints = hard, soft
	c.setImages(n, node.Status.Images)
	if moved {
		c.index.attach(n)
	}
	if old == nil || old.Spec.Unschedulable != node.Spec.Unschedulable || ready(old) != ready(node) ||
		!equality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) ||
		!equality.Semantic.DeepEqual(old.Status.Allocatable, node.Status.Allocatable) ||
		!slices.Equal(old.Status.DeclaredFeatures, node.Status.DeclaredFeatures) ||
		!maps.Equal(old.Labels, node.Labels) {
		c.gain(n)
	}
}

func (c *cluster) removeNode(name string) {
	n := c.nodes[name]
	if n == nil || n.node == nil {
		return
	}
	last := c.order[len(c.order)-1]
	c.order[n.index], last.index = last, n.index
	c.order = c.order[:len(c.order)-1]
	c.index.detach(n)
	c.setImages(n, nil)
	n.node = nil
	delete(c.gained, name)
	c.gains++ // a domain less: others may be the emptiest now
	c.forget(n)
}

// forget drops a node that neither exists nor has pods.
func (c *cluster) forget(n *nodeInfo) {
	if n.node == nil && len(n.pods) == 0 {
		delete(c.nodes, n.name)
		c.slots[n.slot] = nil
		c.vacant++
	}
}

// bound takes over a pod that the cache says is on a node and still uses it.
func (c *cluster) bound(pod *corev1.Pod) {
	p := newBoundInfo(pod)
	c.index.pin(p, 1)
	old, on := c.pods[pod.UID], c.node(pod.Spec.NodeName)
	count(c.ranks, p.priority, 1)
	if old == nil {
		c.put(p, on)
		c.pods[pod.UID] = &placed{podInfo: p, on: on}
		return
	}
	count(c.ranks, old.priority, -1)
	// The same pod where it was is no news to those who wait for others.
	same := old.on == on
	c.index.trying = same && old.kin == p.kin
	c.lift(old.podInfo, old.on)
	c.put(p, on)
	c.index.trying = false
	c.index.pin(old.podInfo, -1)
	if !same || shrinks(&old.requests, &p.requests) {
		c.gain(old.on)
	}
	if !same {
		c.forget(old.on)
	}
	c.pods[pod.UID] = &placed{podInfo: p, on: on}
}

// shrinks reports whether now asks for less of anything than before did.
func shrinks(before, now *resources) bool {
	if now.milliCPU < before.milliCPU || now.memory < before.memory || now.storage < before.storage {
		return true
	}
	for name, amount := range before.extended {
		if now.extended[name] < amount {
			return true
		}
	}
	return false
}

// assume puts a pod where it was decided to go, ahead of the write.
func (c *cluster) assume(p *podInfo, n *nodeInfo) {
	c.index.pin(p, 1)
	c.put(p, n)
	count(c.ranks, p.priority, 1)
	c.pods[p.pod.UID] = &placed{podInfo: p, on: n, assumed: true}
}

// release takes a pod off its node: gone, finished, or a decision that failed.
func (c *cluster) release(uid types.UID) {
	p := c.pods[uid]
	if p == nil {
		return
	}
	delete(c.pods, uid)
	c.lift(p.podInfo, p.on)
	c.index.pin(p.podInfo, -1)
	count(c.ranks, p.priority, -1)
	c.gain(p.on)
	c.forget(p.on)
}

// outranks says whether any placed pod has a lower priority.
func (c *cluster) outranks(priority int32) bool {
	for rank := range c.ranks {
		if rank < priority {
			return true
		}
	}
	return false
}

// tidy drops what the index holds beyond its bounds, between decisions.
func (c *cluster) tidy() {
	epoch := c.index.epoch
	if c.index.tidy(); c.index.epoch != epoch {
		clear(c.keepers.known)
	}
}

// gain notes that the node may take more than it could.
func (c *cluster) gain(n *nodeInfo) {
	if n.node != nil {
		c.gains++
		c.gained[n.name] = struct{}{}
	}
}

// put counts a pod in on a node, and lift counts it out again: all that filters
// and scores read. They are each other's exact reverse, in whatever order pods
// are lifted and put back, so whoever wants to know what would be if a pod were
// not there, or were, lifts or puts it, asks, and takes that back; within try, so
// that pods who wait don't hear of it. The pod must be known to the index: placed,
// or prepared since the index was last tidied.
func (c *cluster) put(p *podInfo, n *nodeInfo) {
	n.take(p, 1)
	n.pods[p.pod.UID] = p
	c.index.put(p, n, 1)
}

func (c *cluster) lift(p *podInfo, n *nodeInfo) {
	n.take(p, -1)
	delete(n.pods, p.pod.UID)
	c.index.put(p, n, -1)
}

// try runs what puts and lifts pods and leaves everything as it was.
func (c *cluster) try(what func()) {
	before := c.index.trying
	c.index.trying = true
	what()
	c.index.trying = before
}

// take adds what a pod uses, or with sign -1 subtracts it.
func (n *nodeInfo) take(p *podInfo, sign int64) {
	n.requested.add(&p.requests, sign)
	n.scoredCPU += sign * p.scoredCPU
	n.scoredMemory += sign * p.scoredMemory
	for _, port := range p.ports {
		count(n.ports, port, int(sign))
	}
	n.volumes.use(p, sign)
}

func count[K comparable](m map[K]int, key K, by int) {
	if m[key] += by; m[key] == 0 {
		delete(m, key)
	}
}
