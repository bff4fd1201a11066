// Package watch remembers what changed: a bounded history of events in the
// order of their revisions, and watchers that walk it. A watcher is a position
// in the history, not a buffer of its own, so a thousand slow watchers cost no
// more memory than one; whoever falls behind the history is told so
// (ErrCompacted) and reads the state anew.
//
// Who changes things, and which revision a change takes, is the business of
// package fsm.
package watch

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/fsm/kv"
)

// ErrCompacted says that events after the asked revision are no longer known:
// the watcher must read the state anew and watch from there.
var ErrCompacted = errors.New("history has been compacted")

// Event is one change of one key. Every revision has exactly one.
type Event struct {
	Revision uint64
	// Item is the new state; nil says that the key was deleted.
	Item *kv.Item
	// Prev is the state before; nil says that the key was created.
	Prev *kv.Item
}

// Key is the key that changed.
func (e Event) Key() string {
	if e.Item != nil {
		return e.Item.Key
	}
	return e.Prev.Key
}

// cost is what the event keeps in memory that would be gone without it: the
// state before. The new state is either in the map, or the Prev of a later
// event and counted there.
func (e Event) cost() int64 {
	const own = 32 // in the queue and its file
	return own + e.Prev.Size()
}

// History is the newest events, bounded in number, in bytes and, if somebody
// calls Sweep, in age; the oldest go first. Events are filed by the first
// segment of their key ("pods" of "pods/default/web"), so that a busy table
// costs the watchers of a quiet one nothing: they are neither woken by it nor
// made to walk over it, and they can resume from any revision after which
// nothing of their own table was dropped.
//
// One goroutine writes (Append, Compact, Reset); any number watch or sweep.
type History struct {
	eventsMax int
	bytesMax  int64

	mu     sync.RWMutex
	last   uint64 // the newest revision, with or without an event in here
	floor  uint64 // where the history begins: nothing is known of before
	epoch  uint64 // counts resets: watchers of an earlier one are stale
	bytes  int64
	events queue
	// dropped is the newest revision of an event that was dropped.
	dropped uint64
	tables  map[string]*file
	// forgotten is the newest revision that a table which is not in tables may
	// have had an event at.
	forgotten uint64
	marks     []mark           // ascending
	waits     map[string]*wait // by prefix, up to and with its last '/'
}

// mark says that all events with a lower number are older than a time.
type mark struct {
	number uint64
	at     time.Time
}

// tablesMax is how many tables are remembered that have no events.
const tablesMax = 1024

// NewHistory returns a history that knows nothing at or below revision.
func NewHistory(eventsMax int, bytesMax int64, revision uint64) *History {
	h := &History{eventsMax: max(eventsMax, 1), bytesMax: bytesMax}
	h.Reset(revision)
	return h
}

// Append adds events, whose revisions must ascend, and wakes those who wait
// for them.
func (h *History) Append(events []Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range events {
		h.last = e.Revision
		h.bytes += e.cost()
		if name, ok := tableOf(e.Key()); ok {
			h.table(name).push(h.events.end())
		}
		h.events.push(e)
		h.wake(e)
	}
	h.trim()
}

// SetBytes changes the bound in bytes.
func (h *History) SetBytes(bytesMax int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bytesMax = bytesMax
	h.trim()
}

func (h *History) trim() {
	for h.events.len() > h.eventsMax || h.bytes > h.bytesMax && h.events.len() > 0 {
		h.drop()
	}
}

// Compact forgets the events up to and including revision. As when the oldest
// are dropped, whoever has seen those of its own table goes on.
func (h *History) Compact(revision uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.events.len() > 0 && h.events.at(h.events.first).Revision <= revision {
		h.drop()
	}
}

// Sweep forgets events that a call of Sweep at or before a time has found
// here. Called every now and then with the present and a time before it, it
// bounds the age of events, and lets go of the memory of a history to which
// nothing is added.
func (h *History) Sweep(now, before time.Time) {
	h.mu.Lock()
	end := h.events.end()
	if n := len(h.marks); n == 0 || h.marks[n-1].number != end {
		h.marks = append(h.marks, mark{number: end, at: now})
	}
	upTo := uint64(0)
	for len(h.marks) > 0 && !h.marks[0].at.After(before) {
		upTo = h.marks[0].number
		h.marks = slices.Delete(h.marks, 0, 1)
	}
	epoch := h.epoch
	for looked := 1; h.epoch == epoch && h.events.len() > 0 && h.events.first < upTo; looked++ {
		h.drop()
		if looked%scanMax == 0 {
			h.mu.Unlock() // writers get a turn
			h.mu.Lock()
		}
	}
	h.mu.Unlock()
}

