package scheduler

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// nominations are the nodes on which room is made, or kept, for pods that wait.
// A nominee counts as if it were on its node for every pod of its own or a lower
// priority, so that none of them takes the room; a higher one may.
type nominations struct {
	index *index
	of    map[types.UID]*nomination
	on    map[string][]*nomination // by node, which need not exist
}

// nomination is of one pod that waits.
type nomination struct {
	*podInfo
	node string // "": it was taken back, and the pod's status does not say so yet
	// told is whether the cache has shown it. Until then the pod's status is older
	// than it; afterwards the status counts, whoever changes it.
	told bool
}

func newNominations(x *index) *nominations {
	return &nominations{index: x, of: make(map[types.UID]*nomination), on: make(map[string][]*nomination)}
}

// node is where room is made for the pod, "" for nowhere.
func (m *nominations) node(uid types.UID) string {
	if it := m.of[uid]; it != nil {
		return it.node
	}
	return ""
}

// set nominates a pod, or with "" takes its nomination back, and returns the
// node that it was nominated to.
func (m *nominations) set(p *podInfo, node string, told bool) (before string) {
	before = m.remove(p.pod.UID)
	if node == "" && told {
		return before // nothing is left to be said
	}
	m.put(&nomination{podInfo: p, node: node, told: told})
	return before
}

func (m *nominations) put(it *nomination) {
	m.index.pin(it.podInfo, 1)
	m.of[it.pod.UID] = it
	if it.node != "" {
		m.on[it.node] = append(m.on[it.node], it)
	}
}

// heed takes over the state of a pod that waits as the cache has it, and returns
// the node that it is nominated to no longer, if there is one.
func (m *nominations) heed(p *podInfo) (lost string) {
	it, says := m.of[p.pod.UID], p.pod.Status.NominatedNodeName
	switch {
	case it == nil && says == "":
	case it == nil, it.told && it.node != says:
		lost = m.set(p, says, true)
	case it.node == says && says == "":
		m.remove(p.pod.UID)
	default:
		m.set(p, it.node, it.told || it.node == says)
	}
	return lost
}

func (m *nominations) remove(uid types.UID) (node string) {
	it := m.of[uid]
	if it == nil {
		return ""
	}
	m.index.pin(it.podInfo, -1)
	delete(m.of, uid)
	if it.node == "" {
		return ""
	}
	rest := slices.DeleteFunc(m.on[it.node], func(o *nomination) bool { return o == it })
	if m.on[it.node] = rest; len(rest) == 0 {
		delete(m.on, it.node)
	}
	return it.node
}

// refuse asks the filters whether the node can take the pod, and does so
// for the node as it is and with those on it who are nominated to it and not of
// lower priority: what the pod needs of others must not hang on pods that may go
// elsewhere in the end.
func (c *cluster) refuse(p *podInfo, n *nodeInfo, reasons []string) ([]string, string) {
	nominees := c.nominations.on[n.name]
	if len(nominees) == 0 {
		return refusal(c.filters, p, n, reasons)
	}
	beside := 0
	for _, it := range nominees {
		if it.priority >= p.priority && it.pod.UID != p.pod.UID {
			c.index.prepare(it.podInfo)
			c.suppose(it.podInfo, n, 1)
			beside++
		}
	}
	reasons, by := refusal(c.filters, p, n, reasons)
	if beside == 0 {
		return reasons, by
	}
	for _, it := range nominees {
		if it.priority >= p.priority && it.pod.UID != p.pod.UID {
			c.suppose(it.podInfo, n, -1)
		}
	}
	if len(reasons) > 0 {
		return reasons, by
	}
	return refusal(c.filters, p, n, reasons)
}

// suppose counts a pod on a node, or with sign -1 not on it, for a question. Whoever
// asks takes it back.
func (c *cluster) suppose(p *podInfo, n *nodeInfo, sign int) {
	c.try(func() {
		if sign > 0 {
			c.put(p, n)
		} else {
			c.lift(p, n)
		}
	})
}
