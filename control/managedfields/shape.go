package managedfields

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// shape is how values of one Go type are owned under one type of the schema:
// what the two say together, found out once.
type shape struct {
	form form
	// fields of a record, in the order of their names.
	fields []field
	// items is the shape of what is in a dictionary or keyed list.
	items *shape
	// keys are the fields that identify an item of a keyed list, by name.
	keys []key
	// converts says that a scalar is not in JSON what it is in Go.
	converts bool
}

type form uint8

const (
	// unknown is what this package leaves to upstream.
	unknown form = iota
	// scalar and whole values have one owner.
	scalar
	whole
	// Each field of a record has owners of its own, each entry of a dictionary,
	// each item of a keyed list, each of several distinct values.
	record
	dictionary
	keyed
	values
)

type field struct {
	element string // `f:name`
	index   []int
	shape   *shape
	// emptyLeftOut and zero say when the field is not there at all.
	emptyLeftOut bool
	zero         func(reflect.Value) bool
}

type key struct {
	field
	name string
	// standard is the value of a key that is not there, or nil.
	standard any
}

// shapeOf finds the shape of an object of type t, a struct, whose schema is that
// of like.
func shapeOf(t reflect.Type, like *typed.TypedValue) *shape {
	f := finder{like.Schema(), map[any]*shape{}}
	s := f.find(t, like.TypeRef())
	if s.form != record {
		return s
	}
	// Type and managed fields belong to nobody.
	object := *s
	object.fields = slices.DeleteFunc(slices.Clone(s.fields), func(f field) bool { return f.element == "f:apiVersion" || f.element == "f:kind" })
	for i, f := range object.fields {
		if f.element == "f:metadata" {
			metadata := *f.shape
			metadata.fields = slices.DeleteFunc(slices.Clone(metadata.fields), func(f field) bool { return f.element == "f:managedFields" })
			object.fields[i].shape = &metadata
		}
	}
	return &object
}

// leaving is the shape without the top fields that are in reset: they need not be
// compared.
func (s *shape) leaving(reset set) *shape {
	rest := *s
	rest.fields = slices.DeleteFunc(slices.Clone(s.fields), func(f field) bool {
		return slices.ContainsFunc(reset, func(i item) bool { return i.element == f.element && i.member })
	})
	return &rest
}

type finder struct {
	schema *schema.Schema
	// found are shapes by Go type and named type: types may contain themselves.
	found map[any]*shape
}

func (f finder) find(t reflect.Type, ref schema.TypeRef) *shape {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	s := &shape{}
	if ref.NamedType != nil {
		id := struct {
			t     reflect.Type
			name  string
			owned schema.ElementRelationship
		}{t: t, name: *ref.NamedType}
		if ref.ElementRelationship != nil {
			id.owned = *ref.ElementRelationship
		}
		if found := f.found[id]; found != nil {
			return found
		}
		f.found[id] = s
	}
	atom, ok := f.schema.Resolve(ref)
	if !ok {
		return s
	}
	converts := value.TypeReflectEntryOf(t).CanConvertToUnstructured()
	switch {
	case atom.Scalar != nil && atom.List == nil && atom.Map == nil:
		if converts || isScalar(t) {
			s.form, s.converts = scalar, converts
		}
	case converts, atom.Scalar != nil, atom.List != nil && atom.Map != nil:
		// One of several forms, by value.
	case atom.List != nil:
		f.list(s, t, atom.List)
	case atom.Map != nil && atom.Map.ElementRelationship == schema.Atomic:
		s.form = whole
	case atom.Map != nil && t.Kind() == reflect.Map && t.Key().Kind() == reflect.String:
		s.form, s.items = dictionary, f.find(t.Elem(), atom.Map.ElementType)
	case atom.Map != nil && t.Kind() == reflect.Struct:
		s.form = record
		for _, from := range fieldsOf(t, nil) {
			from.shape = &shape{}
			if known, ok := atom.Map.FindField(from.element[2:]); ok {
				from.shape = f.find(t.FieldByIndex(from.index).Type, known.Type)
			}
			s.fields = append(s.fields, from)
		}
		slices.SortFunc(s.fields, func(a, b field) int { return cmp.Compare(a.element, b.element) })
	}
	return s
}

func (f finder) list(s *shape, t reflect.Type, list *schema.List) {
	switch {
	case t.Kind() != reflect.Slice:
	case list.ElementRelationship == schema.Atomic:
		s.form = whole
	case list.ElementRelationship != schema.Associative:
	case len(list.Keys) == 0:
		if t.Elem().Kind() == reflect.String {
			s.form = values
		}
	default:
		s.items = f.find(t.Elem(), list.ElementType)
		atom, _ := f.schema.Resolve(list.ElementType)
		item := t.Elem()
		if item.Kind() != reflect.Struct || atom.Map == nil || s.items.form == unknown {
			return
		}
		for _, name := range list.Keys {
			known, ok := atom.Map.FindField(name)
			fields := fieldsOf(item, nil)
			i := slices.IndexFunc(fields, func(f field) bool { return f.element == "f:"+name })
			if !ok || i < 0 {
				return
			}
			k := key{fields[i], name, known.Default}
			if k.shape = f.find(item.FieldByIndex(k.index).Type, known.Type); k.shape.form != scalar || k.shape.converts {
				return
			}
			s.keys = append(s.keys, k)
		}
		slices.SortFunc(s.keys, func(a, b key) int { return cmp.Compare(a.name, b.name) })
		s.form = keyed
	}
}

// fieldsOf are the JSON fields of a struct, embedded ones among them, as
// structured-merge-diff sees them.
func fieldsOf(t reflect.Type, prefix []int) []field {
	var fields []field
	for i := range t.NumField() {
		from := t.Field(i)
		name, rest, _ := strings.Cut(from.Tag.Get("json"), ",")
		options := strings.Split(rest, ",")
		index := append(slices.Clone(prefix), i)
		switch {
		case name == "-" || from.PkgPath != "" && !from.Anonymous:
		case from.Anonymous && name == "":
			if from.Type.Kind() == reflect.Struct {
				fields = append(fields, fieldsOf(from.Type, index)...)
			}
		default:
			f := field{element: "f:" + cmp.Or(name, from.Name), index: index, emptyLeftOut: slices.Contains(options, "omitempty")}
			if slices.Contains(options, "omitzero") {
				f.zero = value.OmitZeroFunc(from.Type)
			}
			fields = append(fields, f)
		}
	}
	return fields
}

func isScalar(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Float32, reflect.Float64:
		return true
	case reflect.Slice:
		return t.Elem().Kind() == reflect.Uint8
	}
	return false
}
