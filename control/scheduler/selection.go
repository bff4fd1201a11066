package scheduler

import (
	"crypto/sha256"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// selector is which pods a rule is about.
type selector struct {
	key string
	// A pod is selected if all parts select it.
	parts []selectorPart
	// leaving pods are selected too.
	leaving bool
}

type selectorPart struct {
	namespaces []string        // by name; sorted
	among      labels.Selector // or by their labels; nil: none
	labels     labels.Selector
}

func newSelector(leaving bool, parts ...selectorPart) selector {
	var b strings.Builder
	if leaving {
		b.WriteByte('+')
	}
	for _, p := range parts {
		b.WriteString(strings.Join(p.namespaces, ","))
		if p.among != nil {
			b.WriteByte(0)
			b.WriteString(p.among.String())
		}
		b.WriteString("\x01")
		if _, selectable := p.labels.Requirements(); selectable {
			b.WriteString(p.labels.String())
		} else {
			b.WriteByte(0) // nothing, which prints as everything does
		}
		b.WriteString("\x02")
	}
	return selector{key: short(b.String()), parts: parts, leaving: leaving}
}

// short is a key that is kept many times over, as itself or, where that is long, as
// its digest.
func short(key string) string {
	if len(key) <= 8*sha256.Size {
		return key
	}
	digest := sha256.Sum256([]byte(key))
	return string(digest[:])
}

// matches pods with these labels in a namespace with those.
func (s *selector) matches(namespace string, of, podLabels labels.Set) bool {
	for _, p := range s.parts {
		if _, named := slices.BinarySearch(p.namespaces, namespace); !named && (p.among == nil || !p.among.Matches(of)) {
			return false
		}
		if !p.labels.Matches(podLabels) {
			return false
		}
	}
	return len(s.parts) > 0
}

// selection is an interned selector with the kin that it selects, and what is
// counted of them.
type selection struct {
	selector
	kin     map[*kin]struct{}
	tallies []*tally
	terms   []*term
}

// namespace is one as selectors see it.
type namespace struct {
	labels     labels.Set
	kin        map[*kin]struct{}
	selections map[*selection]struct{} // that look at this namespace alone
}

func (x *index) namespace(name string) *namespace {
	p := x.namespaces[name]
	if p == nil {
		p = &namespace{kin: make(map[*kin]struct{}), selections: make(map[*selection]struct{})}
		x.namespaces[name] = p
	}
	return p
}

// home is the only namespace that a selector looks at, "" when there are more.
func (s *selector) home() string {
	for _, p := range s.parts {
		if p.among == nil && len(p.namespaces) == 1 {
			return p.namespaces[0]
		}
	}
	return ""
}

func (x *index) selection(of selector) *selection {
	if s := x.selections[of.key]; s != nil {
		return s
	}
	s := &selection{selector: of, kin: make(map[*kin]struct{})}
	x.selections[of.key] = s
	if home := of.home(); home != "" {
		ns := x.namespace(home)
		ns.selections[s] = struct{}{}
		for k := range ns.kin {
			x.meet(k, s)
		}
		return s
	}
	x.wide[s] = struct{}{}
	for _, k := range x.kin {
		x.meet(k, s)
	}
	return s
}

func (x *index) dropSelection(s *selection) {
	for k := range s.kin {
		k.selections = without(k.selections, s)
	}
	if home := s.home(); home != "" {
		delete(x.namespace(home).selections, s)
	} else {
		delete(x.wide, s)
	}
	delete(x.selections, s.key)
}

// meet holds a selector against kin, and counts what is there if it has begun, or
// ceased, to select them.
func (x *index) meet(k *kin, s *selection) {
	_, before := s.kin[k]
	now := (s.leaving || !k.leaving) && s.matches(k.namespace, x.namespace(k.namespace).labels, k.labels)
	if before == now {
		return
	}
	by := int32(1)
	if now {
		s.kin[k] = struct{}{}
		k.selections = append(k.selections, s)
		for _, t := range s.terms {
			x.concern(k, t)
		}
	} else {
		by = -1
		delete(s.kin, k)
		k.selections = without(k.selections, s)
		for _, t := range s.terms {
			x.release(k, t)
		}
	}
	for n, count := range k.on {
		for _, t := range s.tallies {
			t.add(x, n, by*count)
		}
	}
}

// setNamespace takes over a namespace's labels, which selectors of namespaces go by.
func (x *index) setNamespace(name string, to labels.Set) {
	p := x.namespace(name)
	if labels.Equals(p.labels, to) {
		return
	}
	p.labels = to
	for k := range p.kin {
		for s := range p.selections {
			x.meet(k, s)
		}
		for s := range x.wide {
			x.meet(k, s)
		}
	}
	x.shift()
}

func without[T comparable](list []T, item T) []T {
	if i := slices.Index(list, item); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}
