package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/fsm/kv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// created is an event that makes a key exist.
func created(revision uint64, key string) Event {
	return Event{Revision: revision, Item: &kv.Item{Key: key, Revision: revision}}
}

func mustWatch(t testing.TB, h *History, prefix string, after uint64) *Watcher {
	t.Helper()
	w, err := h.Watch(prefix, after)
	if err != nil {
		t.Fatalf("Watch(%q, %d): %v", prefix, after, err)
	}
	return w
}

// poll returns the revisions of the next events.
func poll(t testing.TB, w *Watcher) (revisions []uint64, reached uint64) {
	t.Helper()
	events, reached, err := w.Poll()
	if err != nil {
		t.Fatalf("Poll: %v", err)
	}
	for _, e := range events {
		revisions = append(revisions, e.Revision)
	}
	return revisions, reached
}

func TestWatcherSeesItsPrefixAfterItsRevision(t *testing.T) {
	h := NewHistory(100, 1<<20, 0)
	h.Append([]Event{created(1, "pods/a/1"), created(2, "nodes/1"), created(3, "pods/b/1"), created(4, "pods/a/2")})
	for _, tt := range []struct {
		prefix string
		after  uint64
		want   string
	}{
		{"", 0, "[1 2 3 4]"},
		{"", 2, "[3 4]"},
		{"pods/", 0, "[1 3 4]"},
		{"pods/", 1, "[3 4]"},
		{"pods/a/", 0, "[1 4]"},
		{"pods/a/2", 0, "[4]"},
		{"p", 0, "[1 3 4]"}, // no whole segment: of all tables
		{"nodes/", 0, "[2]"},
		{"nodes/", 2, "[]"},
		{"services/", 0, "[]"},
		{"pods/", 9, "[]"},
	} {
		got, reached := poll(t, mustWatch(t, h, tt.prefix, tt.after))
		if fmt.Sprint(got) != tt.want {
			t.Errorf("watch of %q after %d has events %v, want %s", tt.prefix, tt.after, got, tt.want)
		}
		if want := max(4, tt.after); reached != want {
			t.Errorf("watch of %q after %d reached %d, want %d", tt.prefix, tt.after, reached, want)
		}
	}
}

func TestWatchFromTheFutureSkipsWhatComesBefore(t *testing.T) {
	h := NewHistory(100, 1<<20, 0)
	w := mustWatch(t, h, "pods/", 2)
	h.Append([]Event{created(1, "pods/a/1"), created(2, "pods/a/2"), created(3, "pods/a/3")})
	if got, _ := poll(t, w); fmt.Sprint(got) != "[3]" {
		t.Errorf("events %v, want [3]", got)
	}
}

func TestBatchesAreBounded(t *testing.T) {
	h := NewHistory(10_000, 1<<30, 0)
	w := mustWatch(t, h, "pods/", 0)
	for i := range uint64(2500) {
		h.Append([]Event{created(i+1, "pods/a/1")})
	}
	for _, want := range []struct {
		n       int
		reached uint64
	}{{1000, 1000}, {1000, 2000}, {500, 2500}, {0, 2500}} {
		got, reached := poll(t, w)
		if len(got) != want.n || reached != want.reached {
			t.Fatalf("%d events up to %d, want %d up to %d", len(got), reached, want.n, want.reached)
		}
	}
}

// A watcher that is slow to take what it got keeps that alive, also when the
// history has dropped it: of large items it gets few.
func TestBatchesAreBoundedInBytes(t *testing.T) {
	h := NewHistory(10_000, 1<<30, 0)
	w := mustWatch(t, h, "pods/", 0)
	const n, size = 100, 100_000
	for i := range uint64(n) {
		e := created(i+1, "pods/a/1")
		e.Item.Value = make([]byte, size)
		h.Append([]Event{e})
	}
	seen := 0
	for seen < n {
		got, reached := poll(t, w)
		seen += len(got)
		if len(got) == 0 || len(got) > batchBytesMax/size+1 || reached != uint64(seen) {
			t.Fatalf("%d events up to %d of %d, want 1 to %d each time", len(got), reached, n, batchBytesMax/size+1)
		}
	}
}

