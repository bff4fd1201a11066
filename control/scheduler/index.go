package scheduler

import (
	"cmp"
	"slices"
)

// index knows of every rule about other pods (spreading, affinity) what it asks
// per domain of its topology, so that a filter reads a number where upstream
// walks all pods of all nodes for each pod.
//
//	pod ── kin ── selections ── tallies: how many of them are in each domain
//	         └─── terms: in which domains are pods whose affinity is about them
//
// Rules are interned when a pod that has them is looked at or placed, counted
// once from what is placed, and kept up by put from then on. What no placed or
// parked pod needs is kept for the next pod like it, up to a bound. It
// belongs to the goroutine of its cluster.
type index struct {
	nodes      map[*nodeInfo]struct{} // that exist
	slots      []*topology            // nil: free
	topologies map[string]*topology
	namespaces map[string]*namespace
	kin        map[string]*kin
	selections map[string]*selection
	wide       map[*selection]struct{} // those that look at several namespaces
	tallies    map[string]*tally
	terms      map[string]*term
	scopes     map[string]*scope

	idleKin, idleTallies, idleTerms int
	uses                            uint64
	// epoch changes when something idle was dropped: what was looked up before must
	// be looked up again.
	epoch uint64

	// clock counts changes that may let a pod in that was refused for other pods'
	// sake. Those about parked pods are gathered in news, until the core has
	// heard them. While trying, what is put is lifted again, and is no news.
	clock     uint64
	shiftedAt uint64
	trying    bool
	heard     map[*parkedClass]struct{}
	// barred are kin that a required anti-affinity has come to be about.
	barred []*kin
	// shifted: what a domain is has changed; any pod with rules may gain.
	shifted bool
	parked  map[*parkedClass]struct{} // those with rules or barred kin
}

func newIndex() *index {
	return &index{
		nodes:      make(map[*nodeInfo]struct{}),
		topologies: make(map[string]*topology),
		namespaces: make(map[string]*namespace),
		kin:        make(map[string]*kin),
		selections: make(map[string]*selection),
		wide:       make(map[*selection]struct{}),
		tallies:    make(map[string]*tally),
		terms:      make(map[string]*term),
		scopes:     make(map[string]*scope),
		epoch:      1,
		heard:      make(map[*parkedClass]struct{}),
		parked:     make(map[*parkedClass]struct{}),
	}
}

// know looks up what put needs of a pod.
func (x *index) know(p *podInfo) {
	if p.kin != nil && p.knownAt == x.epoch {
		return
	}
	p.kin, p.knownAt = x.kinOf(p.pod), x.epoch
	for i := range p.carries {
		c := &p.carries[i]
		c.term = x.termOf(c)
	}
}

// pin keeps what a placed pod is counted in from being dropped; by is 1 or -1.
func (x *index) pin(p *podInfo, by int) {
	if by > 0 {
		x.know(p)
	}
	x.pinKin(p.kin, by)
	for i := range p.carries {
		x.pinTerm(p.carries[i].term, by)
	}
}

// put counts a pod that is known in on a node, or with by -1 out.
func (x *index) put(p *podInfo, n *nodeInfo, by int32) {
	if n.node == nil {
		return // attach will count it
	}
	k := p.kin
	if k.on[n] += by; k.on[n] == 0 {
		delete(k.on, n)
	}
	for _, s := range k.selections {
		for _, t := range s.tallies {
			t.add(x, n, by)
		}
	}
	for i := range p.carries {
		p.carries[i].term.add(x, n, &p.carries[i], by)
	}
}

// attach counts in a node that exists, as it is now, with its pods.
func (x *index) attach(n *nodeInfo) {
	x.nodes[n] = struct{}{}
	for _, t := range x.topologies {
		t.join(n)
	}
	for _, s := range x.scopes {
		s.look(n, true)
	}
	for _, t := range x.tallies {
		t.join(n)
	}
	for _, p := range n.pods {
		x.put(p, n, 1)
	}
	x.shift()
}

