package transcode

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"reflect"
	"slices"
	"strconv"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
)

// errForm is about bytes that are not as Kubernetes' own encoders write them.
// Whoever decodes them may still find an object in them.
var errForm = errors.New("protobuf of an unusual form")

// value is what a field has on the wire: a number, or where its bytes are. Of
// several, first to end has them all.
type value struct {
	number     uint64
	first      int // where the first begins, at its tag
	start, end int // the last one's bytes
	count      int
}

// state is what writing one object needs beside the result. Values of nested
// messages lie behind those of the messages around them.
type state struct {
	values  []value
	entries []entry
	merged  []byte
}

// entry is one of a map.
type entry struct {
	key   []byte
	value value
	raw   []byte
}

var states = sync.Pool{New: func() any { return &state{} }}

// Append appends the JSON of the object that raw holds, with apiVersion and kind
// as its first fields if there is a kind.
func (t *Type) Append(b []byte, apiVersion, kind string, raw []byte) ([]byte, error) {
	s := states.Get().(*state)
	defer states.Put(s)
	s.values, s.entries, s.merged = s.values[:0], s.entries[:0], s.merged[:0]
	b = append(b, '{')
	if kind != "" {
		b = appendString(append(b, `"kind":`...), kind)
		b = appendString(append(b, `,"apiVersion":`...), apiVersion)
	}
	b, err := s.message(b, t, raw)
	return append(b, '}'), err
}

// message appends a message's fields, behind the brace that begins its object.
func (s *state) message(b []byte, t *Type, raw []byte) ([]byte, error) {
	base := len(s.values)
	s.values = slices.Grow(s.values, len(t.fields))[:base+len(t.fields)]
	defer func() { s.values = s.values[:base] }()
	present, err := s.find(t, raw, base)
	if err != nil {
		return b, err
	}
	// Most types have many fields of which few are there.
	for left := present | t.always; left != 0; left &= left - 1 {
		i := bits.TrailingZeros64(left)
		var v value
		if present&(1<<i) != 0 {
			v = s.values[base+i]
		}
		if b, err = s.field(b, &t.fields[i], raw, v); err != nil {
			return b, err
		}
	}
	return b, nil
}

// find notes where a message's fields are, and which are there. The values of
// others are left as they are.
func (s *state) find(t *Type, raw []byte, base int) (present uint64, err error) {
	for at := 0; at < len(raw); {
		first := at
		tag, n := varint(raw[at:])
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		at += n
		var v value
		kind := protowire.Type(tag & 7)
		switch kind {
		case protowire.VarintType:
			if v.number, n = varint(raw[at:]); n < 0 {
				return 0, protowire.ParseError(n)
			}
			at += n
		case protowire.BytesType:
			size, n := varint(raw[at:])
			if n < 0 {
				return 0, protowire.ParseError(n)
			}
			v.start = at + n
			if size > uint64(len(raw)-v.start) {
				return 0, errForm
			}
			at = v.start + int(size)
		default:
			return 0, errForm // the API has no other kinds
		}
		number := tag >> 3
		if number == 0 {
			return 0, errForm
		}
		if number >= uint64(len(t.index)) || t.index[number] < 0 {
			continue
		}
		index := t.index[number]
		f := &t.fields[index]
		if numeric := (f.form == formBool || f.form == formInt) && !f.mapped; numeric != (kind == protowire.VarintType) {
			return 0, errForm
		}
		v.first, v.end, v.count = first, at, 1
		if bit := uint64(1) << index; present&bit != 0 {
			before := &s.values[base+int(index)]
			v.first, v.count = before.first, before.count+1
		} else {
			present |= bit
		}
		s.values[base+int(index)] = v
	}
	return present, nil
}

// varint is protowire's, for numbers of one byte without a call.
func varint(b []byte) (uint64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	return protowire.ConsumeVarint(b)
}

// field appends one field, unless it is empty and then left out.
func (s *state) field(b []byte, f *field, raw []byte, v value) ([]byte, error) {
	if f.form == formInline {
		inner, err := s.bytes(f, raw, v)
		if err != nil {
			return b, err
		}
		return s.message(b, f.elem, inner)
	}
	if f.isEmpty(v) {
		return b, nil
	}
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(b, f.quoted...)
	switch {
	case v.count == 0 && (f.pointer || f.repeated || f.mapped || f.form == formBytes):
		return append(b, "null"...), nil
	case f.repeated:
		return s.list(b, f, raw, v)
	case f.mapped:
		return s.dictionary(b, f, raw, v)
	}
	inner, err := s.bytes(f, raw, v)
	if err != nil {
		return b, err
	}
	return s.value(b, f, v.number, inner)
}

// isEmpty says whether the field is left out, as encoding/json would.
func (f *field) isEmpty(v value) bool {
	if f.omitZero && v.start == v.end {
		return true
	}
	if !f.omitEmpty {
		return false
	}
	if v.count == 0 {
		switch f.form {
		case formString, formBool, formInt, formBytes:
			return true
		case formOther:
			return f.pointer || f.repeated || f.mapped || f.typ.Kind() != reflect.Struct
		}
		return f.pointer || f.repeated || f.mapped
	}
	if f.pointer || f.repeated || f.mapped {
		return false
	}
	switch f.form {
	case formString, formBytes:
		return v.start == v.end
	case formOther:
		return v.start == v.end && f.typ.Kind() != reflect.Struct
	case formBool, formInt:
		return v.number == 0
	}
	return false
}