// Reset forgets everything and goes on from revision. All watchers get
// ErrCompacted: what they have seen need not lead to the state at revision.
func (h *History) Reset(revision uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last, h.floor, h.bytes = revision, revision, 0
	h.epoch++
	h.events, h.tables, h.marks = queue{}, map[string]*file{}, nil
	h.dropped, h.forgotten = 0, 0
	for _, w := range h.waits {
		close(w.woken)
	}
	h.waits = map[string]*wait{}
}

// LastChange is the newest revision, not above atOrBefore, at which a key of
// the prefix's table may have changed. Whoever has seen all events of the
// table up to it has seen the table as it was at atOrBefore.
func (h *History) LastChange(prefix string, atOrBefore uint64) uint64 {
	h.mu.RLock()
	defer h.mu.RUnlock()
	events := h.of(prefix)
	changed := max(h.floor, events.dropped())
	if i := events.after(atOrBefore); i > 0 {
		changed = events.at(i - 1).Revision
	}
	return min(changed, atOrBefore)
}

// Reaches says whether every event of the prefix after a revision is known.
func (h *History) Reaches(prefix string, revision uint64) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return revision >= h.floor && revision >= h.of(prefix).dropped()
}

// Undo calls undo with the events that have the prefix and a revision above
// to, and not above from, the newest first. ErrCompacted when some of them are
// forgotten, also meanwhile. Writers get their turns.
func (h *History) Undo(prefix string, from, to uint64, undo func(Event)) error {
	turn := make([]Event, 0, 256)
	for cursor := from; cursor > to; {
		h.mu.RLock()
		events := h.of(prefix)
		if to < h.floor || to < events.dropped() {
			h.mu.RUnlock()
			return ErrCompacted
		}
		i, looked := events.after(cursor)-1, 0
		for cursor = to; i >= 0; i-- {
			e := events.at(i)
			if e.Revision <= to {
				break
			}
			if looked++; looked > scanMax {
				cursor = e.Revision
				break
			}
			if strings.HasPrefix(e.Key(), prefix) {
				turn = append(turn, e)
			}
		}
		h.mu.RUnlock()
		for _, e := range turn {
			undo(e)
		}
		clear(turn)
		turn = turn[:0]
	}
	return nil
}

func (h *History) drop() {
	e := h.events.pop()
	h.bytes -= e.cost()
	h.dropped = e.Revision
	name, ok := tableOf(e.Key())
	if !ok {
		return
	}
	h.table(name).pop(e.Revision)
	if len(h.tables) > tablesMax+h.events.len() {
		for name, f := range h.tables {
			if f.len() == 0 {
				h.forgotten = max(h.forgotten, f.dropped)
				delete(h.tables, name)
			}
		}
	}
}

func (h *History) table(name string) *file {
	f := h.tables[name]
	if f == nil {
		f = &file{dropped: h.forgotten}
		h.tables[strings.Clone(name)] = f
	}
	return f
}

// events are those that may have a prefix: all, or those of its table.
type events struct {
	history *History
	all     bool
	file    *file // nil: the table has none
}

// of returns the events that may have a prefix. The lock is held, and must be as long
// as they are used.
func (h *History) of(prefix string) events {
	name, ok := tableOf(prefix)
	if !ok {
		return events{history: h, all: true}
	}
	return events{history: h, file: h.tables[name]}
}

func (v events) len() int {
	switch {
	case v.all:
		return v.history.events.len()
	case v.file == nil:
		return 0
	}
	return v.file.len()
}

func (v events) at(i int) Event {
	q := &v.history.events
	if v.all {
		return q.at(q.first + uint64(i))
	}
	return v.file.at(q, i)
}

// after is the index of the first event above revision.
func (v events) after(revision uint64) int {
	q := &v.history.events
	switch {
	case v.all:
		return int(q.after(revision) - q.first)
	case v.file == nil:
		return 0
	}
	return v.file.after(q, revision)
}

// dropped is the newest revision of an event that is not here any more.
func (v events) dropped() uint64 {
	switch {
	case v.all:
		return v.history.dropped
	case v.file == nil:
		return v.history.forgotten
	}
	return v.file.dropped
}

// tableOf is a key's first segment. A key, or prefix, of less than that has none.
func tableOf(key string) (string, bool) {
	table, _, ok := strings.Cut(key, "/")
	return table, ok
}
