package fsm

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/fsm/kv"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

var (
	// ErrUnreadable says that the bytes are no command.
	ErrUnreadable = errors.New("unreadable command in the log")
	// ErrUnknown says that a newer Muster wrote the command: this one would
	// do only a part of it.
	ErrUnknown = errors.New("unknown command in the log")
)

// command is a Command read in full: either a compaction, or guards and ops.
type command struct {
	compact bool
	upTo    uint64 // what to compact
	guards  []guard
	ops     []op
}

type guard struct {
	key      string
	revision uint64
	exists   bool
}

// op puts item, which lacks its revisions still; or deletes, when item is nil.
type op struct {
	key  string
	item *kv.Item
}

// read is everything about a command that can fail, before anything changes.
func (m *Machine) read(cmd []byte) (command, error) {
	var c storagev1.Command
	if err := proto.Unmarshal(cmd, &c); err != nil {
		return command{}, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	if unknown(&c) {
		return command{}, fmt.Errorf("%w: it has fields that this version of muster does not know", ErrUnknown)
	}
	switch {
	case c.Txn != nil && c.Compact != nil:
		return command{}, fmt.Errorf("%w: it is two commands", ErrUnreadable)
	case c.Compact != nil:
		if unknown(c.Compact) {
			return command{}, fmt.Errorf("%w: a compaction with unknown fields", ErrUnknown)
		}
		return command{compact: true, upTo: c.Compact.Revision}, nil
	case c.Txn != nil:
		return m.readTxn(c.Txn)
	}
	return command{}, fmt.Errorf("%w: this version of muster knows txn and compact", ErrUnknown)
}

func (m *Machine) readTxn(txn *storagev1.Txn) (command, error) {
	if unknown(txn) {
		return command{}, fmt.Errorf("%w: a transaction with unknown fields", ErrUnknown)
	}
	c := command{
		guards: make([]guard, 0, len(txn.Guards)),
		ops:    make([]op, 0, len(txn.Ops)),
	}
	for _, g := range txn.Guards {
		if unknown(g) {
			return command{}, fmt.Errorf("%w: a guard with unknown fields", ErrUnknown)
		}
		c.guards = append(c.guards, guard{key: string(g.Key), revision: g.Revision, exists: g.Exists})
	}
	for _, o := range txn.Ops {
		put, del := o.GetPut(), o.GetDelete()
		switch {
		case unknown(o) || put == nil && del == nil:
			return command{}, fmt.Errorf("%w: an operation that is neither put nor delete", ErrUnknown)
		case put != nil && unknown(put), del != nil && unknown(del):
			return command{}, fmt.Errorf("%w: an operation with unknown fields", ErrUnknown)
		case del != nil:
			c.ops = append(c.ops, op{key: string(del.Key)})
			continue
		}
		labels, err := m.readAttrs(put.Labels)
		if err != nil {
			return command{}, err
		}
		fields, err := m.readAttrs(put.Fields)
		if err != nil {
			return command{}, err
		}
		item := &kv.Item{Key: string(put.Key), Value: put.Value, Labels: labels, Fields: fields}
		c.ops = append(c.ops, op{key: item.Key, item: item})
	}
	return c, nil
}

// readAttrs sorts what a proposer should have sorted and keeps the last of
// equal names: a sloppy proposer is no reason to stop every control node.
func (m *Machine) readAttrs(from []*storagev1.Attr) (kv.Attrs, error) {
	if len(from) == 0 {
		return nil, nil
	}
	attrs := make(kv.Attrs, len(from))
	for i, a := range from {
		if unknown(a) {
			return nil, fmt.Errorf("%w: an attribute with unknown fields", ErrUnknown)
		}
		attrs[i] = kv.Attr{Name: m.interned.intern(a.Name), Value: m.interned.intern(a.Value)}
	}
	return sorted(attrs), nil
}

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
	return slices.Clip(last)
}

func ascending(attrs kv.Attrs) bool {
	for i := 1; i < len(attrs); i++ {
		if attrs[i-1].Name >= attrs[i].Name {
			return false
		}
	}
	return true
}

func unknown(m proto.Message) bool { return len(m.ProtoReflect().GetUnknown()) > 0 }

// interner makes equal strings share memory: a thousand replicas of a pod have
// the same labels. It forgets everything now and then instead of growing.
type interner map[string]string

const internedMax = 16_384

func (in interner) intern(s string) string {
	if known, ok := in[s]; ok {
		return known
	}
	if len(in) >= internedMax {
		clear(in)
	}
	in[s] = s
	return s
}