// detach undoes attach, before the node changes or goes.
func (x *index) detach(n *nodeInfo) {
	for _, p := range n.pods {
		x.put(p, n, -1)
	}
	for _, t := range x.tallies {
		t.leave(n)
	}
	for _, s := range x.scopes {
		s.look(n, false)
	}
	for _, t := range x.topologies {
		t.leave(n)
	}
	delete(x.nodes, n)
	x.shift()
}

// park keeps what a class of parked pods is refused for from being dropped, and
// has it hear of changes there.
func (x *index) park(class *parkedClass, p *podInfo) {
	x.prepare(p)
	for t, cares := range p.tallies() {
		if t.parked == nil {
			t.parked = make(map[*parkedClass]news)
		}
		if _, already := t.parked[class]; !already {
			if t.pins++; t.pins == 1 {
				x.idleTallies--
			}
			class.tallies = append(class.tallies, t)
		}
		t.parked[class] |= cares
	}
	if class.key.kin != nil || len(class.tallies) > 0 {
		x.parked[class] = struct{}{}
	}
}

func (x *index) unpark(class *parkedClass) {
	for _, t := range class.tallies {
		delete(t.parked, class)
		if t.pins--; t.pins == 0 {
			x.idleTallies++
		}
	}
	delete(x.parked, class)
	delete(x.heard, class)
}

// tick moves the clock on.
func (x *index) tick() uint64 {
	x.clock++
	return x.clock
}

// gain notes a change of a tally that may let in who looks at it.
func (x *index) gain(t *tally, what news) {
	if x.trying {
		return
	}
	t.gains = x.tick()
	for class, cares := range t.parked {
		if cares&what != 0 {
			x.heard[class] = struct{}{}
		}
	}
}

// shift notes that domains are not what they were.
func (x *index) shift() {
	x.shiftedAt = x.tick()
	x.shifted = true
}

// gainsOf is the clock at the last change that may have let the pod in for other
// pods' sake.
func (x *index) gainsOf(p *podInfo) uint64 {
	last := x.shiftedAt
	for t := range p.tallies() {
		last = max(last, t.gains)
	}
	if p.kin.barring > 0 {
		for _, t := range p.kin.terms {
			last = max(last, t.gains)
		}
	}
	return last
}

// Bounds of what is kept though nobody needs it now. Looking a rule up again
// costs a walk over the pods that it selects.
const (
	idleKinMost     = 4096
	idleTalliesMost = 1024
	idleTermsMost   = 1024
)

// tidy drops what has been idle longest once there is too much of it. Nothing
// may be put on trial meanwhile.
func (x *index) tidy() {
	if x.idleKin <= idleKinMost && x.idleTallies <= idleTalliesMost && x.idleTerms <= idleTermsMost {
		return
	}
	if x.idleTallies > idleTalliesMost {
		var idle []*tally
		for _, t := range x.tallies {
			if t.pins == 0 {
				idle = append(idle, t)
			}
		}
		slices.SortFunc(idle, func(a, b *tally) int { return cmp.Compare(a.usedAt, b.usedAt) })
		for _, t := range idle[:len(idle)-idleTalliesMost/2] {
			x.dropTally(t)
		}
		x.idleTallies = idleTalliesMost / 2
	}
	for _, t := range x.terms {
		if t.pins == 0 {
			x.dropTerm(t)
		}
	}
	x.idleTerms = 0
	for _, s := range x.selections {
		if len(s.tallies) == 0 && len(s.terms) == 0 {
			x.dropSelection(s)
		}
	}
	for key, s := range x.scopes {
		if s.users == 0 {
			delete(x.scopes, key)
		}
	}
	for _, t := range x.topologies {
		if t.users == 0 {
			x.dropTopology(t)
		}
	}
	for _, k := range x.kin {
		if k.pins == 0 {
			x.dropKin(k)
		}
	}
	x.idleKin = 0
	for name, ns := range x.namespaces {
		if len(ns.labels) == 0 && len(ns.kin) == 0 && len(ns.selections) == 0 {
			delete(x.namespaces, name)
		}
	}
	x.epoch++
}