// Looking for a rare event means looking at many others, in several turns.
func TestEventBehindManyOthersIsFoundAtOnce(t *testing.T) {
	const others = 3*scanMax + 10
	h := NewHistory(100_000, 1<<30, 0)
	for i := range uint64(others) {
		h.Append([]Event{created(i+1, "pods/busy/1")})
	}
	w := mustWatch(t, h, "pods/quiet/", 0)
	h.Append([]Event{created(others+1, "pods/quiet/1")})
	if got, reached := poll(t, w); len(got) != 1 || reached != others+1 {
		t.Errorf("%d events up to %d, want 1 up to %d", len(got), reached, others+1)
	}
}

func TestWatcherThatFallsBehindIsTold(t *testing.T) {
	h := NewHistory(3, 1<<20, 0)
	w := mustWatch(t, h, "pods/", 0)
	for i := range uint64(4) {
		h.Append([]Event{created(i+1, "pods/a/1")})
	}
	if _, _, err := w.Poll(); !errors.Is(err, ErrCompacted) {
		t.Errorf("Poll: %v, want %v", err, ErrCompacted)
	}
	if _, _, err := w.Next(t.Context()); !errors.Is(err, ErrCompacted) {
		t.Errorf("Next: %v, want %v", err, ErrCompacted)
	}
	if _, err := h.Watch("pods/", 0); !errors.Is(err, ErrCompacted) {
		t.Errorf("Watch after 0: %v, want %v", err, ErrCompacted)
	}
	if got, _ := poll(t, mustWatch(t, h, "pods/", 1)); fmt.Sprint(got) != "[2 3 4]" {
		t.Errorf("events after 1 are %v, want [2 3 4]", got)
	}
}

func TestHistoryIsBoundedInBytes(t *testing.T) {
	big := func(revision uint64) Event {
		value := make([]byte, 1000)
		return Event{
			Revision: revision,
			Prev:     &kv.Item{Key: "pods/a/1", Value: value},
			Item:     &kv.Item{Key: "pods/a/1", Value: value, Revision: revision},
		}
	}
	h := NewHistory(1000, 5*big(1).cost(), 0)
	for i := range uint64(20) {
		h.Append([]Event{big(i + 1)})
		if h.bytes > h.bytesMax {
			t.Fatalf("%d bytes of history, want at most %d", h.bytes, h.bytesMax)
		}
	}
	if got := h.events.len(); got != 5 {
		t.Errorf("%d events kept, want 5", got)
	}
	for h.events.len() > 0 {
		h.drop()
	}
	if h.bytes != 0 {
		t.Errorf("an empty history counts %d bytes, want 0", h.bytes)
	}
}

// A busy table pushes the events of all tables out of the history, but a
// table where nothing happened since has lost nothing.
func TestQuietTableCanBeResumedBesideABusyOne(t *testing.T) {
	h := NewHistory(10, 1<<20, 0)
	h.Append([]Event{created(1, "nodes/1")})
	w := mustWatch(t, h, "nodes/", 1)
	for i := range uint64(100) {
		h.Append([]Event{created(i+2, "pods/a/1")})
	}
	if got, reached := poll(t, w); len(got) != 0 || reached != 101 {
		t.Errorf("events %v up to %d, want none up to 101", got, reached)
	}
	if got, _ := poll(t, mustWatch(t, h, "nodes/", 1)); len(got) != 0 {
		t.Errorf("events %v after 1, want none", got)
	}
	if _, err := h.Watch("nodes/", 0); !errors.Is(err, ErrCompacted) {
		t.Errorf("Watch after 0: %v, want %v: event 1 is gone", err, ErrCompacted)
	}
}

