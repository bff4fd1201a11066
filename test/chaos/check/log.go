package check

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
)

// Event is one change as a watch told it.
type Event struct {
	Revision uint64
	Key      string
	Value    string // "" for a delete
}

// Log is the store's history as watches tell it: what was changed at each
// revision. Any number of watches write to it at once; the first to tell a
// revision decides what the others must tell, too.
type Log struct {
	mu     sync.Mutex
	events map[uint64]Event
	told   map[uint64]string // by whom first
	gaps   []span            // no watch could be resumed there
	first  uint64            // lowest revision that watches tell
	newest uint64
	report report
}

// span is revisions after one, up to and with another.
type span struct{ after, to uint64 }

// NewLog returns a log of everything after a revision.
func NewLog(after uint64) *Log {
	return &Log{events: map[uint64]Event{}, told: map[uint64]string{}, first: after + 1}
}

// Watch is one watch of a prefix, resumed on whichever node: a position in the log.
type Watch struct {
	log    *Log
	name   string
	prefix string
	// at is the last revision that it was told is complete.
	at   uint64
	seen []uint64
	gaps []span
}

// Watch begins a watch after a revision. The name is for messages. A watch
// belongs to one goroutine.
func (l *Log) Watch(name, prefix string, after uint64) *Watch {
	return &Watch{log: l, name: name, prefix: prefix, at: after}
}

// After is where the watch is to be resumed.
func (w *Watch) After() uint64 { return w.at }

// Prefix is what it watches.
func (w *Watch) Prefix() string { return w.prefix }

// Message takes one message of a watch that was begun, or resumed, after
// After: its events, and the revision up to which nothing is outstanding.
func (w *Watch) Message(node string, events []Event, reached uint64) {
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		who := fmt.Sprintf("watch %s on %s", w.name, node)
		if e.Revision <= w.at {
			l.report.add(Watches, "%s: change %d of %s came after %d: twice, or out of order", who, e.Revision, e.Key, w.at)
			continue
		}
		if !strings.HasPrefix(e.Key, w.prefix) {
			l.report.add(Watches, "%s: change %d is of %s, which has not the prefix %s", who, e.Revision, e.Key, w.prefix)
		}
		if w.prefix == "" && e.Revision != w.at+1 {
			l.report.add(Watches, "%s: change %d came after %d: the ones between are missing", who, e.Revision, w.at)
		}
		if known, ok := l.events[e.Revision]; !ok {
			l.events[e.Revision], l.told[e.Revision] = e, who
		} else if known != e {
			l.report.add(Watches, "%s: change %d is %s=%q, but %s said %s=%q", who, e.Revision, e.Key, e.Value, l.told[e.Revision], known.Key, known.Value)
		}
		l.newest = max(l.newest, e.Revision)
		w.seen = append(w.seen, e.Revision)
		w.at = e.Revision
	}
	if reached < w.at && len(events) > 0 {
		l.report.add(Watches, "watch %s on %s: reached %d is said after change %d", w.name, node, reached, w.at)
	}
	w.at = max(w.at, reached)
}

// Skip says that the watch could not be resumed because the past is forgotten,
// and goes on after a revision.
func (w *Watch) Skip(to uint64) {
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	if to > w.at {
		w.gaps = append(w.gaps, span{w.at, to})
		w.at = to
	}
}

// Found adds a violation that the caller found in a watch.
func (l *Log) Found(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.add(Watches, format, args...)
}

// Settle ends the log at a revision that all watches should have reached and
// says what is wrong with them. It must be called before CheckLog.
func (l *Log) Settle(watches []*Watch, end uint64) []Violation {
	l.mu.Lock()
	defer l.mu.Unlock()
	for revision := l.first; revision <= end; revision++ {
		if _, ok := l.events[revision]; !ok {
			n := len(l.gaps)
			if n > 0 && l.gaps[n-1].to == revision-1 {
				l.gaps[n-1].to = revision
			} else {
				l.gaps = append(l.gaps, span{revision - 1, revision})
			}
		}
	}
	for _, w := range watches {
		if w.at < end {
			l.report.add(Watches, "watch %s got as far as %d, the store is at %d", w.name, w.at, end)
		}
		seen := make(map[uint64]bool, len(w.seen))
		for _, revision := range w.seen {
			seen[revision] = true
		}
		for revision, e := range l.events {
			if revision <= min(w.at, end) && strings.HasPrefix(e.Key, w.prefix) && !seen[revision] && !within(w.gaps, revision) {
				l.report.add(Watches, "watch %s never told change %d, %s=%q, which %s told", w.name, revision, e.Key, e.Value, l.told[revision])
			}
		}
	}
	for _, gap := range l.gaps {
		excused := false
		for _, w := range watches {
			excused = excused || w.prefix == "" && within(w.gaps, gap.to)
		}
		if !excused {
			l.report.add(Watches, "no watch told the changes after %d up to %d", gap.after, gap.to)
		}
	}
	return l.report.result()
}

func within(spans []span, revision uint64) bool {
	return slices.ContainsFunc(spans, func(s span) bool { return s.after < revision && revision <= s.to })
}

// Complete says whether every change is in the log.
func (l *Log) Complete() bool { return len(l.gaps) == 0 }

// Len is how many changes are in the log.
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.events)
}

// states answers what keys were at a revision.
type states struct {
	byKey map[string][]state
	keys  []string // sorted
}

// state is a key after one change.
type state struct {
	Item
	at uint64 // the revision of the change, also when it was deleted
}

func (l *Log) states() *states {
	revisions := make([]uint64, 0, len(l.events))
	for revision := range l.events {
		revisions = append(revisions, revision)
	}
	slices.Sort(revisions)
	s := &states{byKey: map[string][]state{}}
	for _, revision := range revisions {
		e := l.events[revision]
		past := s.byKey[e.Key]
		next := state{at: revision}
		if e.Value != "" {
			next.Item = Item{Key: e.Key, Value: e.Value, Revision: revision, CreateRevision: revision}
			if len(past) > 0 && past[len(past)-1].Value != "" {
				next.CreateRevision = past[len(past)-1].CreateRevision
			}
		}
		s.byKey[e.Key] = append(past, next)
	}
	for key := range s.byKey {
		s.keys = append(s.keys, key)
	}
	slices.Sort(s.keys)
	return s
}

// at is a key at a revision; its zero value when it did not exist.
func (s *states) at(key string, revision uint64) Item {
	past := s.byKey[key]
	i := sort.Search(len(past), func(i int) bool { return past[i].at > revision })
	if i == 0 {
		return Item{}
	}
	return past[i-1].Item
}

// list is all keys with a prefix at a revision.
func (s *states) list(prefix string, revision uint64) []Item {
	var items []Item
	for i := sort.SearchStrings(s.keys, prefix); i < len(s.keys) && strings.HasPrefix(s.keys[i], prefix); i++ {
		if item := s.at(s.keys[i], revision); item.Value != "" {
			items = append(items, item)
		}
	}
	return items
}

// Newest is the newest revision that any watch has told.
func (l *Log) Newest() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest
}
