package fsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/musterhq/muster/fsm/watch"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func put(key, value string, labels ...string) *storagev1.Op {
	p := &storagev1.Put{Key: []byte(key), Value: []byte(value)}
	for i := 0; i+1 < len(labels); i += 2 {
		p.Labels = append(p.Labels, &storagev1.Attr{Name: labels[i], Value: labels[i+1]})
	}
	return &storagev1.Op{Op: &storagev1.Op_Put{Put: p}}
}

func del(key string) *storagev1.Op {
	return &storagev1.Op{Op: &storagev1.Op_Delete{Delete: &storagev1.Delete{Key: []byte(key)}}}
}

func at(key string, revision uint64) *storagev1.Guard {
	return &storagev1.Guard{Key: []byte(key), Revision: revision}
}

func exists(key string) *storagev1.Guard {
	return &storagev1.Guard{Key: []byte(key), Exists: true}
}

func txn(parts ...any) *storagev1.Command {
	t := &storagev1.Txn{}
	for _, part := range parts {
		switch part := part.(type) {
		case *storagev1.Guard:
			t.Guards = append(t.Guards, part)
		case *storagev1.Op:
			t.Ops = append(t.Ops, part)
		}
	}
	return &storagev1.Command{Txn: t}
}

func encode(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func apply(t testing.TB, m *Machine, c *storagev1.Command) *storagev1.Result {
	t.Helper()
	answer, err := m.ApplyOne(encode(t, c))
	if err != nil {
		t.Fatalf("Apply(%v): %v", c, err)
	}
	result := &storagev1.Result{}
	if err := proto.Unmarshal(answer, result); err != nil {
		t.Fatal(err)
	}
	return result
}

func snapshotOf(t testing.TB, m *Machine) []byte {
	t.Helper()
	write, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// eventsOf tells all events after a revision, one line each.
func eventsOf(t testing.TB, m *Machine, after uint64) []string {
	t.Helper()
	w, err := m.Watch("", after)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for {
		events, _, err := w.Poll()
		if err != nil {
			t.Fatal(err)
		}
		if len(events) == 0 {
			return lines
		}
		for _, e := range events {
			line := fmt.Sprint(e.Revision, " ", e.Key())
			if e.Prev != nil {
				line += fmt.Sprintf(", was %q%v at %d", e.Prev.Value, e.Prev.Labels, e.Prev.Revision)
			}
			if e.Item != nil {
				line += fmt.Sprintf(", is %q%v at %d since %d", e.Item.Value, e.Item.Labels, e.Item.Revision, e.Item.CreateRevision)
			}
			lines = append(lines, line)
		}
	}
}

func TestApplyAnswersWithRevisions(t *testing.T) {
	m := New(Config{})
	for i, step := range []struct {
		does string
		cmd  *storagev1.Command
		want *storagev1.Result
	}{
		{"create", txn(at("a", 0), put("a", "1")), &storagev1.Result{Applied: true, Revision: 1, OpRevisions: []uint64{1}}},
		{"create what exists", txn(at("a", 0), put("a", "2")), &storagev1.Result{Revision: 1, FoundRevision: 1}},
		{"update at its revision", txn(at("a", 1), put("a", "2")), &storagev1.Result{Applied: true, Revision: 2, OpRevisions: []uint64{2}}},
		{"update at an old revision", txn(at("a", 1), put("a", "3")), &storagev1.Result{Revision: 2, FoundRevision: 2}},
		{"put the same bytes", txn(put("a", "2")), &storagev1.Result{Applied: true, Revision: 3, OpRevisions: []uint64{3}}},
		{"update what must exist", txn(exists("a"), put("a", "4")), &storagev1.Result{Applied: true, Revision: 4, OpRevisions: []uint64{4}}},
		{"update what does not exist", txn(exists("b"), put("b", "1")), &storagev1.Result{Revision: 4}},
		{"update at a revision what does not exist", txn(at("b", 1), put("b", "1")), &storagev1.Result{Revision: 4}},
		{"the second guard fails", txn(exists("a"), at("a", 3), put("b", "1"), del("a")), &storagev1.Result{Revision: 4, FailedGuard: 1, FoundRevision: 4}},
		{"delete nothing", txn(del("b")), &storagev1.Result{Applied: true, Revision: 4, OpRevisions: []uint64{0}}},
		{"many keys", txn(put("b", "1"), del("a"), del("zzz"), put("c", "1")), &storagev1.Result{Applied: true, Revision: 7, OpRevisions: []uint64{5, 6, 0, 7}}},
		{"one key several times", txn(put("d", "1"), put("d", "2"), del("d"), put("d", "3")), &storagev1.Result{Applied: true, Revision: 11, OpRevisions: []uint64{8, 9, 10, 11}}},
		{"guards only", txn(exists("b")), &storagev1.Result{Applied: true, Revision: 11}},
		{"nothing", txn(), &storagev1.Result{Applied: true, Revision: 11}},
		{"compact", &storagev1.Command{Compact: &storagev1.Compact{Revision: 9}}, &storagev1.Result{Applied: true, Revision: 11}},
	} {
		if diff := cmp.Diff(step.want, apply(t, m, step.cmd), protocmp.Transform()); diff != "" {
			t.Errorf("step %d, %s (-want +got):\n%s", i, step.does, diff)
		}
	}
	if item, revision := m.Get("d"); item == nil || item.CreateRevision != 11 || string(item.Value) != "3" || revision != 11 {
		t.Errorf("d is %v at %d, want value 3, created at 11: it was deleted in between", item, revision)
	}
	if item, _ := m.Get("a"); item != nil {
		t.Errorf("a is %v, want it deleted", item)
	}
	if _, err := m.Watch("b", 8); !errors.Is(err, watch.ErrCompacted) {
		t.Errorf("Watch below the compacted revision: %v, want %v", err, watch.ErrCompacted)
	}
	want := []string{`10 d, was "2"[] at 9`, `11 d, is "3"[] at 11 since 11`}
	if got := eventsOf(t, m, 9); !cmp.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

func TestPutKeepsCreateRevisionAndSortsAttributes(t *testing.T) {
	m := New(Config{})
	apply(t, m, txn(put("a", "1", "tier", "front", "app", "old", "app", "web")))
	apply(t, m, txn(put("a", "2", "tier", "front", "app", "old", "app", "web")))
	item, _ := m.Get("a")
	if item.CreateRevision != 1 || item.Revision != 2 {
		t.Errorf("created at %d, changed at %d, want 1 and 2", item.CreateRevision, item.Revision)
	}
	if got := fmt.Sprint(item.Labels); got != "[{app web} {tier front}]" {
		t.Errorf("labels %s, want them sorted, the last of each name", got)
	}
}

// Every message of a command, with one field more than this build knows.
func TestCommandsOfANewerVersionStopTheNodeAndChangeNothing(t *testing.T) {
	extra := protowire.AppendTag(nil, 1000, protowire.VarintType)
	extra = protowire.AppendVarint(extra, 1)
	with := func(m proto.Message) { m.ProtoReflect().SetUnknown(extra) }
	full := func() *storagev1.Command {
		return txn(at("b", 0), put("a", "2", "app", "web"), del("c"), put("b", "1"))
	}
	for name, spoil := range map[string]func(c *storagev1.Command){
		"command": func(c *storagev1.Command) { with(c) },
		"txn":     func(c *storagev1.Command) { with(c.Txn) },
		"guard":   func(c *storagev1.Command) { with(c.Txn.Guards[0]) },
		"op":      func(c *storagev1.Command) { with(c.Txn.Ops[2]) },
		"put":     func(c *storagev1.Command) { with(c.Txn.Ops[2].GetPut()) },
		"delete":  func(c *storagev1.Command) { with(c.Txn.Ops[1].GetDelete()) },
		"label":   func(c *storagev1.Command) { with(c.Txn.Ops[0].GetPut().Labels[0]) },
		"field": func(c *storagev1.Command) {
			f := &storagev1.Attr{}
			with(f)
			c.Txn.Ops[2].GetPut().Fields = []*storagev1.Attr{f}
		},
		"empty op":   func(c *storagev1.Command) { c.Txn.Ops[2].Op = nil },
		"empty":      func(c *storagev1.Command) { c.Txn = nil },
		"compaction": func(c *storagev1.Command) { c.Txn, c.Compact = nil, &storagev1.Compact{Revision: 1}; with(c.Compact) },
	} {
		t.Run(name, func(t *testing.T) {
			m := New(Config{})
			apply(t, m, txn(put("a", "1")))
			before := snapshotOf(t, m)
			c := full()
			spoil(c)
			if answer, err := m.ApplyOne(encode(t, c)); !errors.Is(err, ErrUnknown) || answer != nil {
				t.Errorf("Apply: %q, %v, want %v", answer, err, ErrUnknown)
			}
			if !bytes.Equal(before, snapshotOf(t, m)) {
				t.Error("a refused command changed the state")
			}
		})
	}
	m := New(Config{})
	if r := apply(t, m, full()); !r.Applied {
		t.Errorf("the same command unspoiled is answered %v, want it applied", r)
	}
}

func TestUnreadableBytesStopTheNodeAndChangeNothing(t *testing.T) {
	m := New(Config{})
	whole := encode(t, txn(put("a", "1"), put("b", "2")))
	both := txn(put("a", "1"))
	both.Compact = &storagev1.Compact{Revision: 1}
	for name, cmd := range map[string][]byte{
		"junk":         []byte("junk"),
		"cut short":    whole[:len(whole)-1],
		"two commands": encode(t, both),
	} {
		if _, err := m.ApplyOne(cmd); !errors.Is(err, ErrUnreadable) {
			t.Errorf("%s: %v, want %v", name, err, ErrUnreadable)
		}
	}
	if m.Revision() != 0 || m.View().Len() != 0 {
		t.Errorf("revision %d, %d keys, want nothing changed", m.Revision(), m.View().Len())
	}
}

func TestWaitRevisionReturnsWhenReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{})
		if err := m.WaitRevision(t.Context(), 0); err != nil {
			t.Errorf("WaitRevision(0): %v, want nil", err)
		}
		var wg sync.WaitGroup
		done := make([]bool, 4)
		for i := range done {
			wg.Go(func() {
				if err := m.WaitRevision(t.Context(), uint64(i+1)); err != nil {
					t.Error(err)
				}
				done[i] = true
			})
		}
		for i := range done {
			synctest.Wait()
			for j, got := range done {
				if want := j < i; got != want {
					t.Errorf("at revision %d the wait for %d has ended: %v, want %v", i, j+1, got, want)
				}
			}
			apply(t, m, txn(put("a", "1")))
		}
		wg.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.WaitRevision(ctx, 100); !errors.Is(err, context.Canceled) {
			t.Errorf("WaitRevision with an ended context: %v, want %v", err, context.Canceled)
		}
	})
}

// Readers and a snapshot run beside the writer. Each view must be whole: the
// writer moves a unit between two keys in one transaction, so their sum is the
// same at every revision.
func TestReadersSeeWholeTransactions(t *testing.T) {
	m := New(Config{})
	const total = 1000
	apply(t, m, txn(put("x", strings.Repeat("u", total)), put("y", "")))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for last := uint64(0); ; {
				select {
				case <-stop:
					return
				default:
				}
				v := m.View()
				if got := len(v.Get("x").Value) + len(v.Get("y").Value); got != total || v.Revision() < last {
					t.Errorf("sum %d at revision %d after %d, want %d", got, v.Revision(), last, total)
					return
				}
				last = v.Revision()
				if item, revision := m.Get("x"); item.Revision > revision {
					t.Errorf("item of revision %d read at %d", item.Revision, revision)
				}
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			restored := New(Config{})
			if err := restored.Restore(bytes.NewReader(snapshotOf(t, m))); err != nil {
				t.Error(err)
			}
		}
	})
	for i := 1; i <= 500; i++ {
		apply(t, m, txn(put("x", strings.Repeat("u", total-i)), put("y", strings.Repeat("u", i))))
	}
	close(stop)
	wg.Wait()
}
