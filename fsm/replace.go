package fsm

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"

	"github.com/musterhq/muster/fsm/kv"
)

// replacement is a storage.v1.Replace.
type replacement struct {
	pieces, keep string
	sum          []byte
	ahead        uint64
}

// aheadMax bounds how far one replacement moves the revision, and revisionsMax
// where it may end: resource versions are signed numbers to many clients.
const (
	aheadMax     = 1 << 40
	revisionsMax = 1 << 62
)

func (r *reader) replace(b []byte, c *command) error {
	if c.replace == nil {
		c.replace = &replacement{}
	}
	return eachField(b, func(f field) error {
		switch {
		case f.number == replacePieces && f.isBytes():
			c.replace.pieces = string(f.bytes)
		case f.number == replaceSum && f.isBytes():
			c.replace.sum = bytes.Clone(f.bytes)
		case f.number == replaceKeep && f.isBytes():
			c.replace.keep = string(f.bytes)
		case f.number == replaceAhead && f.isVarint():
			c.replace.ahead = f.varint
		default:
			r.unknown = true
		}
		return nil
	})
}

// replace carries out a replacement. That the pieces are not what they should be
// is a result: they are the same on every replica. That they are, and cannot be
// read, is this build's fault, because whoever proposed it has read them.
// m.mu is held; readers wait meanwhile, about a second for 100,000 pods.
func (m *Machine) replace(r *replacement, b *batch) (outcome, error) {
	view := m.items.Clone(m.revision)
	sum := sha256.New()
	var pieces []io.Reader
	for item := range view.Range(r.pieces, "") {
		sum.Write(item.Value)
		pieces = append(pieces, bytes.NewReader(item.Value))
	}
	if r.pieces == "" || len(pieces) == 0 || !bytes.Equal(sum.Sum(nil), r.sum) {
		return outcome{revision: m.revision}, nil
	}
	s, err := readSnapshot(io.MultiReader(pieces...))
	if err != nil {
		return outcome{}, fmt.Errorf("%w: replace by a snapshot that this version of muster cannot read: %w", ErrUnknown, err)
	}
	if s.header.Revision > revisionsMax-aheadMax || m.revision > revisionsMax-aheadMax {
		return outcome{revision: m.revision}, nil
	}
	items := kv.NewMap()
	if r.keep != "" {
		for item := range view.Range(r.keep, "") {
			if !strings.HasPrefix(item.Key, r.pieces) {
				items.Put(item)
			}
		}
	}
	b.events = b.events[:0] // what was before is history that is forgotten
	m.adopt(s, items, r.keep, r.ahead)
	m.log.Warn("the state was replaced by a saved one", "revision", m.revision, "saved revision", s.header.Revision, "items", items.Len())
	return outcome{applied: true, revision: m.revision}, nil
}

// Replace is the command of that name for a machine that is not replicated yet:
// nothing that it holds stays, and of the snapshot what is below the prefix
// leftOut does not come.
func (m *Machine) Replace(from io.Reader, leftOut string, ahead uint64) error {
	s, err := readSnapshot(from)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if s.header.Revision > revisionsMax-aheadMax {
		return fmt.Errorf("restore: %w: revision %d", ErrCorrupt, s.header.Revision)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.adopt(s, kv.NewMap(), leftOut, ahead)
	return nil
}

// adopt makes a snapshot's items, except those below a prefix, and items the
// state. m.mu is held.
func (m *Machine) adopt(s *snapshot, items *kv.Map, except string, ahead uint64) {
	m.revision = max(m.revision, s.header.Revision) + min(ahead, aheadMax)
	for item := range s.items.Clone(0).Range("", "") {
		if except != "" && strings.HasPrefix(item.Key, except) {
			continue
		}
		m.revision++
		item.CreateRevision, item.Revision = m.revision, m.revision // nobody else has seen it yet
		items.Put(item)
	}
	m.items, m.compacted = items, m.revision
	m.weigh()
	m.moved()
	m.history.Reset(m.revision)
	m.past.forget()
}
