package fsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/fsm/kv"
	"github.com/musterhq/muster/fsm/watch"
)

// shown tells the items of a view under a prefix, one line each.
func shown(view *kv.View, prefix string) (lines []string) {
	for item := range view.Range(prefix, "") {
		lines = append(lines, fmt.Sprintf("%s=%s%v at %d since %d", item.Key, item.Value, item.Labels, item.Revision, item.CreateRevision))
	}
	return lines
}

// The past that a machine works out from its history is what it was, on a
// replica that saw it, on one that was fed in other groups, and on one that
// came from a snapshot; or it is said to be gone, exactly when a watch from
// there is refused, too.
func TestPastIsAsItWas(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 3))
		machines := map[string]*Machine{
			"steady": New(Config{}),
			"short":  New(Config{HistoryEvents: 60}),
			"joined": New(Config{}),
		}
		steady := machines["steady"]
		were := map[uint64]*kv.View{0: steady.View()}
		for round := range 60 {
			var cmds [][]byte
			for range 1 + r.IntN(8) {
				cmd := encode(t, randomCommand(r, steady.Revision()))
				if _, err := steady.ApplyOne(cmd); err != nil {
					t.Fatal(err)
				}
				were[steady.Revision()] = steady.View()
				cmds = append(cmds, cmd)
			}
			if round == 30 {
				if err := machines["joined"].Restore(bytes.NewReader(snapshotOf(t, steady))); err != nil {
					t.Fatal(err)
				}
			}
			for name, m := range machines {
				if name == "short" || name == "joined" && round != 30 {
					if _, err := m.Apply(cmds, nil); err != nil {
						t.Fatal(err)
					}
				}
			}
			for range 6 {
				revision := r.Uint64N(steady.Revision() + 1)
				was := were[revision]
				if was == nil {
					continue // in the middle of a transaction
				}
				prefix := []string{"", "t0/", "t1/", "t2/", "t1/3", "t"}[r.IntN(6)]
				for name, m := range machines {
					_, wantErr := m.Watch(prefix, revision)
					view, err := m.ViewAt(prefix, revision)
					if !errors.Is(err, wantErr) || (err == nil) != (wantErr == nil) {
						t.Fatalf("seed %d: %s: %q at %d of %d: error %v, a watch has %v", seed, name, prefix, revision, m.Revision(), err, wantErr)
					}
					if err != nil {
						continue
					}
					if view.Revision() != revision {
						t.Fatalf("seed %d: %s: a view of revision %d, want %d", seed, name, view.Revision(), revision)
					}
					if diff := cmp.Diff(shown(was, prefix), shown(view, prefix)); diff != "" {
						t.Fatalf("seed %d: %s: %q at %d of %d (-as it was +as told):\n%s", seed, name, prefix, revision, m.Revision(), diff)
					}
				}
			}
		}
		if _, err := steady.ViewAt("", steady.Revision()+1); !errors.Is(err, ErrAhead) {
			t.Errorf("the future: %v, want %v", err, ErrAhead)
		}
		for name, m := range machines {
			if !bytes.Equal(snapshotOf(t, m), snapshotOf(t, steady)) {
				t.Errorf("seed %d: looking at the past has changed the present of %s", seed, name)
			}
		}
	}
}

// Pages of many lists are read while the machine goes on: each must be of its
// own revision throughout.
func TestPastBesideAWriter(t *testing.T) {
	m := New(Config{HistoryEvents: 2000})
	const keys = 50
	write := func(round int) {
		parts := make([]any, keys)
		for i := range parts {
			parts[i] = put(fmt.Sprintf("t/%02d", i), fmt.Sprint(round))
		}
		apply(t, m, txn(parts...))
	}
	write(0)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				first := m.View()
				for page := range 10 {
					select {
					case <-stop:
						return
					default:
					}
					view, err := m.ViewAt("t/", first.Revision())
					if errors.Is(err, watch.ErrCompacted) {
						break
					}
					if err != nil {
						t.Error(err)
						return
					}
					want := string(first.Get("t/00").Value)
					for item := range view.Range("t/", fmt.Sprintf("t/%02d", 5*page)) {
						if string(item.Value) != want {
							t.Errorf("%s is %s at revision %d, want %s", item.Key, item.Value, view.Revision(), want)
							return
						}
					}
				}
			}
		})
	}
	for round := range 400 {
		write(round)
		if round%50 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	close(stop)
	wg.Wait()
}

