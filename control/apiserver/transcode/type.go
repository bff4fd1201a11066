// Package transcode writes objects in JSON from the protobuf in which they are
// stored, without decoding them: byte for byte what encoding/json writes of the
// decoded object. What an object means is its readers' business, and kinds that
// are not stored in protobuf are not for it.
package transcode

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// form is how a value looks in both notations.
type form uint8

const (
	formString form = iota
	formBool
	formInt
	formBytes
	formMessage
	formInline // a message whose fields are its parent's in JSON
	formTime
	formQuantity
	formIntOrString
	formFields
	formOther // by the type's own methods
)

// Type is a Go type of the API: which of its fields is which in protobuf.
type Type struct {
	fields []field // in the order of JSON
	// index finds a field by its number, -1 where there is none.
	index []int16
	// always are the fields, as bits, that are in the JSON even if nothing of them
	// is in the protobuf.
	always uint64
	// empty is the zero value in JSON.
	empty []byte
}

// fieldsMax is how many have a bit in a word. The largest type, PodSpec, has 42.
const fieldsMax = 64

// field is one of a type's. A type that is a field's, or of which a field has
// several, is its elem.
type field struct {
	quoted    string // the name with its quotes and colon
	number    int
	form      form
	bits      int // of an integer
	signed    bool
	pointer   bool
	repeated  bool
	mapped    bool
	omitEmpty bool
	omitZero  bool
	elem      *Type
	typ       reflect.Type // of the value itself
}

// other is how types that write themselves are read.
type other interface{ Unmarshal([]byte) error }

var (
	typeTime        = reflect.TypeFor[metav1.Time]()
	typeQuantity    = reflect.TypeFor[resource.Quantity]()
	typeIntOrString = reflect.TypeFor[intstr.IntOrString]()
	typeFields      = reflect.TypeFor[metav1.FieldsV1]()
	typeTypeMeta    = reflect.TypeFor[metav1.TypeMeta]()
	typeOther       = reflect.TypeFor[other]()
	typeJSON        = reflect.TypeFor[json.Marshaler]()
	typeText        = reflect.TypeFor[encoding.TextMarshaler]()
)

// errUnknown is about types that are not known well enough to write them.
var errUnknown = errors.New("no JSON from the protobuf of this type")

// Of learns the type of an object, a pointer to a struct. Its TypeMeta, which
// protobuf does not have, is for the caller to write.
func Of(obj any) (*Type, error) {
	typ := reflect.TypeOf(obj)
	if typ.Kind() != reflect.Pointer || typ.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("%w: %s is no pointer to a struct", errUnknown, typ)
	}
	return learn(typ.Elem(), map[reflect.Type]*Type{})
}

// learn reads a struct's tags. Known holds those begun before, as types contain
// themselves.
func learn(typ reflect.Type, known map[reflect.Type]*Type) (*Type, error) {
	if t := known[typ]; t != nil {
		return t, nil
	}
	t := &Type{}
	known[typ] = t
	var err error
	if t.empty, err = json.Marshal(reflect.New(typ).Interface()); err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for i := range typ.NumField() {
		f := typ.Field(i)
		if !f.IsExported() {
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Type == typeTypeMeta && f.Anonymous || name == "-" {
			continue
		}
		learned, err := learnField(f, name, ","+options+",", known)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", typ, f.Name, err)
		}
		for _, name := range namesIn(learned) {
			if names[name] {
				return nil, fmt.Errorf("%w: %s has %s twice", errUnknown, typ, name)
			}
			names[name] = true
		}
		for len(t.index) <= learned.number {
			t.index = append(t.index, -1)
		}
		t.index[learned.number] = int16(len(t.fields))
		t.fields = append(t.fields, learned)
	}
	if len(t.fields) > fieldsMax {
		return nil, fmt.Errorf("%w: %s has %d fields", errUnknown, typ, len(t.fields))
	}
	for i := range t.fields {
		if f := &t.fields[i]; f.form == formInline && f.elem.always != 0 || f.form != formInline && !f.isEmpty(value{}) {
			t.always |= 1 << i
		}
	}
	return t, nil
}

