package keyring

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

func newRoot(t testing.TB, secret string) Root {
	t.Helper()
	root, err := NewRoot([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestSealedValuesOpenUnderTheirNameOnly(t *testing.T) {
	ring := New(time.Now())
	text := []byte("s3cret")
	sealed := ring.Seal("secrets/default/a", text)
	if bytes.Contains(sealed, text) || !Sealed(sealed) || KeyID(sealed) != ring.Primary() || len(sealed) != len(text)+Overhead {
		t.Fatalf("sealed value %q of key %s, %d bytes: want no text in it, key %s, %d bytes", sealed, KeyID(sealed), len(sealed), ring.Primary(), len(text)+Overhead)
	}
	if got, err := ring.Open("secrets/default/a", sealed); err != nil || !bytes.Equal(got, text) {
		t.Errorf("opened %q, %v, want %q", got, err, text)
	}
	if bytes.Equal(sealed, ring.Seal("secrets/default/a", text)) {
		t.Error("the same value sealed twice is the same: want another nonce each time")
	}
	for i := range sealed {
		damaged := bytes.Clone(sealed)
		damaged[i] ^= 1
		if got, err := ring.Open("secrets/default/a", damaged); err == nil {
			t.Errorf("with byte %d changed it opens as %q", i, got)
		}
	}
	for _, c := range []struct {
		name   string
		under  string
		sealed []byte
		want   error
	}{
		{"moved to another name", "secrets/default/b", sealed, ErrDamaged},
		{"cut short", "secrets/default/a", sealed[:len(sealed)-1], ErrDamaged},
		{"the head alone", "secrets/default/a", sealed[:headBytes], ErrDamaged},
		{"not sealed", "secrets/default/a", text, ErrDamaged},
		{"of another ring", "secrets/default/a", New(time.Now()).Seal("secrets/default/a", text), ErrNoKey},
	} {
		if got, err := ring.Open(c.under, c.sealed); !errors.Is(err, c.want) {
			t.Errorf("%s: opened %q, %v, want %v", c.name, got, err, c.want)
		}
	}
}

func TestRotatedRingsOpenOldValues(t *testing.T) {
	first := New(time.Unix(1, 0))
	old := first.Seal("a", []byte("old"))
	second := first.Rotate(time.Unix(2, 0))
	now := second.Seal("a", []byte("new"))
	if KeyID(now) == KeyID(old) {
		t.Errorf("sealed with %s before and after a rotation", KeyID(now))
	}
	if got, err := second.Open("a", old); err != nil || string(got) != "old" {
		t.Errorf("old value after a rotation: %q, %v", got, err)
	}
	if _, err := second.Remove(second.Primary()); !errors.Is(err, ErrPrimary) {
		t.Errorf("removing the primary key: %v, want %v", err, ErrPrimary)
	}
	if _, err := second.Remove("00"); !errors.Is(err, ErrNoKey) {
		t.Errorf("removing a key that is not there: %v, want %v", err, ErrNoKey)
	}
	third, err := second.Remove(first.Primary())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := third.Open("a", old); !errors.Is(err, ErrNoKey) {
		t.Errorf("old value without its key: %q, %v, want %v", got, err, ErrNoKey)
	}
	if got, err := third.Adopt(first).Open("a", old); err != nil || string(got) != "old" {
		t.Errorf("old value with the key adopted again: %q, %v", got, err)
	}
	if third.Adopt(first).Primary() != third.Primary() {
		t.Error("adopting keys changed the primary one")
	}
}

func TestRecordsAreReadWithTheirRootOnly(t *testing.T) {
	root := newRoot(t, "the CA's key")
	ring := New(time.Unix(1, 0)).Rotate(time.Unix(2, 0))
	stored, err := ring.Record(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range ring.keys {
		if bytes.Contains(stored, k.secret) {
			t.Errorf("key %s is in the record as it is", k.id)
		}
	}
	again, err := Parse(root, stored)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Open("a", ring.Seal("a", []byte("text"))); err != nil || string(got) != "text" {
		t.Errorf("after a restart: %q, %v", got, err)
	}
	if len(again.Keys()) != 2 || again.Keys()[1] != (Key{ID: ring.Primary(), Created: time.Unix(2, 0), Primary: true}) {
		t.Errorf("keys after a restart: %v", again.Keys())
	}
	if _, err := Parse(newRoot(t, "another CA's key"), stored); err == nil {
		t.Error("another root reads the record")
	}
	// Exchanging two wrapped keys must not make either the other.
	swapped := bytes.ReplaceAll(bytes.ReplaceAll(bytes.ReplaceAll(stored, []byte(ring.keys[0].id), []byte("x")), []byte(ring.keys[1].id), []byte(ring.keys[0].id)), []byte("x"), []byte(ring.keys[1].id))
	if _, err := Parse(root, swapped); err == nil {
		t.Error("a record with exchanged keys is read")
	}
}

func BenchmarkOpen(b *testing.B) {
	ring := New(time.Now())
	sealed := ring.Seal("secrets/default/a", make([]byte, 1024))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ring.Open("secrets/default/a", sealed); err != nil {
			b.Fatal(err)
		}
	}
}