// bytes are those of a field that is not repeated. Of a message that is there
// several times all count: protobuf merges them.
func (s *state) bytes(f *field, raw []byte, v value) ([]byte, error) {
	if v.count > 1 && (f.form == formMessage || f.form == formInline) {
		base := len(s.merged)
		err := each(raw[v.first:v.end], f.number, func(_ uint64, one []byte) error {
			s.merged = append(s.merged, one...)
			return nil
		})
		return s.merged[base:], err
	}
	return raw[v.start:v.end], nil
}

// each calls do with the fields of that number.
func each(raw []byte, want int, do func(number uint64, inner []byte) error) error {
	for len(raw) > 0 {
		number, kind, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return protowire.ParseError(n)
		}
		raw = raw[n:]
		var numeric uint64
		var inner []byte
		if kind == protowire.VarintType {
			numeric, n = protowire.ConsumeVarint(raw)
		} else {
			inner, n = protowire.ConsumeBytes(raw)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		raw = raw[n:]
		if int(number) != want {
			continue
		}
		if err := do(numeric, inner); err != nil {
			return err
		}
	}
	return nil
}

func (s *state) list(b []byte, f *field, raw []byte, v value) (_ []byte, err error) {
	b = append(b, '[')
	begun := false
	err = each(raw[v.first:v.end], f.number, func(number uint64, inner []byte) (err error) {
		if begun {
			b = append(b, ',')
		}
		begun = true
		b, err = s.value(b, f, number, inner)
		return err
	})
	return append(b, ']'), err
}

// Fields of the entries of every map.
const (
	entryKey   = 1
	entryValue = 2
)

// dictionary appends a map, sorted by its keys; of the same key the last counts.
func (s *state) dictionary(b []byte, f *field, raw []byte, v value) ([]byte, error) {
	base := len(s.entries)
	defer func() { s.entries = s.entries[:base] }()
	err := each(raw[v.first:v.end], f.number, func(_ uint64, inner []byte) error {
		var e entry
		for len(inner) > 0 {
			number, kind, n := protowire.ConsumeTag(inner)
			if n < 0 {
				return protowire.ParseError(n)
			}
			inner = inner[n:]
			switch {
			case number == entryValue && kind == protowire.VarintType:
				e.value.number, n = protowire.ConsumeVarint(inner)
			case kind != protowire.BytesType:
				return errForm
			case number == entryKey:
				e.key, n = protowire.ConsumeBytes(inner)
			case number == entryValue:
				e.raw, n = protowire.ConsumeBytes(inner)
			default:
				return errForm
			}
			if n < 0 {
				return protowire.ParseError(n)
			}
			inner = inner[n:]
		}
		s.entries = append(s.entries, e)
		return nil
	})
	if err != nil {
		return b, err
	}
	entries := s.entries[base:]
	byKey := func(a, b entry) int { return bytes.Compare(a.key, b.key) }
	if !slices.IsSortedFunc(entries, byKey) {
		slices.SortStableFunc(entries, byKey)
	}
	b = append(b, '{')
	for i, e := range entries {
		if i+1 < len(entries) && bytes.Equal(entries[i+1].key, e.key) {
			continue
		}
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(appendString(b, e.key), ':')
		if b, err = s.value(b, f, e.value.number, e.raw); err != nil {
			return b, err
		}
	}
	return append(b, '}'), nil
}

// value appends one value of a field, of a list or of a map.
func (s *state) value(b []byte, f *field, number uint64, inner []byte) ([]byte, error) {
	switch f.form {
	case formString:
		return appendString(b, inner), nil
	case formBool:
		return strconv.AppendBool(b, number != 0), nil
	case formInt:
		switch {
		case !f.signed && f.bits == 32:
			return strconv.AppendUint(b, uint64(uint32(number)), 10), nil
		case !f.signed:
			return strconv.AppendUint(b, number, 10), nil
		case f.bits == 32:
			return strconv.AppendInt(b, int64(int32(number)), 10), nil
		}
		return strconv.AppendInt(b, int64(number), 10), nil
	case formBytes:
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, inner)
		return append(b, '"'), nil
	case formMessage:
		if len(inner) == 0 {
			return append(b, f.elem.empty...), nil
		}
		b, err := s.message(append(b, '{'), f.elem, inner)
		return append(b, '}'), err
	case formTime:
		if b, ok := appendTime(b, inner); ok {
			return b, nil
		}
	case formQuantity:
		if b, ok := appendQuantity(b, inner); ok {
			return b, nil
		}
	case formIntOrString:
		if b, ok := appendIntOrString(b, inner); ok {
			return b, nil
		}
	case formFields:
		if b, ok := appendFields(b, inner); ok {
			return b, nil
		}
	}
	zero := reflect.New(f.typ)
	if f.mapped && f.typ.Kind() == reflect.Slice {
		zero.Elem().Set(reflect.MakeSlice(f.typ, 0, 0)) // as generated code begins a map's value
	}
	decoded := zero.Interface()
	if err := decoded.(other).Unmarshal(inner); err != nil {
		return b, fmt.Errorf("decode %s: %w", f.typ, err)
	}
	text, err := json.Marshal(decoded)
	return append(b, text...), err
}
