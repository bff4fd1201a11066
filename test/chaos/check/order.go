package check

import (
	"slices"
	"sort"
	"strings"
	"time"
)

// CheckLog holds what clients saw against the log of all changes to keys with a
// prefix, none of which existed when the log began. Everything that names a
// revision can be checked exactly, so this finds what a search for an order of
// operations (CheckLinearizable) may have no time for; it trusts the revisions,
// which the other does not.
func CheckLog(log *Log, history []*Op, prefix string) []Violation {
	c := &checker{log: log, states: log.states(), writes: map[string]*Op{}}
	c.writers(history)
	for _, op := range history {
		switch {
		case op.Commit != nil:
			c.commit(op)
		case op.Outcome == OK:
			c.read(op)
		}
	}
	c.origin(prefix)
	c.realTime(history)
	c.monotonic(history)
	return c.report.result()
}

type checker struct {
	log    *Log
	states *states
	writes map[string]*Op // by value
	report report
}

func (c *checker) writers(history []*Op) {
	for _, op := range history {
		if op.Commit == nil {
			continue
		}
		for _, w := range op.Commit.Writes {
			if w.Value != "" {
				c.writes[w.Value] = op
			}
		}
	}
}

// commit looks for the writes of a commit in the log.
func (c *checker) commit(op *Op) {
	if op.Outcome != OK || len(op.WriteRevisions) == 0 {
		return
	}
	writes := op.Commit.Writes
	if len(op.WriteRevisions) != len(writes) {
		c.report.add(Revisions, "%d revisions for %d writes: %v", len(op.WriteRevisions), len(writes), op)
		return
	}
	first := op.Revision + 1
	for i, w := range writes {
		revision := op.WriteRevisions[i]
		if revision == 0 {
			if found := c.states.at(w.Key, op.Revision); w.Value != "" || found.Value != "" && c.log.Complete() {
				c.report.add(Revisions, "a write that changed nothing, where %s was %q: %v", w.Key, found.Value, op)
			}
			continue
		}
		first = min(first, revision)
		if revision > op.Revision {
			c.report.add(Revisions, "write %d is at %d, after the whole, %d: %v", i, revision, op.Revision, op)
		}
		e, told := c.log.events[revision]
		switch {
		case !told && !within(c.log.gaps, revision):
			c.report.add(Durable, "acknowledged, and no change %d is known: %v", revision, op)
		case told && (e.Key != w.Key || e.Value != w.Value):
			c.report.add(Durable, "acknowledged, but change %d is %s=%q: %v", revision, e.Key, e.Value, op)
		}
	}
	if !c.log.Complete() || first == 0 {
		return
	}
	for _, g := range op.Commit.Guards {
		if found := c.states.at(g.Key, first-1); found.Revision != g.Revision || found.Value != g.Value {
			c.report.add(Guards, "applied at %d, where %s was %q@%d: %v", first, g.Key, found.Value, found.Revision, op)
		}
	}
}

// read compares what was read with the state at the revision that was named.
func (c *checker) read(op *Op) {
	for _, item := range op.Items {
		if writer := c.writes[item.Value]; writer == nil {
			c.report.add(Once, "a value that nobody wrote, %s=%q: %v", item.Key, item.Value, op)
		} else if writer.Call > op.Return {
			c.report.add(Reads, "a value from the future, %q: %v", item.Value, op)
		}
	}
	if !c.log.Complete() || op.Revision < c.log.first {
		return
	}
	want := c.states.list(op.List, op.Revision)
	if op.List == "" {
		want = nil
		if item := c.states.at(op.Get, op.Revision); item.Value != "" {
			want = []Item{item}
		}
	}
	if !slices.Equal(want, op.Items) {
		c.report.add(Reads, "at %d there was %v: %v", op.Revision, want, op)
	}
}

// origin checks that every change was asked for, was not refused, and came once.
func (c *checker) origin(prefix string) {
	seen := map[string]uint64{}
	for revision, e := range c.log.events {
		if e.Value == "" || !strings.HasPrefix(e.Key, prefix) {
			continue
		}
		writer := c.writes[e.Value]
		switch {
		case writer == nil:
			c.report.add(Once, "change %d, %s=%q, was asked for by nobody", revision, e.Key, e.Value)
			continue
		case seen[e.Value] != 0:
			c.report.add(Once, "%q was written at %d and at %d: %v", e.Value, seen[e.Value], revision, writer)
		case writer.Outcome == Refused || writer.Outcome == Failed:
			c.report.add(Refusal, "%s, and applied at %d: %v", writer.Outcome, revision, writer)
		}
		seen[e.Value] = revision
	}
}

