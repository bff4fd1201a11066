package managedfields

import (
	"encoding/json"
	"strings"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// set is a set of field paths as FieldsV1 writes it: a tree, in canonical order.
// What upstream's fieldpath.Set decodes into values stays text here, and so
// costs a tenth. Sets are never changed once made: they share their parts.
type set []item

// item is a path element, and what is below it.
type item struct {
	// element as it stands between the quotes of the JSON text: `f:spec`,
	// `k:{\"name\":\"web\"}`, `v:\"a\"`.
	element string
	// member says that the path that ends here is in the set.
	member bool
	below  set
}

// parse reads a set that this package or upstream wrote. Anything else, even if
// it means a set, is not ok.
func parse(text string, memory *slab) (s set, ok bool) {
	p := parser{rest: text, slab: memory}
	s, _ = p.object()
	return s, !p.failed && p.rest == ""
}

type parser struct {
	rest   string
	failed bool
	*slab
}

// object reads {...}; self says that it has a ".".
func (p *parser) object() (items set, self bool) {
	if !p.take('{') || p.next('}') {
		return nil, false
	}
	from := len(p.open)
	for {
		element := p.element()
		if !p.take(':') {
			return nil, false
		}
		below, member := p.object()
		switch {
		case p.failed:
			return nil, false
		case element == ".":
			self = true
		case len(element) < 2 || element[1] != ':':
			p.failed = true
		default:
			p.open = append(p.open, item{element, member || len(below) == 0, below})
		}
		if p.next(',') {
			continue
		}
		p.take('}')
		items, p.open = p.keep(p.open[from:]), p.open[:from]
		return items, self
	}
}

// element reads a string without decoding it.
func (p *parser) element() string {
	if !p.take('"') {
		return ""
	}
	for i := 0; i < len(p.rest); i++ {
		switch p.rest[i] {
		case '\\':
			i++
		case '"':
			element := p.rest[:i]
			p.rest = p.rest[i+1:]
			return element
		}
	}
	p.failed = true
	return ""
}

func (p *parser) next(c byte) bool {
	if p.failed || p.rest == "" || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

func (p *parser) take(c byte) bool {
	p.failed = !p.next(c)
	return !p.failed
}

// appendTo writes the set as FieldsV1.
func (s set) appendTo(dst []byte) []byte { return append(s.appendItems(append(dst, '{')), '}') }

func (s set) appendItems(dst []byte) []byte {
	for n, i := range s {
		if n > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, '"'), i.element...), `":{`...)
		if i.member && len(i.below) > 0 {
			dst = append(dst, `".":{},`...)
		}
		dst = append(i.below.appendItems(dst), '}')
	}
	return dst
}

// with is what is in either set.
func (s set) with(t set) set {
	switch {
	case len(s) == 0:
		return t
	case len(t) == 0:
		return s
	}
	all := make(set, 0, len(s)+len(t))
	for len(s) > 0 && len(t) > 0 {
		switch c := compareElements(s[0].element, t[0].element); {
		case c < 0:
			all, s = append(all, s[0]), s[1:]
		case c > 0:
			all, t = append(all, t[0]), t[1:]
		default:
			all = append(all, item{s[0].element, s[0].member || t[0].member, s[0].below.with(t[0].below)})
			s, t = s[1:], t[1:]
		}
	}
	return append(append(all, s...), t...)
}

// minus is s without the paths of t, but with what is below them.
func (s set) minus(t set) set { return s.subtract(t, false) }

// without is s without the paths of t and all that is below them.
func (s set) without(t set) set { return s.subtract(t, true) }

// subtract returns s itself if nothing is taken away.
func (s set) subtract(t set, below bool) set {
	rest, taken := set(nil), false
	for n, i := range s {
		for len(t) > 0 && compareElements(t[0].element, i.element) < 0 {
			t = t[1:]
		}
		left := i
		if len(t) > 0 && t[0].element == i.element {
			left = i.subtract(t[0], below)
		}
		if !taken && (left.member != i.member || len(left.below) != len(i.below) || len(i.below) > 0 && &left.below[0] != &i.below[0]) {
			rest, taken = append(make(set, 0, len(s)), s[:n]...), true
		}
		if taken && (left.member || len(left.below) > 0) {
			rest = append(rest, left)
		}
	}
	if !taken {
		return s
	}
	return rest
}

func (i item) subtract(t item, below bool) item {
	if t.member && below {
		return item{}
	}
	i.member = i.member && !t.member
	i.below = i.below.subtract(t.below, below)
	return i
}

// compareElements is fieldpath.PathElement's order: fields by name, list items
// by their keys, then by their values.
func compareElements(a, b string) int {
	switch {
	case a == b:
		return 0
	case a[0] != b[0]:
		return strings.IndexByte("fkvi", a[0]) - strings.IndexByte("fkvi", b[0])
	case a[0] == 'f' && strings.IndexByte(a, '\\') < 0 && strings.IndexByte(b, '\\') < 0:
		return strings.Compare(a, b)
	}
	if a[0] == 'k' {
		if c := compareKeys(a, b); c != 0 {
			return c
		}
	}
	return pathElement(a).Compare(pathElement(b))
}

// compareKeys compares keys whose names and values are plain strings. 0 says
// that they are not.
func compareKeys(a, b string) int {
	const quote = `\"`
	for {
		p, restA, _ := strings.Cut(a, quote)
		q, restB, _ := strings.Cut(b, quote)
		if p != q {
			return 0 // numbers, or not the same fields
		}
		p, restA, okA := strings.Cut(restA, quote)
		q, restB, okB := strings.Cut(restB, quote)
		if !okA || !okB || strings.IndexByte(p, '\\') >= 0 || strings.IndexByte(q, '\\') >= 0 {
			return 0
		}
		if c := strings.Compare(p, q); c != 0 {
			return c
		}
		a, b = restA, restB
	}
}

// pathElement decodes an element. One that cannot be is in no order; upstream
// refuses it before it gets here.
func pathElement(element string) fieldpath.PathElement {
	var text string
	if err := json.Unmarshal([]byte(`"`+element+`"`), &text); err != nil {
		return fieldpath.PathElement{}
	}
	decoded, _ := fieldpath.DeserializePathElement(text)
	return decoded
}

// newSet is a set of upstream's.
func newSet(from *fieldpath.Set) set {
	text, err := from.ToJSON()
	if err != nil {
		panic("managedfields: " + err.Error())
	}
	s, _ := parse(string(text), &slab{})
	return s
}