// A watcher of a quiet namespace sleeps while its table's history turns over
// many times. When something happens at last, it must get that, not
// ErrCompacted: nothing that it wanted was lost.
func TestSleepingWatcherNeverFallsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHistory(10, 1<<20, 0)
		w := mustWatch(t, h, "pods/quiet/", 0)
		busy := func(from, to uint64) {
			for r := from; r <= to; r++ {
				h.Append([]Event{created(r, "pods/busy/1")})
			}
		}
		var got []Event
		var reached uint64
		var err error
		var wg sync.WaitGroup
		wg.Go(func() { got, reached, err = w.Next(t.Context()) })
		synctest.Wait()
		busy(1, 100)
		synctest.Wait()
		h.Append([]Event{created(101, "pods/quiet/1")})
		wg.Wait()
		if err != nil || len(got) != 1 || got[0].Revision != 101 || reached != 101 {
			t.Errorf("Next is %v, %d, %v, want the event of revision 101", got, reached, err)
		}

		// The same when the wait ends without an event.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wg.Go(func() { got, reached, err = w.Next(ctx) })
		synctest.Wait()
		busy(102, 200)
		wg.Wait()
		if !errors.Is(err, context.DeadlineExceeded) || len(got) != 0 || reached != 200 {
			t.Errorf("Next is %v, %d, %v, want no event, 200 and %v", got, reached, err, context.DeadlineExceeded)
		}
		if got, _ := poll(t, w); len(got) != 0 {
			t.Errorf("events %v, want none", got)
		}
	})
}

func TestOnlyWatchersOfThePrefixAreWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHistory(100, 1<<20, 0)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for _, prefix := range []string{"", "pods/", "pods/a/", "pods/a/1", "pods/b/", "nodes/"} {
			w := mustWatch(t, h, prefix, 0)
			wg.Go(func() { _, _, _ = w.Next(ctx) })
		}
		synctest.Wait()
		h.mu.Lock()
		before := maps.Clone(h.waits)
		h.mu.Unlock()
		if n := before["pods/a/"].waiters; n != 2 {
			t.Errorf("%d watchers wait on pods/a/, want 2: the object's sleeps on its namespace", n)
		}
		h.Append([]Event{created(1, "pods/a/2")})
		for prefix, want := range map[string]bool{"": true, "pods/": true, "pods/a/": true, "pods/b/": false, "nodes/": false} {
			woken := false
			select {
			case <-before[prefix].woken:
				woken = true
			default:
			}
			if woken != want {
				t.Errorf("watchers of %q were woken: %v, want %v", prefix, woken, want)
			}
		}
		cancel()
		wg.Wait()
		if len(h.waits) != 0 {
			t.Errorf("%d prefixes are waited on after everybody left, want 0", len(h.waits))
		}
	})
}

func TestResetTellsEveryWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHistory(100, 1<<20, 0)
		h.Append([]Event{created(1, "pods/a/1")})
		sleeping, polling := mustWatch(t, h, "pods/", 1), mustWatch(t, h, "pods/", 1)
		var err error
		var wg sync.WaitGroup
		wg.Go(func() { _, _, err = sleeping.Next(t.Context()) })
		synctest.Wait()
		h.Reset(50)
		wg.Wait()
		if !errors.Is(err, ErrCompacted) {
			t.Errorf("Next: %v, want %v", err, ErrCompacted)
		}
		if _, _, err := polling.Poll(); !errors.Is(err, ErrCompacted) {
			t.Errorf("Poll: %v, want %v", err, ErrCompacted)
		}
		if _, err := h.Watch("pods/", 49); !errors.Is(err, ErrCompacted) {
			t.Errorf("Watch after 49: %v, want %v", err, ErrCompacted)
		}
		w := mustWatch(t, h, "pods/", 50)
		h.Append([]Event{created(51, "pods/a/1")})
		if got, _ := poll(t, w); fmt.Sprint(got) != "[51]" {
			t.Errorf("events %v, want [51]", got)
		}
	})
}