// realTime checks that revisions follow real time: what began after another
// ended is not before it. Local reads promise less.
func (c *checker) realTime(history []*Op) {
	var ops []*Op
	for _, op := range history {
		if op.Outcome == OK && !op.Local && op.Revision != 0 {
			ops = append(ops, op)
		}
	}
	ended := slices.Clone(ops)
	sort.Slice(ops, func(i, j int) bool { return ops[i].Call < ops[j].Call })
	sort.Slice(ended, func(i, j int) bool { return ended[i].Return < ended[j].Return })
	var newest *Op
	for _, op := range ops {
		for len(ended) > 0 && ended[0].Return < op.Call {
			if newest == nil || ended[0].Revision > newest.Revision {
				newest = ended[0]
			}
			ended = ended[1:]
		}
		if newest == nil {
			continue
		}
		if op.Revision < newest.Revision || op.Revision == newest.Revision && changed(op) {
			c.report.add(Revisions, "%v, which began after this had ended: %v", op, newest)
		}
	}
}

// changed says whether a commit took a revision.
func changed(op *Op) bool {
	return op.Commit != nil && slices.ContainsFunc(op.WriteRevisions, func(r uint64) bool { return r != 0 })
}

// monotonic checks that what one process says of its replica never goes back.
func (c *checker) monotonic(history []*Op) {
	byProcess := map[string][]*Op{}
	for _, op := range history {
		if op.Outcome == OK && op.Commit == nil && op.Process != "" {
			byProcess[op.Process] = append(byProcess[op.Process], op)
		}
	}
	for _, ops := range byProcess {
		ended := slices.Clone(ops)
		sort.Slice(ops, func(i, j int) bool { return ops[i].Call < ops[j].Call })
		sort.Slice(ended, func(i, j int) bool { return ended[i].Return < ended[j].Return })
		var newest *Op
		for _, op := range ops {
			for len(ended) > 0 && ended[0].Return < op.Call {
				if newest == nil || ended[0].Revision > newest.Revision {
					newest = ended[0]
				}
				ended = ended[1:]
			}
			if newest != nil && op.Revision < newest.Revision {
				c.report.add(Monotonic, "%v, after %v", op, newest)
			}
		}
	}
}

// CheckFinal compares the last state of all keys with a prefix with the log:
// what is left of each key is what its last change made of it.
func CheckFinal(log *Log, history []*Op, prefix string, items []Item, revision uint64) []Violation {
	var r report
	if log.Complete() {
		want := log.states().list(prefix, revision)
		byKey := map[string]Item{}
		for _, item := range items {
			byKey[item.Key] = item
		}
		for _, w := range want {
			if byKey[w.Key] != w {
				r.add(Durable, "%s ends as %q@%d, its last change made it %q@%d", w.Key, byKey[w.Key].Value, byKey[w.Key].Revision, w.Value, w.Revision)
			}
			delete(byKey, w.Key)
		}
		for _, item := range byKey {
			r.add(Durable, "%s ends as %q@%d, its last change deleted it", item.Key, item.Value, item.Revision)
		}
	}
	// Without the log: no acknowledged write of a key is newer than what it ends as.
	last := map[string]uint64{}
	for _, item := range items {
		last[item.Key] = item.Revision
	}
	for _, op := range history {
		if op.Commit == nil || op.Outcome != OK {
			continue
		}
		for i, w := range op.Commit.Writes {
			if i >= len(op.WriteRevisions) {
				continue
			}
			at := op.WriteRevisions[i]
			if at > revision {
				r.add(Durable, "acknowledged at %d, and the store ends at %d: %v", at, revision, op)
			}
			if kept, ok := last[w.Key]; ok && w.Value != "" && kept < at {
				r.add(Durable, "acknowledged at %d, and %s ends at %d: %v", at, w.Key, kept, op)
			}
		}
	}
	return r.result()
}

// settled is when an operation can have taken effect at the latest.
func (o *Op) settled() time.Duration {
	if o.Outcome == Unknown {
		return 1<<63 - 1
	}
	return o.Return
}
