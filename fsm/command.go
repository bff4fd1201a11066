package fsm

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/musterhq/muster/fsm/kv"
)

var (
	// ErrUnreadable says that the bytes are no command.
	ErrUnreadable = errors.New("unreadable command in the log")
	// ErrUnknown says that a newer Muster wrote the command: this one would
	// do only a part of it.
	ErrUnknown = errors.New("unknown command in the log: a newer muster wrote it, start that version")
)

// Field numbers of storage.v1, as command.go and nothing else reads them.
const (
	commandTxn      = 1
	commandCompact  = 2
	commandReplace  = 3
	txnGuards       = 1
	txnOps          = 2
	guardKey        = 1
	guardRevision   = 2
	guardExists     = 3
	opPut           = 1
	opDelete        = 2
	putKey          = 1
	putValue        = 2
	putLabels       = 3
	putFields       = 4
	deleteKey       = 1
	attrName        = 1
	attrValue       = 2
	compactRevision = 1
	replacePieces   = 1
	replaceSum      = 2
	replaceKeep     = 3
	replaceAhead    = 4
)

// command is a Command read in full: a compaction, a replacement, or guards
// and ops, which are ranges of the batch's.
type command struct {
	compact              bool
	replace              *replacement
	upTo                 uint64 // what to compact
	guardsFrom, guardsTo int
	opsFrom, opsTo       int
}

type guard struct {
	key      []byte // points into the command
	revision uint64
	exists   bool
}

// op puts key, or deletes it.
type op struct {
	kind                 opKind
	key, value           []byte // point into the command
	labelsFrom, labelsTo int    // of the batch's
	fieldsFrom, fieldsTo int
}

type opKind byte

const (
	opNone opKind = iota
	opIsPut
	opIsDelete
)

// reader reads commands in protobuf's wire format into a batch, without the
// generated structs, which take three times as many allocations and a copy of
// each value too many. It takes and refuses what they would, as protobuf has it:
// of a field that comes twice the last counts, messages that come twice are
// one, and what is unknown may stand anywhere. FuzzCommand compares the two.
type reader struct {
	*batch
	interned interner
	unknown  bool // inside the command; outside it, see command
}

// errMalformed is what protobuf would not read either.
var errMalformed = errors.New("not in protobuf's wire format")

