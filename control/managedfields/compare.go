package managedfields

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// comparison finds what differs between two objects of one shape. Its rules are
// those of typed.Compare, one by one; what it does not know it gives up.
type comparison struct {
	gaveUp bool
	*slab
}

// difference is what one value sets in another, and what it removes: the value
// itself or what is below it.
type difference struct {
	sets, removes         bool
	setsBelow, takesBelow set
}

func (d difference) none() bool {
	return !d.sets && !d.removes && len(d.setsBelow) == 0 && len(d.takesBelow) == 0
}

// mark is where the difference of a value begins.
type mark struct{ sets, takes int }

func (c *comparison) begin() mark { return mark{len(c.open), len(c.openToo)} }

// add adds what was found below element, which comes after those before.
func (c *comparison) add(element string, found difference) {
	if found.sets || len(found.setsBelow) > 0 {
		c.open = append(c.open, item{element, found.sets, found.setsBelow})
	}
	if found.removes || len(found.takesBelow) > 0 {
		c.openToo = append(c.openToo, item{element, found.removes, found.takesBelow})
	}
}

// end is what was found since m.
func (c *comparison) end(m mark, sets, removes bool) difference {
	d := difference{sets, removes, c.keep(c.open[m.sets:]), c.keep(c.openToo[m.takes:])}
	c.open, c.openToo = c.open[:m.sets], c.openToo[:m.takes]
	return d
}

// one is the difference of values that are owned as one.
func one(old, new reflect.Value, equal func() bool) difference {
	switch {
	case !old.IsValid():
		return difference{sets: true}
	case !new.IsValid():
		return difference{removes: true}
	}
	return difference{sets: !equal()}
}

// compare compares two values, of which one may be the zero reflect.Value: not
// there. A nil pointer, map or slice that is there is a null.
func (c *comparison) compare(s *shape, old, new reflect.Value) difference {
	switch s.form {
	case scalar:
		return one(old, new, func() bool { return equalScalars(s, old, new) })
	case whole:
		return one(old, new, func() bool { return equalWholes(old, new) })
	case record:
		return c.records(s, old, new)
	case dictionary:
		return c.dictionaries(s, old, new)
	case keyed, values:
		return c.lists(s, old, new)
	}
	c.gaveUp = true
	return difference{}
}

func (c *comparison) records(s *shape, old, new reflect.Value) difference {
	from, to, m := content(old), content(new), c.begin()
	empty := true
	for i := range s.fields {
		f := &s.fields[i]
		was, is := f.of(from), f.of(to)
		if !was.IsValid() && !is.IsValid() {
			continue
		}
		empty = false
		if found := c.compare(f.shape, was, is); !found.none() {
			c.add(f.element, found)
		}
	}
	if empty {
		return one(old, new, func() bool { return from.IsValid() == to.IsValid() })
	}
	return c.end(m, !old.IsValid(), !new.IsValid())
}

// content is what a value that is there holds; the zero Value for a null.
func content(v reflect.Value) reflect.Value {
	for v.IsValid() && v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.IsValid() && (v.Kind() == reflect.Map || v.Kind() == reflect.Slice) && v.IsNil() {
		return reflect.Value{}
	}
	return v
}

// of is the field of a struct, or the zero Value if it is left out.
func (f *field) of(v reflect.Value) reflect.Value {
	if !v.IsValid() {
		return v
	}
	for _, i := range f.index {
		v = v.Field(i)
	}
	if f.emptyLeftOut && isEmpty(v) || f.zero != nil && f.zero(v) {
		return reflect.Value{}
	}
	return v
}

func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String, reflect.Slice, reflect.Map, reflect.Array:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

func (c *comparison) dictionaries(s *shape, old, new reflect.Value) difference {
	from, to, m := content(old), content(new), c.begin()
	if length(from) == 0 && length(to) == 0 {
		return one(old, new, func() bool { return from.IsValid() == to.IsValid() })
	}
	names := make([]string, 0, length(from)+length(to))
	for _, v := range []reflect.Value{from, to} {
		if !v.IsValid() {
			continue
		}
		for each := v.MapRange(); each.Next(); {
			names = append(names, each.Key().String())
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if found := c.compare(s.items, entry(from, name), entry(to, name)); !found.none() {
			c.add("f:"+escape(name), found)
		}
	}
	return c.end(m, !old.IsValid(), !new.IsValid())
}

func length(v reflect.Value) int {
	if !v.IsValid() {
		return 0
	}
	return v.Len()
}

func entry(m reflect.Value, name string) reflect.Value {
	if !m.IsValid() {
		return m
	}
	return m.MapIndex(reflect.ValueOf(name).Convert(m.Type().Key()))
}

// lists compares lists whose items have an identity. An item that is there twice
// has rules of its own, which are left to upstream.
func (c *comparison) lists(s *shape, old, new reflect.Value) difference {
	from, to := content(old), content(new)
	if length(from) == 0 && length(to) == 0 {
		return one(old, new, func() bool { return from.IsValid() == to.IsValid() })
	}
	if length(from) == length(to) && s.inStep(from, to) {
		return c.itemByItem(s, from, to)
	}
	return c.paired(s, old, new)
}

// itemByItem compares lists in step. Mostly no item came or went, and their names
// are only worth making if something differs.
func (c *comparison) itemByItem(s *shape, from, to reflect.Value) difference {
	n := from.Len()
	found := make([]difference, 0, n)
	same := true
	for i := range n {
		var f difference
		if s.form == keyed {
			f = c.compare(s.items, from.Index(i), to.Index(i))
		}
		same = same && f.none()
		found = append(found, f)
	}
	if same {
		return difference{}
	}
	names := c.names(s, to)
	if c.gaveUp {
		return difference{}
	}
	m := c.begin()
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return compareElements(names[i], names[j]) })
	for n, i := range order {
		c.gaveUp = c.gaveUp || n > 0 && names[i] == names[order[n-1]]
		if !found[i].none() {
			c.add(names[i], found[i])
		}
	}
	return c.end(m, false, false)
}