// namesIn are the names that a field has in its parent's JSON.
func namesIn(f field) (names []string) {
	if f.form != formInline {
		return []string{f.quoted}
	}
	for _, inner := range f.elem.fields {
		names = append(names, namesIn(inner)...)
	}
	return names
}

func learnField(sf reflect.StructField, name, options string, known map[reflect.Type]*Type) (f field, err error) {
	inline := sf.Anonymous && name == ""
	if name == "" {
		name = sf.Name
	}
	parts := strings.Split(sf.Tag.Get("protobuf"), ",")
	if len(parts) < 2 {
		return f, fmt.Errorf("%w: not in protobuf", errUnknown)
	}
	if f.number, err = strconv.Atoi(parts[1]); err != nil {
		return f, err
	}
	quoted, err := json.Marshal(name)
	if err != nil {
		return f, err
	}
	f.quoted = string(quoted) + ":"
	f.omitEmpty, f.omitZero = strings.Contains(options, ",omitempty,"), strings.Contains(options, ",omitzero,")
	if strings.Contains(options, ",string,") {
		return f, fmt.Errorf("%w: a number as a string", errUnknown)
	}
	f.typ = sf.Type
	if inline {
		if f.typ.Kind() != reflect.Struct || writesItself(f.typ) {
			return f, fmt.Errorf("%w: embedded %s", errUnknown, f.typ)
		}
		f.form = formInline
		f.elem, err = learn(f.typ, known)
		return f, err
	}
	switch kind := f.typ.Kind(); {
	case kind == reflect.Pointer:
		f.pointer, f.typ = true, f.typ.Elem()
	case readsItself(f.typ): // also lists and maps that are messages of their own
	case kind == reflect.Slice && f.typ.Elem().Kind() != reflect.Uint8:
		f.repeated, f.typ = true, f.typ.Elem()
	case kind == reflect.Map:
		if f.typ.Key().Kind() != reflect.String || writesItself(f.typ.Key()) {
			return f, fmt.Errorf("%w: %s", errUnknown, f.typ)
		}
		f.mapped, f.typ = true, f.typ.Elem()
	}
	if err := f.learnValue(known); err != nil {
		return f, err
	}
	if f.omitZero && (f.form != formTime || f.pointer || f.repeated || f.mapped) {
		return f, fmt.Errorf("%w: omitzero of %s", errUnknown, f.typ)
	}
	return f, nil
}

// learnValue finds the form of a value of f.typ.
func (f *field) learnValue(known map[reflect.Type]*Type) (err error) {
	kind := f.typ.Kind()
	switch {
	case f.typ == typeTime:
		f.form = formTime
	case f.typ == typeQuantity:
		f.form = formQuantity
	case f.typ == typeIntOrString:
		f.form = formIntOrString
	case f.typ == typeFields:
		f.form = formFields
	case readsItself(f.typ) && (kind != reflect.Struct || writesItself(f.typ)):
		f.form = formOther
	case writesItself(f.typ):
		return fmt.Errorf("%w: %s", errUnknown, f.typ)
	case kind == reflect.String:
		f.form = formString
	case kind == reflect.Bool:
		f.form = formBool
	case kind == reflect.Int32 || kind == reflect.Int64:
		f.form, f.bits, f.signed = formInt, f.typ.Bits(), true
	case kind == reflect.Uint32 || kind == reflect.Uint64:
		f.form, f.bits = formInt, f.typ.Bits()
	case kind == reflect.Slice && f.typ.Elem().Kind() == reflect.Uint8:
		f.form = formBytes
	case kind == reflect.Struct:
		f.form = formMessage
		f.elem, err = learn(f.typ, known)
	default:
		return fmt.Errorf("%w: %s", errUnknown, f.typ)
	}
	return err
}

func readsItself(t reflect.Type) bool { return reflect.PointerTo(t).Implements(typeOther) }

func writesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(typeJSON) || p.Implements(typeText)
}
