package scheduler

// topology is a node label that divides the nodes into domains: zone, host
// name. Domains are numbered, from 1, so that what is counted per domain lies in
// slices; 0 stands for nodes without the label. A number is given away again
// when its last node is gone.
type topology struct {
	key   string // the label, "" for the topology in which each node is a domain
	slot  int    // where nodes keep their domain
	ids   map[string]int32
	nodes []int32 // how many nodes are in each domain
	free  []int32
	users int // tallies and terms
}

// value is what tells the domain of a node; false when it is in none.
func (t *topology) value(n *nodeInfo) (string, bool) {
	if t.key == "" {
		return n.name, true
	}
	v, ok := n.node.Labels[t.key]
	return v, ok
}

// join numbers the node's domain and counts the node in.
func (t *topology) join(n *nodeInfo) {
	v, ok := t.value(n)
	if !ok {
		return
	}
	id := t.ids[v]
	if id == 0 {
		if last := len(t.free) - 1; last >= 0 {
			id, t.free = t.free[last], t.free[:last]
		} else {
			id = int32(len(t.nodes))
			t.nodes = append(t.nodes, 0)
		}
		t.ids[v] = id
	}
	t.nodes[id]++
	n.setDomain(t.slot, id)
}

// leave undoes join. The node is still what it was when it joined.
func (t *topology) leave(n *nodeInfo) {
	id := n.domain(t)
	if id == 0 {
		return
	}
	n.setDomain(t.slot, 0)
	if t.nodes[id]--; t.nodes[id] == 0 {
		v, _ := t.value(n)
		delete(t.ids, v)
		t.free = append(t.free, id)
	}
}

// domain is the number of the node's domain, 0 for none.
func (n *nodeInfo) domain(t *topology) int32 {
	if t.slot >= len(n.domains) {
		return 0
	}
	return n.domains[t.slot]
}

func (n *nodeInfo) setDomain(slot int, id int32) {
	for len(n.domains) <= slot {
		n.domains = append(n.domains, 0)
	}
	n.domains[slot] = id
}

// topology interns a key; whoever keeps it counts itself among the users.
func (x *index) topology(key string) *topology {
	if t := x.topologies[key]; t != nil {
		return t
	}
	t := &topology{key: key, slot: len(x.slots), ids: make(map[string]int32), nodes: make([]int32, 1)}
	for i, other := range x.slots {
		if other == nil {
			t.slot = i
			break
		}
	}
	if t.slot == len(x.slots) {
		x.slots = append(x.slots, nil)
	}
	x.slots[t.slot] = t
	x.topologies[key] = t
	for n := range x.nodes {
		t.join(n)
	}
	return t
}

func (x *index) dropTopology(t *topology) {
	for n := range x.nodes {
		t.leave(n)
	}
	x.slots[t.slot] = nil
	delete(x.topologies, t.key)
}