// The state may be replaced while its past is worked out.
func TestPastOfAReplacedStateIsNotTold(t *testing.T) {
	m := New(Config{})
	apply(t, m, txn(put("t/1", "x"), put("t/2", "x")))
	epoch := m.past.begin()
	view := m.View()
	if err := m.Restore(bytes.NewReader(snapshotOf(t, New(Config{})))); err != nil {
		t.Fatal(err)
	}
	if m.past.keep(pastView{table: "t/", view: view}, epoch) || len(m.past.views) != 0 {
		t.Error("a view of the state before is kept")
	}
}

func TestRewoundViewsAreBounded(t *testing.T) {
	m := New(Config{})
	for range 3 * pastMax {
		apply(t, m, txn(put("t/1", "x")))
	}
	for revision := range m.Revision() {
		if _, err := m.ViewAt("t/", revision); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(m.past.views); n != pastMax {
		t.Errorf("%d views of the past are kept, want %d", n, pastMax)
	}
	m.past.sweep(time.Now().Add(pastIdle/2), m.history)
	if n := len(m.past.views); n != pastMax {
		t.Errorf("%d views of the past are kept after half the time, want %d", n, pastMax)
	}
	m.history.Compact(m.Revision() - 4)
	m.past.sweep(time.Now(), m.history)
	if n := len(m.past.views); n != 4 {
		t.Errorf("%d views are kept, want the 4 that the history reaches back to", n)
	}
	m.past.sweep(time.Now().Add(2*pastIdle), m.history)
	if n := len(m.past.views); n != 0 {
		t.Errorf("%d views are kept that nobody came back for, want 0", n)
	}
}

// An idle machine gives back what a burst of writes took.
func TestHistoryDoesNotGrowOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{HistoryAge: 5 * time.Minute})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := m.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		for range 10 {
			apply(t, m, txn(put("t/1", "x")))
			time.Sleep(time.Minute)
		}
		// Now the events are 10, 9, ... 1 minutes old.
		if _, err := m.Watch("t/", 6); err != nil {
			t.Errorf("the events of the last four minutes: %v, want nil", err)
		}
		if _, err := m.Watch("t/", 3); !errors.Is(err, watch.ErrCompacted) {
			t.Errorf("events of more than six minutes ago: %v, want %v", err, watch.ErrCompacted)
		}
		time.Sleep(6 * time.Minute)
		if _, err := m.Watch("t/", 9); !errors.Is(err, watch.ErrCompacted) {
			t.Errorf("the last event, after seven minutes: %v, want %v", err, watch.ErrCompacted)
		}
		if _, err := m.Watch("t/", 10); err != nil {
			t.Errorf("a watch from now: %v, want nil", err)
		}
		cancel()
		wg.Wait()
	})
}

// The bound of the history follows the size of the state, which is counted
// along and not walked.
func TestHistoryMayTakeAShareOfTheState(t *testing.T) {
	m := New(Config{})
	check := func(when string) {
		t.Helper()
		var want int64
		for item := range m.View().Range("", "") {
			want += item.Size()
		}
		if m.bytes != want {
			t.Errorf("%s: %d bytes counted, want %d", when, m.bytes, want)
		}
	}
	r := rand.New(rand.NewPCG(1, 5))
	for range 500 {
		apply(t, m, randomCommand(r, m.Revision()))
	}
	check("after random commands")
	snapshot := snapshotOf(t, m)
	m = New(Config{})
	if err := m.Restore(bytes.NewReader(snapshot)); err != nil {
		t.Fatal(err)
	}
	check("after a restore")
	const size, n = 1 << 20, 60
	for range 2 {
		for i := range n {
			apply(t, m, txn(put(fmt.Sprintf("t/%d", i), string(make([]byte, size)))))
		}
		m.tidy(time.Now())
	}
	check("after many puts")
	// Each event of the second round keeps a megabyte: 15 of them fit at first, 30 now.
	for range 2 {
		for i := range n {
			apply(t, m, txn(put(fmt.Sprintf("t/%d", i), string(make([]byte, size)))))
		}
	}
	if _, err := m.ViewAt("t/", m.Revision()-25); err != nil {
		t.Errorf("25 MiB ago, with 60 MiB of state: %v, want nil", err)
	}
	for i := range n {
		apply(t, m, txn(del(fmt.Sprintf("t/%d", i))))
	}
	m.tidy(time.Now())
	if _, err := m.ViewAt("t/", m.Revision()-25); !errors.Is(err, watch.ErrCompacted) {
		t.Errorf("25 MiB ago, with no state: %v, want %v", err, watch.ErrCompacted)
	}
}

