package fsm

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/fsm/kv"
	"github.com/musterhq/muster/fsm/watch"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// Apply carries out one storage.v1.Command and returns its storage.v1.Result,
// encoded. A guard that fails is a result. An error means that this build does
// not know what the command means (ErrUnreadable, ErrUnknown); nothing was
// changed, and the node must stop, because other replicas may have read it.
func (m *Machine) Apply(cmd []byte) (answer []byte, err error) {
	c, err := m.read(cmd)
	if err != nil {
		return nil, err
	}
	answer, err = proto.Marshal(m.execute(c))
	if err != nil {
		return nil, fmt.Errorf("encode result: %w", err)
	}
	return answer, nil
}

func (m *Machine) execute(c command) *storagev1.Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.compact {
		m.compact(c.upTo)
		return &storagev1.Result{Applied: true, Revision: m.revision}
	}
	for i, g := range c.guards {
		if found, ok := m.holds(g); !ok {
			return &storagev1.Result{
				Revision:      m.revision,
				FailedGuard:   uint32(i),
				FoundRevision: found,
			}
		}
	}
	return &storagev1.Result{Applied: true, OpRevisions: m.perform(c.ops), Revision: m.revision}
}

// holds compares a guard, and returns what it was compared with.
func (m *Machine) holds(g guard) (found uint64, ok bool) {
	if item := m.items.Get(g.key); item != nil {
		found = item.Revision
	}
	if g.exists {
		return found, found != 0
	}
	return found, found == g.revision
}

func (m *Machine) perform(ops []op) []uint64 {
	revisions := make([]uint64, len(ops))
	events := make([]watch.Event, 0, len(ops))
	for i, o := range ops {
		var prev *kv.Item
		if o.item == nil {
			if prev = m.items.Delete(o.key); prev == nil {
				continue
			}
			m.revision++
		} else {
			m.revision++
			o.item.Revision, o.item.CreateRevision = m.revision, m.revision
			if prev = m.items.Put(o.item); prev != nil {
				o.item.CreateRevision = prev.CreateRevision
			}
		}
		revisions[i] = m.revision
		events = append(events, watch.Event{Revision: m.revision, Item: o.item, Prev: prev})
	}
	if len(events) > 0 {
		m.moved()
		m.history.Append(events)
	}
	return revisions
}

// compact forgets history up to a revision that the machine has reached.
func (m *Machine) compact(revision uint64) {
	m.compacted = max(m.compacted, min(revision, m.revision))
	m.history.Compact(m.compacted)
}