// paired compares the items of two lists that have the same name.
func (c *comparison) paired(s *shape, old, new reflect.Value) difference {
	from, to := content(old), content(new)
	olds, news := c.names(s, from), c.names(s, to)
	type pair struct {
		name    string
		was, is reflect.Value
	}
	pairs := make([]pair, 0, len(olds)+len(news))
	at := make(map[string]int, len(pairs))
	for i, name := range olds {
		at[name] = i
		pairs = append(pairs, pair{name: name, was: from.Index(i)})
	}
	c.gaveUp = c.gaveUp || len(at) != len(olds)
	for i, name := range news {
		j, both := at[name]
		if !both {
			j = len(pairs)
			at[name] = j
			pairs = append(pairs, pair{name: name})
		}
		c.gaveUp = c.gaveUp || pairs[j].is.IsValid()
		pairs[j].is = to.Index(i)
	}
	if c.gaveUp {
		return difference{}
	}
	m := c.begin()
	slices.SortFunc(pairs, func(a, b pair) int { return compareElements(a.name, b.name) })
	for _, p := range pairs {
		found := difference{sets: !p.was.IsValid(), removes: !p.is.IsValid()}
		if s.form == keyed {
			found = c.compare(s.items, p.was, p.is)
		}
		if !found.none() {
			c.add(p.name, found)
		}
	}
	return c.end(m, !old.IsValid(), !new.IsValid())
}

// inStep says that two lists of one length have the same items in one order.
func (s *shape) inStep(from, to reflect.Value) bool {
	for i := range from.Len() {
		a, b := content(from.Index(i)), content(to.Index(i))
		if s.form == values {
			if !a.IsValid() || !b.IsValid() || a.String() != b.String() {
				return false
			}
			continue
		}
		for k := range s.keys {
			was, is := s.keys[k].of(a), s.keys[k].of(b)
			if was.IsValid() != is.IsValid() || was.IsValid() && !equalScalars(s.keys[k].shape, was, is) {
				return false
			}
		}
	}
	return true
}

// names are the path elements of a list's items.
func (c *comparison) names(s *shape, list reflect.Value) []string {
	if !list.IsValid() {
		return nil
	}
	names := make([]string, 0, list.Len())
	for i := range list.Len() {
		name, ok := s.name(content(list.Index(i)))
		if !ok {
			c.gaveUp = true
			return nil
		}
		names = append(names, name)
	}
	return names
}

// name is the path element of an item.
func (s *shape) name(of reflect.Value) (string, bool) {
	if !of.IsValid() {
		return "", false
	}
	if s.form == values {
		return "v:" + quote(of.String()), true
	}
	name := make([]byte, 0, 64)
	for i := range s.keys {
		k := &s.keys[i]
		v := k.of(of)
		if !v.IsValid() {
			if k.standard == nil {
				continue
			}
			v = reflect.ValueOf(k.standard)
		}
		if v = content(v); !v.IsValid() {
			return "", false
		}
		if len(name) > 0 {
			name = append(name, ',')
		}
		name = append(append(append(name, `\"`...), k.name...), `\":`...)
		switch {
		case v.Kind() == reflect.String:
			name = append(name, quote(v.String())...)
		case v.Kind() == reflect.Bool:
			name = strconv.AppendBool(name, v.Bool())
		case v.CanInt():
			name = strconv.AppendInt(name, v.Int(), 10)
		default:
			return "", false
		}
	}
	return "k:{" + string(name) + "}", len(name) > 0
}

// quote is a string as JSON, once more escaped as part of a JSON string.
func quote(s string) string {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			text, _ := fieldpath.SerializePathElement(fieldpath.ValueElement(value.NewValueInterface(s)))
			return escape(text[len("v:"):])
		}
	}
	return `\"` + s + `\"`
}

// escape is what s is within the quotes of a JSON string, as upstream's encoder
// has it.
func escape(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' }) < 0 {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteString(`\` + string(c))
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\t':
			b.WriteString(`\t`)
		case c < ' ':
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
