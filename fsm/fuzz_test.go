package fsm

import (
	"bytes"
	"errors"
	"testing"

	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// Whatever the bytes are: no panic, an error changes nothing, and two replicas
// agree.
func FuzzApply(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("junk"))
	f.Add(encode(f, txn(at("pods/a/1", 4), put("pods/a/1", "x", "b", "1", "a", "2"), del("nodes/1"))))
	f.Add(encode(f, txn(exists("zzz"), put("", ""))))
	f.Add(encode(f, &storagev1.Command{Compact: &storagev1.Compact{Revision: 1 << 63}}))
	f.Add(encode(f, &storagev1.Command{Replace: &storagev1.Replace{Pieces: []byte("pods/"), Sum: []byte("x"), Keep: []byte("n"), Ahead: 1 << 63}}))
	f.Fuzz(func(t *testing.T, cmd []byte) {
		one, other := small(t), small(t)
		before := snapshotOf(t, one)
		answer, err := one.ApplyOne(cmd)
		if err != nil {
			if !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrUnreadable) {
				t.Errorf("error %v, want %v or %v", err, ErrUnknown, ErrUnreadable)
			}
			if !bytes.Equal(snapshotOf(t, one), before) {
				t.Error("a refused command changed the state")
			}
			return
		}
		if again, err := other.ApplyOne(cmd); err != nil || !bytes.Equal(again, answer) {
			t.Errorf("the other replica answers %q, %v, want %q", again, err, answer)
		}
		snapshot := snapshotOf(t, one)
		if !bytes.Equal(snapshot, snapshotOf(t, other)) {
			t.Error("replicas differ")
		}
		if err := New(Config{}).Restore(bytes.NewReader(snapshot)); err != nil {
			t.Errorf("the state after the command cannot be restored: %v", err)
		}
	})
}

// Whatever the bytes are: no panic, and what is accepted is exactly what the
// restored machine would write, so no damage goes unnoticed.
func FuzzRestore(f *testing.F) {
	whole := snapshotOf(f, small(f))
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte(magic))
	f.Add(snapshotOf(f, New(Config{})))
	f.Fuzz(func(t *testing.T, snapshot []byte) {
		m := New(Config{})
		if err := m.Restore(bytes.NewReader(snapshot)); err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("error %v, want %v", err, ErrCorrupt)
			}
			return
		}
		if !bytes.Equal(snapshotOf(t, m), snapshot) {
			t.Error("accepted a snapshot that it would not have written")
		}
	})
}