// A client whose node goes away resumes its watch on another. Nodes are fed the
// same commands in other groups, remember more or less, and are restored from
// one another meanwhile. It must see each change exactly once and in order, or
// be told that it cannot; then it lists, and goes on from there.
func TestWatchHopsBetweenNodes(t *testing.T) {
	expired, hops := 0, 0
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 4))
		full := New(Config{HistoryEvents: 1 << 20}) // what really happened
		nodes := []*Machine{New(Config{}), New(Config{HistoryEvents: 20 + r.IntN(100)}), New(Config{HistoryBytes: 20_000})}
		behind := make([][][]byte, len(nodes))
		prefix := []string{"", "t0/", "t1/", "t1/3"}[r.IntN(4)]
		var cursor uint64
		at := 0
		watcher, err := nodes[at].Watch(prefix, 0)
		if err != nil {
			t.Fatal(err)
		}
		var seen []watch.Event // since the last list
		listed := uint64(0)
		check := func(upTo uint64) {
			t.Helper()
			var want []watch.Event
			_ = full.history.Undo(prefix, upTo, listed, func(e watch.Event) { want = append([]watch.Event{e}, want...) })
			if len(want) != len(seen) {
				t.Fatalf("seed %d: %d events from %d to %d, want %d", seed, len(seen), listed, upTo, len(want))
			}
			for i, e := range want {
				if got := seen[i]; got.Revision != e.Revision || got.Key() != e.Key() || (got.Item == nil) != (e.Item == nil) ||
					e.Item != nil && !bytes.Equal(got.Item.Value, e.Item.Value) {
					t.Fatalf("seed %d: event %d is %v, want %v", seed, i, got, e)
				}
			}
		}
		for range 150 {
			for range r.IntN(12) {
				c := randomCommand(r, full.Revision())
				if c.Compact != nil {
					continue // full must know everything
				}
				cmd := encode(t, c)
				if _, err := full.ApplyOne(cmd); err != nil {
					t.Fatal(err)
				}
				for i := range behind {
					behind[i] = append(behind[i], cmd)
				}
			}
			for i, m := range nodes {
				n := r.IntN(len(behind[i]) + 1)
				if _, err := m.Apply(behind[i][:n], nil); err != nil {
					t.Fatal(err)
				}
				behind[i] = behind[i][n:]
			}
			if r.IntN(40) == 0 { // it was so far behind that it is sent a snapshot
				to := r.IntN(len(nodes))
				if err := nodes[to].Restore(bytes.NewReader(snapshotOf(t, full))); err != nil {
					t.Fatal(err)
				}
				behind[to] = nil
			}
			if r.IntN(4) == 0 {
				hops++
				at = r.IntN(len(nodes))
				watcher, err = nodes[at].Watch(prefix, cursor)
			}
			var events []watch.Event
			if err == nil {
				events, cursor, err = watcher.Poll()
			}
			if errors.Is(err, watch.ErrCompacted) {
				expired++
				view := nodes[at].View()
				if view.Revision() < cursor {
					view = full.View() // this one is behind: list where that was seen already
				}
				check(cursor)
				seen, listed, cursor = nil, view.Revision(), view.Revision()
				watcher, err = nodes[at].Watch(prefix, cursor)
			}
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if progress := watcher.Progress(); progress < cursor {
				t.Fatalf("seed %d: progress %d behind %d", seed, progress, cursor)
			}
			seen = append(seen, events...)
		}
		check(cursor)
	}
	if expired < 20 || hops < 500 {
		t.Errorf("%d watches expired and %d were resumed elsewhere: that tests too little", expired, hops)
	}
}

// What the second page of a list costs after many writes, when another node
// answered the first; the third costs nothing.
func BenchmarkRewind(b *testing.B) {
	m := loaded(b, 100_000)
	m.tidy(time.Now())
	revision := m.Revision()
	for i := range 15_000 {
		apply(b, m, txn(put(podKey(i*97%100_000), podValue[:1000])))
	}
	if _, err := m.ViewAt("pods/", revision); err != nil {
		b.Fatal(err)
	}
	b.Run("15000 events", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.past.forget()
			if _, err := m.ViewAt("pods/", revision); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("kept", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := m.ViewAt("pods/", revision); err != nil {
				b.Fatal(err)
			}
		}
	})
}
