package watch

import (
	"context"
	"strings"
)

const (
	batchMax      = 1000    // events that one Next returns
	batchBytesMax = 1 << 20 // bytes of their items, but for the last: what a slow watcher keeps alive
	scanMax       = 8192    // events looked at before writers get a turn
)

// Watcher walks the events of a prefix. One goroutine uses it. It holds
// nothing that needs closing.
type Watcher struct {
	history *History
	prefix  string
	epoch   uint64
	// No event of the prefix at or below cursor is outstanding.
	cursor uint64
}

// Watch returns a watcher of the events with a revision above after whose keys
// have the prefix; after may lie ahead of the history. ErrCompacted when some
// of them may be forgotten already.
func (h *History) Watch(prefix string, after uint64) (*Watcher, error) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	w := &Watcher{history: h, prefix: prefix, epoch: h.epoch, cursor: after}
	if w.behind() {
		return nil, ErrCompacted
	}
	return w, nil
}

// Next returns the next events, at most 1,000 and about 1 MiB of them, and the revision reached: no
// event of the prefix at or below it is outstanding. It waits until there is
// an event, or until ctx ends; then it returns no events and ctx's error, and
// the revision reached still holds (which is what bookmarks are made of).
//
// A watcher that waits in here does not fall behind, however long nothing
// happens under its prefix and however much happens elsewhere.
func (w *Watcher) Next(ctx context.Context) ([]Event, uint64, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, w.cursor, err
		}
		events, reached, err := w.Poll()
		if err != nil || len(events) > 0 {
			return events, reached, err
		}
		wait, ok := w.enter()
		if !ok {
			continue
		}
		select {
		case <-wait.woken:
		case <-ctx.Done():
		}
		w.leave(wait)
	}
}

// Poll is Next without waiting: no events means that there are none yet.
func (w *Watcher) Poll() ([]Event, uint64, error) {
	var events []Event
	var bytes int64
	for {
		more, err := w.scan(&events, &bytes)
		if err != nil {
			return nil, w.cursor, err
		}
		if !more {
			return events, w.cursor, nil
		}
	}
}

// Progress is the revision up to which nothing is outstanding.
func (w *Watcher) Progress() uint64 {
	w.history.mu.RLock()
	defer w.history.mu.RUnlock()
	if w.behind() {
		return w.cursor
	}
	events := w.history.of(w.prefix)
	for i := events.after(w.cursor); i < events.len(); i++ {
		if e := events.at(i); strings.HasPrefix(e.Key(), w.prefix) {
			return e.Revision - 1
		}
	}
	return max(w.cursor, w.history.last)
}

// scan moves the cursor over at most scanMax events and collects those of the
// prefix. more says that there are further ones to look at.
func (w *Watcher) scan(found *[]Event, bytes *int64) (more bool, err error) {
	h := w.history
	h.mu.RLock()
	defer h.mu.RUnlock()
	if w.behind() {
		return false, ErrCompacted
	}
	from := h.of(w.prefix)
	first := from.after(w.cursor)
	for i, n := first, from.len(); i < n; i++ {
		if i == first+scanMax {
			return true, nil
		}
		e := from.at(i)
		w.cursor = e.Revision
		if strings.HasPrefix(e.Key(), w.prefix) {
			*bytes += e.Item.Size() + e.Prev.Size()
			if *found = append(*found, e); len(*found) == batchMax || *bytes >= batchBytesMax {
				return false, nil
			}
		}
	}
	w.cursor = max(w.cursor, h.last)
	return false, nil
}

// behind says that events after the cursor may be missing. The lock is held.
func (w *Watcher) behind() bool {
	h := w.history
	if w.epoch != h.epoch || w.cursor < h.floor {
		return true
	}
	return w.cursor < h.of(w.prefix).dropped()
}

// wait is where watchers of one prefix sleep until the next event under it.
type wait struct {
	prefix  string
	waiters int
	woken   chan struct{}
	// What woke them: the first event of the prefix since any of them came
	// here. 0 after a reset.
	revision uint64
}

// waitPrefix is the part of a prefix that ends a segment. Sleeping on that
// lets an event find its sleepers with one look-up per segment of its key.
func waitPrefix(prefix string) string {
	return prefix[:strings.LastIndexByte(prefix, '/')+1]
}

// enter registers the watcher to be woken. It refuses when something happened
// since the last scan.
func (w *Watcher) enter() (*wait, bool) {
	h := w.history
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.epoch != h.epoch || w.cursor < h.last {
		return nil, false
	}
	prefix := waitPrefix(w.prefix)
	p := h.waits[prefix]
	if p == nil {
		p = &wait{prefix: prefix, woken: make(chan struct{})}
		h.waits[prefix] = p
	}
	p.waiters++
	return p, true
}

// leave moves the cursor over everything that happened while the watcher
// waited: up to the event that woke it, or up to now if none did.
func (w *Watcher) leave(p *wait) {
	h := w.history
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case w.epoch != h.epoch:
	case p.revision > 0:
		w.cursor = max(w.cursor, p.revision-1)
	default:
		w.cursor = max(w.cursor, h.last)
	}
	if p.waiters--; p.waiters == 0 && h.waits[p.prefix] == p {
		delete(h.waits, p.prefix)
	}
}

// wake ends the waits on every prefix of the event's key. The lock is held.
func (h *History) wake(e Event) {
	if len(h.waits) == 0 {
		return
	}
	key := e.Key()
	h.wakePrefix("", e.Revision)
	for i := range len(key) {
		if key[i] == '/' {
			h.wakePrefix(key[:i+1], e.Revision)
		}
	}
}

func (h *History) wakePrefix(prefix string, revision uint64) {
	if p := h.waits[prefix]; p != nil {
		p.revision = revision
		close(p.woken)
		delete(h.waits, prefix)
	}
}
