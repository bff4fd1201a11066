// Package fsm is the state machine that the control nodes replicate: keys and
// values with revisions, guarded transactions, a bounded history of changes to
// watch, and snapshots. It knows bytes; that a value is a pod is the business
// of package store, and agreeing on the order of commands that of consensus.
//
// Every replica is fed the same commands in the same order and must end with
// the same state, so there is no clock, no randomness and no configuration in
// what Apply does. A command that this build cannot read in full is an error
// that stops the node: guessing would fork the state.
//
// # Revisions
//
// The revision counts changed keys: each key that a transaction puts or
// deletes takes the next one. It is what Kubernetes calls resourceVersion, and
// the same on every replica, so a watch that breaks on one node resumes on
// another.
//
// # Snapshot format
//
// All numbers are big-endian.
//
//	magic    8 bytes, "MUSTRFSM"
//	format   uint32, 1
//	records  header, items in strictly ascending order of keys, trailer
//
// A record is
//
//	kind     1 byte: 'H' header, 'I' item, 'T' trailer
//	length   uint32, of payload
//	payload  storage.v1.SnapshotHeader, storage.v1.Item, or the trailer below
//	crc      uint32, CRC-32C of kind, length and payload
//
// and the trailer's payload
//
//	count    uint64, of items
//	sum      32 bytes, SHA-256 of everything before the trailer's record
//
// Nothing follows the trailer. Two replicas with the same state write the same
// bytes.
package fsm

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/musterhq/muster/fsm/kv"
	"github.com/musterhq/muster/fsm/watch"
)

// Config says how much history to keep. It may differ between replicas.
type Config struct {
	// HistoryEvents and HistoryBytes bound the watch history, whichever is
	// reached first. Bytes count what the history keeps alive beyond the
	// current state. 0: 100,000 events, and 16 MiB or, if that is more and Run
	// has seen it, half of what the state itself takes, but at most 128 MiB.
	HistoryEvents int
	HistoryBytes  int64
	// HistoryAge is for how long events are kept if the other bounds allow,
	// give or take half a minute. It needs Run. 0: 10 minutes.
	HistoryAge time.Duration
	// Logger is told about snapshots. nil: nobody is.
	Logger *slog.Logger
}

const (
	historyBytesMin = 16 << 20
	historyBytesMax = 128 << 20
)

// sweepEvery is how often Run lets go of what is too old.
const sweepEvery = 30 * time.Second

// Machine is the state. Apply and Restore are called by one goroutine at a time;
// everything else by any, at any time.
type Machine struct {
	log        *slog.Logger
	history    *watch.History
	historyAge time.Duration
	share      bool // the history may take a share of the state
	past       past
	interned   interner // of the applying goroutine
	batch      batch    // of the applying goroutine

	mu        sync.RWMutex
	items     *kv.Map
	bytes     int64 // that items take, as Item.Size says
	revision  uint64
	compacted uint64        // as commanded; replicated, unlike the history's own bounds
	view      *kv.View      // of items as they are, nil when nobody asked since the last change
	advanced  chan struct{} // closed when revision moves, nil when nobody waits
}

// New returns an empty machine at revision 0.
func New(cfg Config) *Machine {
	share := false
	if cfg.HistoryEvents <= 0 {
		cfg.HistoryEvents = 100_000
	}
	if cfg.HistoryBytes <= 0 {
		cfg.HistoryBytes, share = historyBytesMin, true
	}
	if cfg.HistoryAge <= 0 {
		cfg.HistoryAge = 10 * time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Machine{
		log:        cfg.Logger,
		history:    watch.NewHistory(cfg.HistoryEvents, cfg.HistoryBytes, 0),
		historyAge: cfg.HistoryAge,
		share:      share,
		interned:   interner{},
		items:      kv.NewMap(),
	}
}

// Run lets go of what has become too old until ctx ends, which is no error: of
// history, of views of the past that nobody came back for, and so of memory that
// a burst of writes took. Without it the machine works, within its other bounds.
func (m *Machine) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			m.tidy(now)
		}
	}
}

func (m *Machine) tidy(now time.Time) {
	if m.share {
		m.mu.RLock()
		state := m.bytes
		m.mu.RUnlock()
		m.history.SetBytes(min(max(state/2, historyBytesMin), historyBytesMax))
	}
	m.history.Sweep(now, now.Add(-m.historyAge))
	m.past.sweep(now, m.history)
}

// weigh counts the bytes of a state that was put in the place of another. m.mu is held.
func (m *Machine) weigh() {
	m.bytes = 0
	for item := range m.items.Clone(0).Range("", "") {
		m.bytes += item.Size()
	}
}

// Get returns the newest item of a key, or nil, and the revision it was read at.
func (m *Machine) Get(key string) (*kv.Item, uint64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.items.Get(key), m.revision
}

// Revision is the newest one.
func (m *Machine) Revision() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.revision
}

// View returns the state at the newest revision. It is made once per revision
// and costs no more than a lock, whatever the size of the state.
func (m *Machine) View() *kv.View {
	m.mu.RLock()
	view := m.view
	m.mu.RUnlock()
	if view != nil {
		return view
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.view == nil {
		m.view = m.items.Clone(m.revision)
	}
	return m.view
}

// WaitRevision returns once the machine is at a revision or past it, or with
// ctx's error.
func (m *Machine) WaitRevision(ctx context.Context, revision uint64) error {
	for {
		m.mu.RLock()
		reached := m.revision >= revision
		m.mu.RUnlock()
		if reached {
			return nil
		}
		m.mu.Lock()
		if m.advanced == nil {
			m.advanced = make(chan struct{})
		}
		advanced := m.advanced
		reached = m.revision >= revision
		m.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Watch returns a watcher of the changes after a revision to keys with a
// prefix, or watch.ErrCompacted when they are not all known any more. After a
// Restore the history begins at the snapshot's revision.
func (m *Machine) Watch(prefix string, after uint64) (*watch.Watcher, error) {
	return m.history.Watch(prefix, after)
}

// LastChange is the newest revision, not above atOrBefore, at which a key of
// the prefix's table (its first segment) may have changed. Whoever has seen
// the table's events up to it has seen the table as it was at atOrBefore.
func (m *Machine) LastChange(prefix string, atOrBefore uint64) uint64 {
	return m.history.LastChange(prefix, atOrBefore)
}

// moved forgets what was true of an earlier revision. m.mu is held.
func (m *Machine) moved() {
	m.view = nil
	if m.advanced != nil {
		close(m.advanced)
		m.advanced = nil
	}
}
