package transcode

import (
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// The types that objects are full of and that write themselves are written here
// as long as they are as usual; where not, ok is false, and their own methods do
// it.

// plain are the bytes of strings that stand for themselves in JSON.
var plain = func() (table [256]bool) {
	for c := range utf8.RuneSelf {
		table[c] = c >= ' ' && c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return table
}()

// appendString appends a string as encoding/json does, with what HTML might take
// for its own escaped.
func appendString[T string | []byte](b []byte, text T) []byte {
	for i := range len(text) {
		if !plain[text[i]] {
			quoted, err := json.Marshal(string(text))
			if err != nil {
				quoted = []byte(`""`) // strings have no errors
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, text...)
	return append(b, '"')
}

// only is the one field of a message that has no other.
func only(raw []byte, want protowire.Number) (inner []byte, ok bool) {
	number, kind, n := protowire.ConsumeTag(raw)
	if n < 0 || number != want || kind != protowire.BytesType {
		return nil, false
	}
	inner, m := protowire.ConsumeBytes(raw[n:])
	return inner, m >= 0 && n+m == len(raw)
}

// Fields of metav1.Timestamp.
const (
	timeSeconds = 1
	timeNanos   = 2
)

// appendTime appends a metav1.Time, which knows seconds only.
func appendTime(b, raw []byte) ([]byte, bool) {
	if len(raw) == 0 {
		return append(b, "null"...), true
	}
	var seconds uint64
	for len(raw) > 0 {
		number, kind, n := protowire.ConsumeTag(raw)
		if n < 0 || kind != protowire.VarintType || number != timeSeconds && number != timeNanos {
			return b, false
		}
		v, m := protowire.ConsumeVarint(raw[n:])
		if m < 0 {
			return b, false
		}
		if number == timeSeconds {
			seconds = v
		}
		raw = raw[n+m:]
	}
	at := time.Unix(int64(seconds), 0).UTC()
	if at.IsZero() || at.Year() < 1 || at.Year() > 9999 {
		return b, false
	}
	b = append(b, '"')
	b = at.AppendFormat(b, time.RFC3339)
	return append(b, '"'), true
}

// appendQuantity appends the string of a resource.Quantity. It is canonical: it
// was written by the type's own encoder.
func appendQuantity(b, raw []byte) ([]byte, bool) {
	text, ok := only(raw, 1)
	if !ok || len(text) == 0 {
		return b, false
	}
	for _, c := range text {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return b, false
		}
	}
	b = append(b, '"')
	b = append(b, text...)
	return append(b, '"'), true
}

// Fields of intstr.IntOrString, and a value of the first.
const (
	intOrStringType = 1
	intOrStringInt  = 2
	intOrStringText = 3
	intOrStringIs   = 1 // a string
)

func appendIntOrString(b, raw []byte) ([]byte, bool) {
	var is, number uint64
	var text []byte
	for len(raw) > 0 {
		field, kind, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return b, false
		}
		raw = raw[n:]
		switch {
		case field == intOrStringType && kind == protowire.VarintType:
			is, n = protowire.ConsumeVarint(raw)
		case field == intOrStringInt && kind == protowire.VarintType:
			number, n = protowire.ConsumeVarint(raw)
		case field == intOrStringText && kind == protowire.BytesType:
			text, n = protowire.ConsumeBytes(raw)
		default:
			return b, false
		}
		if n < 0 {
			return b, false
		}
		raw = raw[n:]
	}
	switch is {
	case 0:
		return strconv.AppendInt(b, int64(int32(number)), 10), true
	case intOrStringIs:
		return appendString(b, text), true
	}
	return b, false
}

// appendFields appends metav1.FieldsV1, which is JSON already. What encoding/json
// would change in it is left to its own method.
func appendFields(b, raw []byte) ([]byte, bool) {
	text, ok := only(raw, 1)
	if !ok || len(text) < 2 || text[0] != '{' || text[len(text)-1] != '}' {
		return b, false
	}
	for _, c := range text {
		if changed[c] {
			return b, false
		}
	}
	return append(b, text...), true
}

// changed are the bytes that encoding/json may change in JSON that it is given.
var changed = func() (table [256]bool) {
	for c := range table {
		table[c] = c <= ' ' || c >= utf8.RuneSelf || c == '<' || c == '>' || c == '&'
	}
	return table
}()