func TestCompactForgetsUpToItsRevision(t *testing.T) {
	h := NewHistory(100, 1<<20, 0)
	seen := mustWatch(t, h, "pods/", 0)
	for i := range uint64(10) {
		h.Append([]Event{created(i+1, "pods/a/1")})
	}
	poll(t, seen)
	h.Compact(6)
	for after := range uint64(11) {
		_, err := h.Watch("pods/", after)
		if want := after < 6; errors.Is(err, ErrCompacted) != want {
			t.Errorf("Watch after %d: %v, want ErrCompacted: %v", after, err, want)
		}
	}
	if got, _ := poll(t, seen); len(got) != 0 {
		t.Errorf("events %v for one who has seen all, want none", got)
	}
	if _, err := h.Watch("nodes/", 0); err != nil {
		t.Errorf("Watch of a table without events: %v, want nil: it has lost none", err)
	}
	h.Compact(1000)
	if _, err := h.Watch("pods/", 10); err != nil {
		t.Errorf("Watch after the newest revision: %v, want nil", err)
	}
}

// Undoing takes several turns. What is dropped between them may be missing.
func TestUndoIsNewestFirstOrRefused(t *testing.T) {
	const n = 3*scanMax + 10
	h := NewHistory(2*n, 1<<30, 0)
	for i := range uint64(n) {
		h.Append([]Event{created(i+1, fmt.Sprintf("pods/%c/1", 'a'+i%2))})
	}
	for _, tt := range []struct {
		prefix         string
		from, to       uint64
		first, last, n uint64
	}{
		{"pods/", n, 0, n, 1, n},
		{"", n, 0, n, 1, n},
		{"pods/a/", n, 0, n - 1, 1, n / 2},
		{"pods/", n - 5, n - 10, n - 5, n - 9, 5},
		{"pods/", n - 5, scanMax, n - 5, scanMax + 1, n - 5 - scanMax},
		{"nodes/", n, 0, 0, 0, 0},
	} {
		var got []uint64
		if err := h.Undo(tt.prefix, tt.from, tt.to, func(e Event) { got = append(got, e.Revision) }); err != nil {
			t.Fatal(err)
		}
		if uint64(len(got)) != tt.n || tt.n > 0 && (got[0] != tt.first || got[len(got)-1] != tt.last) || !slices.IsSortedFunc(got, func(a, b uint64) int { return cmp.Compare(b, a) }) {
			t.Errorf("%q from %d to %d: %d events, want %d from %d to %d", tt.prefix, tt.from, tt.to, len(got), tt.n, tt.first, tt.last)
		}
	}
	for _, meanwhile := range []func(){func() { h.Compact(1) }, func() { h.Compact(n) }, func() { h.Reset(n) }} {
		err := h.Undo("pods/", n, 0, func(e Event) {
			if e.Revision == n-10 {
				meanwhile()
			}
		})
		if !errors.Is(err, ErrCompacted) {
			t.Errorf("some of it is dropped meanwhile: %v, want %v", err, ErrCompacted)
		}
		if err := h.Undo("pods/", n, 0, func(Event) { t.Error("an event although some are missing") }); !errors.Is(err, ErrCompacted) {
			t.Errorf("some of it is missing: %v, want %v", err, ErrCompacted)
		}
	}
}

