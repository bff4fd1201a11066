package fsm

import (
	"bytes"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/musterhq/muster/fsm/kv"
	"github.com/musterhq/muster/fsm/watch"
)

// Apply carries out commands (storage.v1.Command) in their order, as if each
// came alone, and returns their answers (storage.v1.Result, encoded): nil
// where wanted is false; wanted nil wants all. A guard that fails is an answer.
// Readers and watchers see nothing of it before all is done.
//
// An error means that this build does not know what a command means
// (ErrUnreadable, ErrUnknown). Those before it were carried out, and only they
// have answers; of it and those after it nothing was. The node must stop,
// because other replicas may have read it. Nothing of cmds is kept.
func (m *Machine) Apply(cmds [][]byte, wanted []bool) (answers [][]byte, err error) {
	b := &m.batch
	defer b.reset()
	r := reader{batch: b, interned: m.interned}
	for _, cmd := range cmds {
		var c command
		if c, err = r.read(cmd); err != nil {
			break
		}
		b.commands = append(b.commands, c)
	}
	if unknown := m.execute(b); unknown != nil {
		err = unknown
	}
	return b.answers(wanted), err
}

// ApplyOne is Apply of an entry with one command.
func (m *Machine) ApplyOne(cmd []byte) (answer []byte, err error) {
	answers, err := m.Apply([][]byte{cmd}, nil)
	if err != nil {
		return nil, err
	}
	return answers[0], nil
}

// batch is the commands of one Apply and what came of them. The room is used
// again by the next.
type batch struct {
	commands []command
	guards   []guard
	ops      []op
	labels   kv.Attrs // of all ops
	fields   kv.Attrs

	outcomes  []outcome
	revisions []uint64 // of the ops of all commands
	events    []watch.Event
}

// roomMax is up to which number of elements room is kept for the next batch. It
// is enough for what consensus joins in one entry, a thousand commands.
const roomMax = 8192

func (b *batch) reset() {
	b.commands = room(b.commands)
	b.guards = room(b.guards)
	b.ops = room(b.ops)
	b.labels = room(b.labels)
	b.fields = room(b.fields)
	b.outcomes = room(b.outcomes)
	b.revisions = room(b.revisions)
	b.events = room(b.events)
}

func room[S ~[]T, T any](s S) S {
	if cap(s) > roomMax {
		return nil
	}
	clear(s) // it points into the entry
	return s[:0]
}

// execute stops at a command that turns out to be one this build cannot know.
func (m *Machine) execute(b *batch) (err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	compacted := m.compacted
	for _, c := range b.commands {
		o := outcome{}
		if c.replace == nil {
			o = m.carryOut(c, b)
		} else if o, err = m.replace(c.replace, b); err != nil {
			break
		}
		b.outcomes = append(b.outcomes, o)
	}
	if len(b.events) > 0 {
		m.moved()
		m.history.Append(b.events)
	}
	// Only now, but to the same effect: what came after a compaction is newer
	// than what it forgets.
	if m.compacted != compacted {
		m.history.Compact(m.compacted)
	}
	return err
}

func (m *Machine) carryOut(c command, b *batch) outcome {
	if c.compact {
		m.compacted = max(m.compacted, min(c.upTo, m.revision))
		return outcome{applied: true, revision: m.revision}
	}
	for i, g := range b.guards[c.guardsFrom:c.guardsTo] {
		if found, ok := m.holds(g); !ok {
			return outcome{revision: m.revision, failedGuard: uint32(i), found: found}
		}
	}
	first := len(b.revisions)
	for i := c.opsFrom; i < c.opsTo; i++ {
		b.revisions = append(b.revisions, m.perform(&b.ops[i], b))
	}
	return outcome{applied: true, revision: m.revision, opsFrom: first, opsTo: len(b.revisions)}
}

// holds compares a guard, and returns what it was compared with.
func (m *Machine) holds(g guard) (found uint64, ok bool) {
	if item := m.items.Find(g.key); item != nil {
		found = item.Revision
	}
	if g.exists {
		return found, found != 0
	}
	return found, found == g.revision
}