// read is everything about a command that can fail, before anything changes.
// What it appends to the batch is only good if it returns no error.
func (r *reader) read(cmd []byte) (command, error) {
	cmd, err := readNewer(cmd)
	if err != nil {
		return command{}, err
	}
	c := command{guardsFrom: len(r.guards), opsFrom: len(r.ops)}
	var txn, compact, stranger bool
	r.unknown = false
	err = eachField(cmd, func(f field) error {
		switch {
		case f.number == commandTxn && f.isBytes():
			txn = true
			return r.txn(f.bytes)
		case f.number == commandCompact && f.isBytes():
			compact = true
			return r.compact(f.bytes, &c)
		case f.number == commandReplace && f.isBytes():
			return r.replace(f.bytes, &c)
		}
		stranger = true
		return nil
	})
	switch {
	case err != nil:
		return command{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	case stranger:
		return command{}, fmt.Errorf("%w: it has fields that this version of muster does not know", ErrUnknown)
	case txn && compact, c.replace != nil && (txn || compact):
		return command{}, fmt.Errorf("%w: it is two commands", ErrUnreadable)
	case !txn && !compact && c.replace == nil:
		return command{}, fmt.Errorf("%w: this version of muster knows txn, compact and replace", ErrUnknown)
	case r.unknown:
		return command{}, fmt.Errorf("%w: there are fields or operations inside that this version of muster does not know", ErrUnknown)
	}
	c.compact = compact
	c.guardsTo, c.opsTo = len(r.guards), len(r.ops)
	for i := c.opsFrom; i < c.opsTo; i++ {
		o := &r.ops[i]
		o.labelsTo = o.labelsFrom + len(sorted(r.labels[o.labelsFrom:o.labelsTo]))
		o.fieldsTo = o.fieldsFrom + len(sorted(r.fields[o.fieldsFrom:o.fieldsTo]))
	}
	return c, nil
}

func (r *reader) compact(b []byte, c *command) error {
	return eachField(b, func(f field) error {
		if f.number == compactRevision && f.isVarint() {
			c.upTo = f.varint
		} else {
			r.unknown = true
		}
		return nil
	})
}

func (r *reader) txn(b []byte) error {
	return eachField(b, func(f field) error {
		switch {
		case f.number == txnGuards && f.isBytes():
			return r.guard(f.bytes)
		case f.number == txnOps && f.isBytes():
			return r.op(f.bytes)
		}
		r.unknown = true
		return nil
	})
}

func (r *reader) guard(b []byte) error {
	var g guard
	err := eachField(b, func(f field) error {
		switch {
		case f.number == guardKey && f.isBytes():
			g.key = f.bytes
		case f.number == guardRevision && f.isVarint():
			g.revision = f.varint
		case f.number == guardExists && f.isVarint():
			g.exists = protowire.DecodeBool(f.varint)
		default:
			r.unknown = true
		}
		return nil
	})
	r.guards = append(r.guards, g)
	return err
}

func (r *reader) op(b []byte) error {
	o := op{labelsFrom: len(r.labels), fieldsFrom: len(r.fields)}
	// Of a put and a delete the last counts, and the other, with what may be
	// unknown in it, was never there.
	inside := false
	become := func(kind opKind) {
		if o.kind != kind {
			r.labels, r.fields = r.labels[:o.labelsFrom], r.fields[:o.fieldsFrom]
			o, inside = op{kind: kind, labelsFrom: o.labelsFrom, fieldsFrom: o.fieldsFrom}, false
		}
	}
	err := eachField(b, func(f field) error {
		switch {
		case f.number == opPut && f.isBytes():
			become(opIsPut)
			return r.put(f.bytes, &o, &inside)
		case f.number == opDelete && f.isBytes():
			become(opIsDelete)
			return eachField(f.bytes, func(f field) error {
				if f.number == deleteKey && f.isBytes() {
					o.key = f.bytes
				} else {
					inside = true
				}
				return nil
			})
		}
		r.unknown = true
		return nil
	})
	r.unknown = r.unknown || inside || o.kind == opNone
	o.labelsTo, o.fieldsTo = len(r.labels), len(r.fields)
	r.ops = append(r.ops, o)
	return err
}

func (r *reader) put(b []byte, o *op, unknown *bool) error {
	return eachField(b, func(f field) (err error) {
		switch {
		case f.number == putKey && f.isBytes():
			o.key = f.bytes
		case f.number == putValue && f.isBytes():
			o.value = f.bytes
		case f.number == putLabels && f.isBytes():
			r.labels, err = r.attr(r.labels, f.bytes, unknown)
		case f.number == putFields && f.isBytes():
			r.fields, err = r.attr(r.fields, f.bytes, unknown)
		default:
			*unknown = true
		}
		return err
	})
}

func (r *reader) attr(to kv.Attrs, b []byte, unknown *bool) (kv.Attrs, error) {
	var a kv.Attr
	err := eachField(b, func(f field) error {
		switch {
		case f.number == attrName && f.isBytes() && utf8.Valid(f.bytes):
			a.Name = r.interned.intern(f.bytes)
		case f.number == attrValue && f.isBytes() && utf8.Valid(f.bytes):
			a.Value = r.interned.intern(f.bytes)
		case (f.number == attrName || f.number == attrValue) && f.isBytes():
			return errors.New("a label or field is not UTF-8")
		default:
			*unknown = true
		}
		return nil
	})
	return append(to, a), err
}

// field is a field of a message: a number, and, for the two types of those we
// know, the value.
type field struct {
	number protowire.Number
	kind   protowire.Type
	varint uint64
	bytes  []byte // points into the message
}

func (f field) isBytes() bool  { return f.kind == protowire.BytesType }
func (f field) isVarint() bool { return f.kind == protowire.VarintType }

// eachField calls visit for the fields of a message, up to its first error.
func eachField(message []byte, visit func(field) error) error {
	for len(message) > 0 {
		tag, n := protowire.ConsumeVarint(message)
		if n < 0 || tag>>3 < uint64(protowire.MinValidNumber) || tag>>3 > uint64(protowire.MaxValidNumber) {
			return errMalformed
		}
		message = message[n:]
		f := field{number: protowire.Number(tag >> 3), kind: protowire.Type(tag & 7)}
		switch f.kind {
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(message)
		default:
			n = protowire.ConsumeFieldValue(f.number, f.kind, message)
		}
		if n < 0 {
			return errMalformed
		}
		message = message[n:]
		if err := visit(f); err != nil {
			return err
		}
	}
	return nil
}

// sorted sorts, in place, what a proposer should have sorted and keeps the last
// of equal names: a sloppy proposer is no reason to stop every control node.
func sorted(attrs kv.Attrs) kv.Attrs {
	if ascending(attrs) {
		return attrs
	}
	slices.SortStableFunc(attrs, func(a, b kv.Attr) int { return strings.Compare(a.Name, b.Name) })
	last := attrs[:0]
	for i, a := range attrs {
		if i+1 == len(attrs) || attrs[i+1].Name != a.Name {
			last = append(last, a)
		}
	}
	return last
}

func ascending(attrs kv.Attrs) bool {
	for i := 1; i < len(attrs); i++ {
		if attrs[i-1].Name >= attrs[i].Name {
			return false
		}
	}
	return true
}

// interner makes equal strings share memory: a thousand replicas of a pod have
// the same labels. It forgets everything now and then instead of growing.
type interner map[string]string

const (
	internedMax      = 16_384
	internedBytesMax = 256 // of one string; longer ones are not worth it
)

func (in interner) intern(b []byte) string {
	if known, ok := in[string(b)]; ok {
		return known
	}
	s := string(b)
	if len(s) > internedBytesMax {
		return s
	}
	if len(in) >= internedMax {
		clear(in)
	}
	in[s] = s
	return s
}