// A queue is walked while it grows and shrinks past the bounds of its chunks.
func TestQueueIsTheEventsInOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var q queue
	var f file
	var model []Event
	revision, dropped := uint64(0), uint64(0)
	for round := range 300 {
		for range r.IntN(700) {
			revision += 1 + r.Uint64N(3)
			f.push(q.end())
			q.push(created(revision, "k"))
			model = append(model, created(revision, "k"))
		}
		for range r.IntN(min(len(model), 700+round) + 1) {
			dropped = model[0].Revision
			if got := q.pop(); got.Revision != dropped {
				t.Fatalf("popped revision %d, want %d", got.Revision, dropped)
			}
			f.pop(dropped)
			model = model[1:]
		}
		if q.len() != len(model) || f.len() != len(model) || len(q.chunks) > 2+len(model)/chunkLen || cap(f.numbers) > 128+4*len(model) {
			t.Fatalf("%d and %d events in %d chunks and room for %d, want %d", q.len(), f.len(), len(q.chunks), cap(f.numbers), len(model))
		}
		for range 20 {
			asked := dropped + r.Uint64N(revision-dropped+3)
			want, _ := slices.BinarySearchFunc(model, asked+1, func(e Event, r uint64) int { return cmp.Compare(e.Revision, r) })
			if got := int(q.after(asked) - q.first); got != want {
				t.Fatalf("the first event after %d is number %d, want %d", asked, got, want)
			}
			if got := f.after(&q, asked); got != want || got < len(model) && f.at(&q, got).Revision != model[got].Revision {
				t.Fatalf("the file's first event after %d is number %d, want %d", asked, got, want)
			}
		}
	}
}

// A table for every key must not be remembered for ever. What was forgotten
// with them is not taken for known.
func TestTablesWithoutEventsAreForgotten(t *testing.T) {
	h := NewHistory(10, 1<<20, 0)
	const tables = 10 * tablesMax
	for i := range uint64(tables) {
		h.Append([]Event{created(i+1, fmt.Sprintf("table-%d/x", i)), created(i+1, fmt.Sprintf("no-table-%d", i))})
	}
	if n := len(h.tables); n > tablesMax+20 {
		t.Errorf("%d tables are remembered, want about %d", n, tablesMax)
	}
	if _, err := h.Watch("table-0/", 0); !errors.Is(err, ErrCompacted) {
		t.Errorf("a watch of a table whose event is gone: %v, want %v", err, ErrCompacted)
	}
	if _, err := h.Watch("table-0/", tables); err != nil {
		t.Errorf("a watch from now: %v, want nil", err)
	}
}

func TestProgressStopsBeforeTheFirstOutstandingEvent(t *testing.T) {
	h := NewHistory(100, 1<<20, 0)
	w := mustWatch(t, h, "pods/a/", 0)
	h.Append([]Event{created(1, "pods/b/1"), created(2, "nodes/1"), created(3, "pods/a/1"), created(4, "pods/b/1")})
	if got := w.Progress(); got != 2 {
		t.Errorf("progress %d before the event of revision 3 was taken, want 2", got)
	}
	poll(t, w)
	h.Append([]Event{created(5, "nodes/1")})
	if got := w.Progress(); got != 5 {
		t.Errorf("progress %d with nothing outstanding, want 5", got)
	}
}

func TestLastChangeIsOfThePrefixsTable(t *testing.T) {
	h := NewHistory(4, 1<<20, 0)
	h.Append([]Event{created(1, "pods/a/1"), created(2, "nodes/1"), created(3, "nodes/1"), created(4, "pods/a/1")})
	for _, tt := range []struct {
		prefix     string
		at, expect uint64
	}{
		{"pods/", 4, 4}, {"pods/", 3, 1}, {"nodes/", 4, 3}, {"nodes/", 2, 2}, {"nodes/", 1, 0}, {"services/", 4, 0}, {"pods/", 9, 4},
	} {
		if got := h.LastChange(tt.prefix, tt.at); got != tt.expect {
			t.Errorf("LastChange(%q, %d) is %d, want %d", tt.prefix, tt.at, got, tt.expect)
		}
	}
	h.Append([]Event{created(5, "pods/a/1"), created(6, "pods/a/1")}) // 1 and 2 are dropped
	for _, tt := range []struct {
		prefix     string
		at, expect uint64
	}{
		{"pods/", 3, 1}, {"nodes/", 6, 3}, {"nodes/", 2, 2}, {"pods/", 5, 5},
	} {
		if got := h.LastChange(tt.prefix, tt.at); got != tt.expect {
			t.Errorf("LastChange(%q, %d) after dropping is %d, want %d", tt.prefix, tt.at, got, tt.expect)
		}
	}
	h.Reset(20)
	if got := h.LastChange("pods/", 25); got != 20 {
		t.Errorf("LastChange after a reset to 20 is %d, want 20", got)
	}
}

