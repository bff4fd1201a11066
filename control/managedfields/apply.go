package managedfields

import (
	"bytes"
	"maps"
	"reflect"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// applied says that applying config in manager's name changes nothing: it is what
// manager applied last, and all of it is there. Controllers apply the same again
// and again. Where it says no, that need not mean that something would change.
func (u *updater) applied(live runtime.Object, config map[string]any, manager string) bool {
	if reflect.TypeOf(live) != u.typ || config["apiVersion"] != u.version || config["kind"] != u.kind {
		return false
	}
	object := live.(metav1.Object)
	own := slices.IndexFunc(object.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool {
		return e.Manager == manager && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == u.subresource &&
			e.APIVersion == u.version && e.FieldsV1 != nil
	})
	if own < 0 {
		return false
	}
	if _, there := object.GetAnnotations()[corev1.LastAppliedConfigAnnotation]; there && manager == "kubectl" {
		return false // upstream keeps the annotation of client-side apply up to date
	}
	rest := maps.Clone(config)
	delete(rest, "apiVersion")
	delete(rest, "kind")
	memory, giveBack := borrow()
	defer giveBack()
	c := comparison{slab: memory}
	fields, ok := c.contains(u.shape, reflect.ValueOf(live).Elem(), rest)
	if !ok {
		return false
	}
	return bytes.Equal(fields.without(u.reset).minus(stripped).appendTo(nil), object.GetManagedFields()[own].FieldsV1.GetRawBytes())
}

// contains says whether a value has all that config says, in config's order, and
// which fields that are.
func (c *comparison) contains(s *shape, v reflect.Value, config any) (set, bool) {
	v = content(v)
	if !v.IsValid() || config == nil {
		return nil, false
	}
	m := c.begin()
	if entries, ok := config.(map[string]any); ok && len(entries) == 0 && (s.form == record || s.form == dictionary) {
		return nil, true // it asks for nothing but to be there
	}
	switch s.form {
	case scalar, whole:
		return nil, equalsConfig(s, v, config)
	case record:
		entries, _ := config.(map[string]any)
		left := len(entries)
		for i := range s.fields {
			f := &s.fields[i]
			entry, there := entries[f.element[len("f:"):]]
			if !there {
				continue
			}
			below, ok := c.contains(f.shape, f.of(v), entry)
			if !ok {
				return nil, false
			}
			left--
			c.open = append(c.open, item{f.element, len(below) == 0, below})
		}
		if left > 0 || entries == nil {
			return nil, false
		}
	case dictionary:
		entries, _ := config.(map[string]any)
		if entries == nil {
			return nil, false
		}
		for _, name := range slices.Sorted(maps.Keys(entries)) {
			below, ok := c.contains(s.items, entry(v, name), entries[name])
			if !ok {
				return nil, false
			}
			c.open = append(c.open, item{"f:" + escape(name), true, below})
		}
	case keyed, values:
		items, _ := config.([]any)
		names := c.names(s, v)
		if len(items) == 0 || len(names) == 0 || repeated(names) {
			return nil, false
		}
		at := 0
		for _, i := range items {
			name, ok := s.nameOf(i)
			if !ok {
				return nil, false
			}
			for at < len(names) && names[at] != name {
				at++
			}
			if at == len(names) {
				return nil, false
			}
			var below set
			if s.form == keyed && s.items.form == record {
				if below, ok = c.contains(s.items, v.Index(at), i); !ok {
					return nil, false
				}
			} else if s.form == keyed && !equalsConfig(s.items, content(v.Index(at)), i) {
				return nil, false
			}
			c.open = append(c.open, item{name, true, below})
			at++
		}
		slices.SortFunc(c.open[m.sets:], func(a, b item) int { return compareElements(a.element, b.element) })
	default:
		return nil, false
	}
	return c.end(m, false, false).setsBelow, true
}

// nameOf is the path element of an item of a configuration; see name.
func (s *shape) nameOf(config any) (string, bool) {
	if s.form == values {
		text, ok := config.(string)
		return "v:" + quote(text), ok
	}
	entries, ok := config.(map[string]any)
	if !ok {
		return "", false
	}
	name := "k:{"
	for i := range s.keys {
		k := &s.keys[i]
		v, there := entries[k.name]
		if !there {
			v = k.standard
		}
		if v == nil {
			return "", false
		}
		if i > 0 {
			name += ","
		}
		name += `\"` + k.name + `\":`
		switch v := v.(type) {
		case string:
			name += quote(v)
		case int64:
			name += strconv.FormatInt(v, 10)
		case bool:
			name += strconv.FormatBool(v)
		default:
			return "", false
		}
	}
	return name + "}", true
}

func repeated(names []string) bool {
	sorted := slices.Sorted(slices.Values(names))
	return len(slices.Compact(sorted)) != len(names)
}

// equalsConfig says that v, which is no null, is in JSON what config says.
func equalsConfig(s *shape, v reflect.Value, config any) bool {
	if !s.converts {
		switch config := config.(type) {
		case string:
			if v.Kind() == reflect.String {
				return v.String() == config
			}
		case int64:
			if v.CanInt() {
				return v.Int() == config
			}
		case bool:
			if v.Kind() == reflect.Bool {
				return v.Bool() == config
			}
		}
	}
	is, err := value.NewValueReflect(pointer(v))
	return err == nil && value.Equals(is, value.NewValueInterface(config))
}
