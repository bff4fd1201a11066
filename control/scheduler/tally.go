package scheduler

import (
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	corev1 "k8s.io/api/core/v1"
)

// tally counts, per domain of a topology, the placed pods that a selection
// selects, on the nodes that are in scope.
type tally struct {
	key       string
	selection *selection
	topology  *topology
	scope     *scope // nil: every node

	count []int32 // by domain
	some  int     // domains with any

	// For spreading, which asks for the emptiest domain that has a node in scope:
	level   bool
	nodes   []int32 // in scope, by domain
	sizes   []int32 // how many such domains hold that many
	least   int32
	domains int // how many such domains there are

	gains  uint64 // the index's clock at the last change that may let a pod in
	pins   int    // parked classes that look at it
	usedAt uint64
	parked map[*parkedClass]news
}

// news is what can happen to a tally that lets in pods who look at it.
type news uint8

const (
	risen  news = 1 << iota // a domain that held none holds one, or the least has risen
	fallen                  // a domain holds fewer (spreading), or none any more
)

func (t *tally) at(domain int32) int32 {
	if int(domain) >= len(t.count) {
		return 0
	}
	return t.count[domain]
}

// add counts pods on the node, or with by below zero takes them out.
func (t *tally) add(x *index, n *nodeInfo, by int32) {
	if t.scope != nil && !t.scope.in[n.slot] {
		return
	}
	d := n.domain(t.topology)
	if d == 0 {
		return
	}
	t.count = grown(t.count, d)
	before := t.count[d]
	now := before + by
	t.count[d] = now
	switch {
	case before == 0:
		t.some++
	case now == 0:
		t.some--
	}
	if !t.level {
		if before == 0 {
			x.gain(t, risen)
		} else if now == 0 {
			x.gain(t, fallen)
		}
		return
	}
	least := t.least
	t.sizes[before]--
	t.hold(now)
	if by < 0 {
		x.gain(t, fallen)
	} else if t.least > least {
		x.gain(t, risen)
	}
}

// hold notes one more domain that holds so many, and finds the least again.
func (t *tally) hold(count int32) {
	t.sizes = grown(t.sizes, count)
	t.sizes[count]++
	t.least = min(t.least, count)
	t.settle()
}

func (t *tally) settle() {
	if t.domains == 0 {
		t.least = 0
		return
	}
	for t.sizes[t.least] == 0 {
		t.least++
	}
}

// join counts the node itself in, before its pods; leave is after them.
func (t *tally) join(n *nodeInfo) {
	d := n.domain(t.topology)
	if !t.level || d == 0 || t.scope != nil && !t.scope.in[n.slot] {
		return
	}
	t.nodes = grown(t.nodes, d)
	t.count = grown(t.count, d)
	if t.nodes[d]++; t.nodes[d] == 1 {
		t.domains++
		t.hold(t.count[d])
	}
}

func (t *tally) leave(n *nodeInfo) {
	d := n.domain(t.topology)
	if !t.level || d == 0 || t.scope != nil && !t.scope.in[n.slot] {
		return
	}
	if t.nodes[d]--; t.nodes[d] == 0 {
		t.domains--
		t.sizes[t.count[d]]--
		t.settle()
	}
}

func grown(s []int32, index int32) []int32 {
	for len(s) <= int(index) {
		s = append(s, 0)
	}
	return s
}

// tallyOf interns a tally and marks it as used just now.
func (x *index) tallyOf(of selector, topologyKey string, sc *scopeRule, level bool) *tally {
	key := of.key + "\x03" + topologyKey
	if level {
		key += "\x03"
	}
	if sc != nil {
		key += "\x04" + sc.key
	}
	x.uses++
	t := x.tallies[key]
	if t == nil {
		t = &tally{key: key, selection: x.selection(of), topology: x.topology(topologyKey), level: level, gains: x.tick()}
		x.tallies[key] = t
		x.idleTallies++
		t.topology.users++
		if sc != nil {
			t.scope = x.scope(sc)
			t.scope.users++
		}
		t.selection.tallies = append(t.selection.tallies, t)
		if level {
			for n := range x.nodes {
				t.join(n)
			}
		}
		for k := range t.selection.kin {
			for n, count := range k.on {
				t.add(x, n, count)
			}
		}
	}
	t.usedAt = x.uses
	return t
}

func (x *index) dropTally(t *tally) {
	t.selection.tallies = without(t.selection.tallies, t)
	t.topology.users--
	if t.scope != nil {
		t.scope.users--
	}
	delete(x.tallies, t.key)
}

// scopeRule is which nodes count for spreading, and its interned form scope
// remembers of each node whether it does.
type scopeRule struct {
	key      string
	keys     []string // labels that a node must have
	required *nodeaffinity.RequiredNodeAffinity
	// taints says that nodes with a taint that is not tolerated do not count.
	taints      bool
	tolerations []corev1.Toleration
}

type scope struct {
	*scopeRule
	in    []bool // by slot of the node
	users int
}

func (s *scope) admits(n *nodeInfo) bool {
	for _, key := range s.keys {
		if _, ok := n.node.Labels[key]; !ok {
			return false
		}
	}
	if s.required != nil {
		if match, _ := s.required.Match(n.node); !match {
			return false
		}
	}
	if s.taints {
		for i := range n.hardTaints {
			if !tolerates(s.tolerations, &n.hardTaints[i]) {
				return false
			}
		}
	}
	return true
}

func (s *scope) look(n *nodeInfo, exists bool) {
	for len(s.in) <= n.slot {
		s.in = append(s.in, false)
	}
	s.in[n.slot] = exists && s.admits(n)
}

func (x *index) scope(rule *scopeRule) *scope {
	if s := x.scopes[rule.key]; s != nil {
		return s
	}
	s := &scope{scopeRule: rule}
	for n := range x.nodes {
		s.look(n, true)
	}
	x.scopes[rule.key] = s
	return s
}