// Watchers of all sorts of prefixes run beside a writer whose history is too
// short for slow ones. Each must get exactly the events of its prefix, in
// order, until it is told that it fell behind.
func TestWatchersMissNothingUnlessTold(t *testing.T) {
	const revisions = 30_000
	keys := []string{"pods/a/1", "pods/a/2", "pods/b/1", "nodes/1", "nodes/2", "events/a/1"}
	random := rand.New(rand.NewPCG(3, 4))
	written := make([]Event, revisions)
	for i := range written {
		written[i] = created(uint64(i+1), keys[random.IntN(len(keys))])
	}
	h := NewHistory(2_000, 1<<20, 0)
	var wg sync.WaitGroup
	var told sync.Map
	for i, prefix := range []string{"", "pods/", "pods/a/", "pods/a/1", "pods/b/", "nodes/", "events/", "none/"} {
		w := mustWatch(t, h, prefix, 0)
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			next := 0 // index in written of the first event not seen
			for next < revisions {
				wait, stop := context.WithTimeout(ctx, 20*time.Millisecond)
				events, reached, err := w.Next(wait)
				stop()
				if errors.Is(err, ErrCompacted) {
					told.Store(i, true)
					return
				}
				for _, e := range events {
					for next < revisions && !strings.HasPrefix(written[next].Key(), prefix) {
						next++
					}
					if next == revisions || e.Revision != written[next].Revision {
						t.Errorf("watcher of %q got revision %d out of turn", prefix, e.Revision)
						return
					}
					next++
				}
				for ; next < int(reached); next++ {
					if strings.HasPrefix(written[next].Key(), prefix) {
						t.Errorf("watcher of %q reached %d without the event of revision %d", prefix, reached, next+1)
						return
					}
				}
			}
		})
	}
	for i := 0; i < revisions; {
		n := min(1+i%7, revisions-i)
		h.Append(written[i : i+n])
		i += n
		if i%1000 < 7 {
			time.Sleep(100 * time.Microsecond)
		}
	}
	wg.Wait()
	n := 0
	told.Range(func(_, _ any) bool { n++; return true })
	if n == 8 {
		t.Error("every watcher fell behind: nothing was tested")
	}
}

func BenchmarkAppend(b *testing.B) {
	h := NewHistory(100_000, 256<<20, 0)
	b.ReportAllocs()
	for i := uint64(1); b.Loop(); i++ {
		h.Append([]Event{created(i, "pods/default/web-1")})
	}
}

// One event told to a thousand watchers that wait for it.
func BenchmarkFanOutTo1000(b *testing.B) {
	const watchers = 1000
	h := NewHistory(100_000, 256<<20, 0)
	ctx, cancel := context.WithCancel(b.Context())
	var wg, seen sync.WaitGroup
	for range watchers {
		w := mustWatch(b, h, "pods/", 0)
		wg.Go(func() {
			for {
				events, _, err := w.Next(ctx)
				if err != nil {
					return
				}
				for range events {
					seen.Done()
				}
			}
		})
	}
	b.ReportAllocs()
	for i := uint64(1); b.Loop(); i++ {
		seen.Add(watchers)
		h.Append([]Event{created(i, "pods/default/web-1")})
		seen.Wait()
	}
	cancel()
	wg.Wait()
}

// What the same thousand watchers cost a writer of another table: nothing.
func BenchmarkAppendBeside1000IdleWatchers(b *testing.B) {
	h := NewHistory(100_000, 256<<20, 0)
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	for range 1000 {
		w := mustWatch(b, h, "nodes/", 0)
		wg.Go(func() { _, _, _ = w.Next(ctx) })
	}
	b.ReportAllocs()
	for i := uint64(1); b.Loop(); i++ {
		h.Append([]Event{created(i, "pods/default/web-1")})
	}
	cancel()
	wg.Wait()
}
