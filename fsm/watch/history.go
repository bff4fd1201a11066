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
	"sort"
	"strings"
	"sync"

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
	const header = 64
	return header + e.Prev.Size()
}

// History is the newest events, bounded in number and in bytes; the oldest go
// first. Events are filed by the first segment of their key ("pods" of
// "pods/default/web"), so that a busy table costs the watchers of a quiet one
// nothing: they are neither woken by it nor made to walk over it, and they can
// resume from any revision after which nothing of their own table was dropped.
//
// One goroutine writes (Append, Compact, Reset); any number watch.
type History struct {
	eventsMax int
	bytesMax  int64

	mu     sync.RWMutex
	last   uint64 // the newest revision, with or without an event in here
	floor  uint64 // where the history begins: nothing is known of before
	epoch  uint64 // counts resets: watchers of an earlier one are stale
	bytes  int64
	all    *log
	tables map[string]*log
	waits  map[string]*wait // by prefix, up to and with its last '/'
}

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
		h.all.push(e)
		h.table(tableOf(e.Key())).push(e)
		h.wake(e)
	}
	for h.all.len() > h.eventsMax || h.bytes > h.bytesMax && h.all.len() > 0 {
		h.drop()
	}
}

// Compact forgets the events up to and including revision. As when the oldest
// are dropped, whoever has seen those of its own table goes on.
func (h *History) Compact(revision uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.all.len() > 0 && h.all.at(0).Revision <= revision {
		h.drop()
	}
}

// Reset forgets everything and goes on from revision. All watchers get
// ErrCompacted: what they have seen need not lead to the state at revision.
func (h *History) Reset(revision uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last, h.floor, h.bytes = revision, revision, 0
	h.epoch++
	h.all, h.tables = &log{}, map[string]*log{}
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
	changed := h.floor
	if table := h.lookup(prefix); table != nil {
		changed = max(changed, table.dropped)
		if i := table.after(atOrBefore); i > 0 {
			changed = table.at(i - 1).Revision
		}
	}
	return min(changed, atOrBefore)
}

func (h *History) drop() {
	e := h.all.pop()
	h.bytes -= e.cost()
	h.table(tableOf(e.Key())).pop()
}

func (h *History) table(name string) *log {
	t := h.tables[name]
	if t == nil {
		t = &log{}
		h.tables[strings.Clone(name)] = t
	}
	return t
}

// lookup returns where the events of a prefix are filed, nil if there are none.
func (h *History) lookup(prefix string) *log {
	if !strings.Contains(prefix, "/") {
		return h.all
	}
	return h.tables[tableOf(prefix)]
}

func tableOf(key string) string {
	table, _, _ := strings.Cut(key, "/")
	return table
}

// log is a queue of events in ascending order of revisions.
type log struct {
	events  []Event
	head    int
	dropped uint64 // the newest revision that was popped
}

func (l *log) len() int         { return len(l.events) - l.head }
func (l *log) at(i int) Event   { return l.events[l.head+i] }
func (l *log) push(event Event) { l.events = append(l.events, event) }

func (l *log) pop() Event {
	e := l.events[l.head]
	l.events[l.head] = Event{}
	l.head++
	l.dropped = e.Revision
	if l.head >= 1024 && 2*l.head >= len(l.events) {
		n := copy(l.events, l.events[l.head:])
		clear(l.events[n:])
		l.events, l.head = l.events[:n], 0
	}
	return e
}

// after is the index of the first event above revision.
func (l *log) after(revision uint64) int {
	return sort.Search(l.len(), func(i int) bool { return l.at(i).Revision > revision })
}
