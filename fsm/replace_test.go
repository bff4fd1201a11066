package fsm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"github.com/musterhq/muster/fsm/watch"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// inPieces puts a snapshot into keys below "sys/new/" and returns the command
// that replaces the state by it, keeping "sys/".
func inPieces(t testing.TB, snapshot []byte, machines ...*Machine) *storagev1.Command {
	t.Helper()
	for i := 0; i*100 < len(snapshot); i++ {
		c := txn(put(fmt.Sprintf("sys/new/%04d", i), string(snapshot[i*100:min(len(snapshot), i*100+100)])))
		for _, m := range machines {
			apply(t, m, c)
		}
	}
	sum := sha256.Sum256(snapshot)
	return &storagev1.Command{Replace: &storagev1.Replace{Pieces: []byte("sys/new/"), Sum: sum[:], Keep: []byte("sys/"), Ahead: 1000}}
}

func TestReplaceIsASavedStateWithNewRevisions(t *testing.T) {
	saved := New(Config{})
	apply(t, saved, txn(put("pods/a", "1", "app", "x"), put("pods/b", "1"), put("sys/token", "revoked since")))
	apply(t, saved, txn(put("pods/a", "2", "app", "x")))

	m, replica := New(Config{}), New(Config{})
	for _, c := range []*storagev1.Command{txn(put("sys/token", "now")), txn(put("pods/a", "other")), txn(put("pods/c", "gone"))} {
		apply(t, m, c)
		apply(t, replica, c)
	}
	c := inPieces(t, snapshotOf(t, saved), m, replica)
	w, err := m.Watch("pods/", m.Revision())
	if err != nil {
		t.Fatal(err)
	}
	before := m.Revision()
	result := apply(t, m, c)
	if want := before + 1000 + 2; !result.Applied || result.Revision != want || m.Revision() != want {
		t.Fatalf("%v at %d, want it applied at %d", result, m.Revision(), want)
	}
	var got string
	for item := range m.View().Range("", "") {
		got += fmt.Sprintf("%s=%s@%d,%d%v ", item.Key, item.Value, item.CreateRevision, item.Revision, item.Labels)
	}
	want := fmt.Sprintf("pods/a=2@%[1]d,%[1]d[{app x}] pods/b=1@%[2]d,%[2]d[] sys/token=now@1,1[] ", before+1001, before+1002)
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if _, _, err := w.Poll(); !errors.Is(err, watch.ErrCompacted) {
		t.Errorf("a watcher of the old state got %v, want %v", err, watch.ErrCompacted)
	}
	apply(t, replica, c)
	next := txn(at("pods/a", before+1001), put("pods/a", "3"))
	apply(t, m, next)
	apply(t, replica, next)
	if !bytes.Equal(snapshotOf(t, m), snapshotOf(t, replica)) {
		t.Error("replicas differ")
	}
	if lines := eventsOf(t, m, before+1002); len(lines) != 1 {
		t.Errorf("%d events after the replacement, want 1", len(lines))
	}
}

// Two restores at once, or one that was given up, must not make a state of
// what is left of another.
func TestReplaceByWhatIsNotThereChangesNothing(t *testing.T) {
	saved := snapshotOf(t, small(t))
	for name, spoil := range map[string]func(*Machine, *storagev1.Command){
		"a piece is missing": func(m *Machine, _ *storagev1.Command) { apply(t, m, txn(del("sys/new/0001"))) },
		"a piece is another": func(m *Machine, _ *storagev1.Command) { apply(t, m, txn(put("sys/new/0001", "x"))) },
		"no pieces":          func(_ *Machine, c *storagev1.Command) { c.Replace.Pieces = []byte("none/") },
		"no prefix":          func(_ *Machine, c *storagev1.Command) { c.Replace.Pieces = nil },
		"another sum":        func(_ *Machine, c *storagev1.Command) { c.Replace.Sum = []byte("x") },
	} {
		m := small(t)
		c := inPieces(t, saved, m)
		spoil(m, c)
		before := snapshotOf(t, m)
		if result := apply(t, m, c); result.Applied || result.Revision != m.Revision() {
			t.Errorf("%s: %v", name, result)
		}
		if !bytes.Equal(snapshotOf(t, m), before) {
			t.Errorf("%s: the state has changed", name)
		}
	}
}

// The snapshot of a newer muster is right, but not to this build: it must not
// take that for damage, which the others do not see.
func TestReplaceByWhatThisBuildCannotReadStopsIt(t *testing.T) {
	m := small(t)
	c := inPieces(t, append([]byte(magic), 0, 0, 0, 99), m)
	before := snapshotOf(t, m)
	put := txn(put("after", ""))
	answers, err := m.Apply([][]byte{encode(t, txn()), encode(t, c), encode(t, put)}, nil)
	if !errors.Is(err, ErrUnknown) || len(answers) != 1 {
		t.Errorf("%d answers and %v, want one and %v", len(answers), err, ErrUnknown)
	}
	if !bytes.Equal(snapshotOf(t, m), before) {
		t.Error("the state has changed")
	}
}

func TestReplaceBesideOtherCommandsOfAnEntry(t *testing.T) {
	m := small(t)
	c := inPieces(t, snapshotOf(t, small(t)), m)
	answers, err := m.Apply([][]byte{encode(t, txn(put("pods/before", ""))), encode(t, c), encode(t, txn(put("pods/after", "")))}, nil)
	if err != nil || len(answers) != 3 {
		t.Fatalf("%d answers, %v", len(answers), err)
	}
	if before, _ := m.Get("pods/before"); before != nil {
		t.Error("what was put before is still there")
	}
	after, revision := m.Get("pods/after")
	if after == nil || after.Revision != revision {
		t.Errorf("what was put afterwards is %v at %d", after, revision)
	}
	if lines := eventsOf(t, m, revision-1); len(lines) != 1 {
		t.Errorf("events %q, want one", lines)
	}
}

func TestReplaceOfAMachineThatIsAlone(t *testing.T) {
	saved := small(t)
	m := New(Config{})
	if err := m.Replace(bytes.NewReader(snapshotOf(t, saved)), "", 50); err != nil {
		t.Fatal(err)
	}
	if want := saved.Revision() + 50 + uint64(saved.View().Len()); m.Revision() != want {
		t.Errorf("revision %d, want %d", m.Revision(), want)
	}
	if err := New(Config{}).Restore(bytes.NewReader(snapshotOf(t, m))); err != nil {
		t.Errorf("cannot be restored again: %v", err)
	}
	if err := m.Replace(bytes.NewReader([]byte("junk")), "", 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("junk: %v, want %v", err, ErrCorrupt)
	}
}
