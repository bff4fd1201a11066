package scheduler

// term is a rule of placed pods about others: an affinity or anti-affinity that
// they carry. It says where its carriers are, and what that means for the pods
// that it selects.
type term struct {
	key       string
	selection *selection
	topology  *topology

	// bars says that somebody may carry it as a required anti-affinity; barring,
	// by domain, how many do.
	bars    bool
	barring []int32
	// favour is the weight, by domain, that carriers give to pods it selects, and
	// required how many carry it as a required affinity: what that is worth is a
	// matter of the profile of the pod that comes.
	favour   []int64
	required []int32

	gains uint64
	pins  int // placed pods that carry it
}

// carried is a pod's own term.
type carried struct {
	selector selector
	topology string
	kind     carriedKind
	weight   int64
	term     *term // once known
}

// carriedKind is what a term does to the pods that it selects.
type carriedKind uint8

const (
	favours  carriedKind = iota // by its weight
	requires                    // the carrier has to be near to them
	bars                        // the carrier has to be apart from them
)

func (x *index) termOf(c *carried) *term {
	key := c.selector.key + "\x03" + c.topology
	if c.kind == bars {
		key += "\x03"
	}
	t := x.terms[key]
	if t == nil {
		t = &term{key: key, selection: x.selection(c.selector), topology: x.topology(c.topology), bars: c.kind == bars, gains: x.tick()}
		x.terms[key] = t
		x.idleTerms++
		t.topology.users++
		t.selection.terms = append(t.selection.terms, t)
		for k := range t.selection.kin {
			x.concern(k, t)
		}
	}
	return t
}

func (x *index) dropTerm(t *term) {
	for k := range t.selection.kin {
		x.release(k, t)
	}
	t.selection.terms = without(t.selection.terms, t)
	t.topology.users--
	delete(x.terms, t.key)
}

func (x *index) pinTerm(t *term, by int) {
	if t.pins == 0 {
		x.idleTerms--
	}
	if t.pins += by; t.pins == 0 {
		x.idleTerms++
	}
}

// concern notes that the term is about the kin.
func (x *index) concern(k *kin, t *term) {
	k.terms = append(k.terms, t)
	if t.bars {
		if k.barring++; k.barring == 1 {
			x.barred = append(x.barred, k)
		}
	}
}

// release undoes concern.
func (x *index) release(k *kin, t *term) {
	k.terms = without(k.terms, t)
	if t.bars {
		k.barring--
	}
}

// add counts a carrier on the node, or with by -1 takes it out.
func (t *term) add(x *index, n *nodeInfo, c *carried, by int32) {
	d := n.domain(t.topology)
	if d == 0 {
		return
	}
	switch c.kind {
	case requires:
		t.required = grown(t.required, d)
		t.required[d] += by
		return
	case favours:
		for len(t.favour) <= int(d) {
			t.favour = append(t.favour, 0)
		}
		t.favour[d] += c.weight * int64(by)
		return
	}
	t.barring = grown(t.barring, d)
	if t.barring[d] += by; t.barring[d] > 0 || x.trying {
		return
	}
	t.gains = x.tick()
	for class := range x.parked {
		if k := class.key.kin; k != nil {
			if _, about := t.selection.kin[k]; about {
				x.heard[class] = struct{}{}
			}
		}
	}
}

func (t *term) bar(domain int32) bool {
	return int(domain) < len(t.barring) && t.barring[domain] > 0
}

// worth is what the term gives to pods that it selects, with what a carrier counts
// that requires it.
func (t *term) worth(domain int32, required int64) (sum int64) {
	if int(domain) < len(t.favour) {
		sum = t.favour[domain]
	}
	if int(domain) < len(t.required) {
		sum += required * int64(t.required[domain])
	}
	return sum
}