// perform does one operation and returns the revision it took, 0 if none.
func (m *Machine) perform(o *op, b *batch) uint64 {
	prev := m.items.Find(o.key)
	var item *kv.Item
	switch {
	case o.kind == opIsPut:
		m.revision++
		item = newItem(o, b, prev, m.revision)
		m.items.Put(item)
	case prev == nil:
		return 0
	default:
		m.revision++
		m.items.Delete(prev.Key)
	}
	m.bytes += item.Size() - prev.Size()
	b.events = append(b.events, watch.Event{Revision: m.revision, Item: item, Prev: prev})
	return m.revision
}

// newItem copies what it takes from the command: an item that pointed into its
// entry would keep a whole megabyte of other commands alive. What did not
// change it shares with the state before, which the history may keep.
func newItem(o *op, b *batch, prev *kv.Item, revision uint64) *kv.Item {
	item := &kv.Item{Value: bytes.Clone(o.value), CreateRevision: revision, Revision: revision}
	labels, fields := b.labels[o.labelsFrom:o.labelsTo], b.fields[o.fieldsFrom:o.fieldsTo]
	if prev == nil {
		item.Key, item.Labels, item.Fields = string(o.key), copied(labels), copied(fields)
		return item
	}
	item.Key, item.CreateRevision = prev.Key, prev.CreateRevision
	if item.Labels = prev.Labels; !slices.Equal(labels, prev.Labels) {
		item.Labels = copied(labels)
	}
	if item.Fields = prev.Fields; !slices.Equal(fields, prev.Fields) {
		item.Fields = copied(fields)
	}
	return item
}

func copied(attrs kv.Attrs) kv.Attrs {
	if len(attrs) == 0 {
		return nil // and not an empty piece of the batch's room
	}
	return slices.Clone(attrs)
}

// outcome is a storage.v1.Result.
type outcome struct {
	applied        bool
	revision       uint64
	opsFrom, opsTo int // its op revisions, in batch.revisions
	failedGuard    uint32
	found          uint64
}

// answers encodes what is wanted. All answers share memory.
func (b *batch) answers(wanted []bool) [][]byte {
	answers := make([][]byte, len(b.outcomes))
	size := 0
	for i, o := range b.outcomes {
		if wanted == nil || wanted[i] {
			size += o.size(b.revisions[o.opsFrom:o.opsTo])
		}
	}
	all := make([]byte, 0, size)
	for i, o := range b.outcomes {
		if wanted == nil || wanted[i] {
			first := len(all)
			all = o.append(all, b.revisions[o.opsFrom:o.opsTo])
			answers[i] = all[first:len(all):len(all)]
		}
	}
	return answers
}

// Field numbers of storage.v1.Result.
const (
	resultApplied       = 1
	resultRevision      = 2
	resultOpRevisions   = 3
	resultFailedGuard   = 4
	resultFoundRevision = 5
)

func (o outcome) append(to []byte, revisions []uint64) []byte {
	to = appendUint(to, resultApplied, protowire.EncodeBool(o.applied))
	to = appendUint(to, resultRevision, o.revision)
	if len(revisions) > 0 {
		to = protowire.AppendTag(to, resultOpRevisions, protowire.BytesType)
		to = protowire.AppendVarint(to, uint64(packedSize(revisions)))
		for _, r := range revisions {
			to = protowire.AppendVarint(to, r)
		}
	}
	to = appendUint(to, resultFailedGuard, uint64(o.failedGuard))
	return appendUint(to, resultFoundRevision, o.found)
}

func (o outcome) size(revisions []uint64) int {
	size := uintSize(protowire.EncodeBool(o.applied)) + uintSize(o.revision) +
		uintSize(uint64(o.failedGuard)) + uintSize(o.found)
	if len(revisions) > 0 {
		size += 1 + protowire.SizeBytes(packedSize(revisions))
	}
	return size
}

// appendUint appends a field, which protobuf leaves out when it is 0.
func appendUint(to []byte, number protowire.Number, v uint64) []byte {
	if v == 0 {
		return to
	}
	return protowire.AppendVarint(protowire.AppendTag(to, number, protowire.VarintType), v)
}

func uintSize(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

func packedSize(revisions []uint64) (size int) {
	for _, r := range revisions {
		size += protowire.SizeVarint(r)
	}
	return size
}
