package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/fsm/kv"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// reference says what a command means, read by protobuf's own code.
func reference(cmd []byte) (string, error) {
	var c storagev1.Command
	if err := proto.Unmarshal(cmd, &c); err != nil {
		return "", ErrUnreadable
	}
	switch {
	case unknown(&c):
		return "", ErrUnknown
	case c.Txn != nil && c.Compact != nil, c.Replace != nil && (c.Txn != nil || c.Compact != nil):
		return "", ErrUnreadable
	case c.Replace != nil && unknown(c.Replace):
		return "", ErrUnknown
	case c.Replace != nil:
		return fmt.Sprintf("replace %q %x, keep %q, %d ahead\n", c.Replace.Pieces, c.Replace.Sum, c.Replace.Keep, c.Replace.Ahead), nil
	case c.Compact != nil && unknown(c.Compact):
		return "", ErrUnknown
	case c.Compact != nil:
		return fmt.Sprintf("compact %d\n", c.Compact.Revision), nil
	case c.Txn == nil || unknown(c.Txn):
		return "", ErrUnknown
	}
	var does strings.Builder
	for _, g := range c.Txn.Guards {
		if unknown(g) {
			return "", ErrUnknown
		}
		fmt.Fprintf(&does, "guard %q at %d, exists %v\n", g.Key, g.Revision, g.Exists)
	}
	for _, o := range c.Txn.Ops {
		put, del := o.GetPut(), o.GetDelete()
		switch {
		case unknown(o) || put == nil && del == nil:
			return "", ErrUnknown
		case put != nil && unknown(put), del != nil && unknown(del):
			return "", ErrUnknown
		case del != nil:
			fmt.Fprintf(&does, "delete %q\n", del.Key)
			continue
		}
		var attrs [2]kv.Attrs
		for i, from := range [][]*storagev1.Attr{put.Labels, put.Fields} {
			for _, a := range from {
				if unknown(a) {
					return "", ErrUnknown
				}
				attrs[i] = append(attrs[i], kv.Attr{Name: a.Name, Value: a.Value})
			}
			attrs[i] = sorted(attrs[i])
		}
		fmt.Fprintf(&does, "put %q = %q, labels %q, fields %q\n", put.Key, put.Value, attrs[0], attrs[1])
	}
	return does.String(), nil
}

// meaning says the same as reference, read by the reader under test behind
// another command of the same batch.
func meaning(t testing.TB, cmd []byte) (string, error) {
	t.Helper()
	r := reader{batch: &batch{}, interned: interner{}}
	if _, err := r.read(encode(t, txn(exists("before"), put("before", "", "b", "2", "a", "1")))); err != nil {
		t.Fatal(err)
	}
	c, err := r.read(cmd)
	switch {
	case errors.Is(err, ErrUnknown):
		return "", ErrUnknown
	case errors.Is(err, ErrUnreadable):
		return "", ErrUnreadable
	case err != nil:
		t.Fatalf("error %v, want %v or %v", err, ErrUnknown, ErrUnreadable)
	case c.compact:
		return fmt.Sprintf("compact %d\n", c.upTo), nil
	case c.replace != nil:
		return fmt.Sprintf("replace %q %x, keep %q, %d ahead\n", c.replace.pieces, c.replace.sum, c.replace.keep, c.replace.ahead), nil
	}
	var does strings.Builder
	for _, g := range r.guards[c.guardsFrom:c.guardsTo] {
		fmt.Fprintf(&does, "guard %q at %d, exists %v\n", g.key, g.revision, g.exists)
	}
	for _, o := range r.ops[c.opsFrom:c.opsTo] {
		if o.kind == opIsDelete {
			fmt.Fprintf(&does, "delete %q\n", o.key)
			continue
		}
		fmt.Fprintf(&does, "put %q = %q, labels %q, fields %q\n", o.key, o.value,
			r.labels[o.labelsFrom:o.labelsTo], r.fields[o.fieldsFrom:o.fieldsTo])
	}
	return does.String(), nil
}

func compareReaders(t testing.TB, cmd []byte) {
	t.Helper()
	want, wantErr := reference(cmd)
	got, gotErr := meaning(t, cmd)
	if !errors.Is(gotErr, wantErr) || (gotErr == nil) != (wantErr == nil) {
		t.Fatalf("%x: error %v, protobuf's reader has %v", cmd, gotErr, wantErr)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%x means (-protobuf +here):\n%s", cmd, diff)
	}
}

// Whatever the bytes are, they mean what protobuf's own reader says, or are
// refused for the same reason.
func FuzzCommand(f *testing.F) {
	f.Add([]byte{})
	f.Add(encode(f, txn(at("pods/a/1", 4), exists("x"), put("pods/a/1", "x", "b", "1", "a", "2", "b", "3"), del("nodes/1"))))
	f.Add(encode(f, &storagev1.Command{Compact: &storagev1.Compact{Revision: 1 << 63}}))
	f.Fuzz(func(t *testing.T, cmd []byte) { compareReaders(t, cmd) })
}

// Random messages, so wild that a fuzzer would not come upon them soon: fields
// of every number and type in any order and several times, groups, wrong
// types, lengths that are off, tags and numbers written too long.
func TestCommandsMeanWhatProtobufSays(t *testing.T) {
	outcomes := map[string]int{}
	for seed := range uint64(60_000) {
		r := rand.New(rand.NewPCG(seed, 2))
		cmd := wild(r, 0)
		if r.IntN(4) == 0 {
			c := encode(t, randomCommand(r, 100))
			switch r.IntN(3) {
			case 0:
				c[r.IntN(len(c))] ^= byte(1 << r.IntN(8))
			case 1:
				c = c[:r.IntN(len(c)+1)]
			}
			cmd = append(cmd, c...)
		}
		compareReaders(t, cmd)
		_, err := reference(cmd)
		outcomes[fmt.Sprint(err)]++
	}
	for _, err := range []error{nil, ErrUnknown, ErrUnreadable} {
		if n := outcomes[fmt.Sprint(err)]; n < 2000 {
			t.Errorf("%d messages had the outcome %v: they test too little", n, err)
		}
	}
}

// wild is some fields. At each depth it mostly has those of the message that
// stands there in a transaction.
func wild(r *rand.Rand, depth int) []byte {
	var b []byte
	for range r.IntN(4) {
		number := protowire.Number(1 + r.IntN(2))
		kind := protowire.BytesType
		switch {
		case depth == 2:
			number = protowire.Number(1 + r.IntN(3))
		case depth == 3:
			number = protowire.Number(1 + r.IntN(4))
		}
		if depth == 2 && number > 1 && r.IntN(2) == 0 {
			kind = protowire.VarintType
		}
		if r.IntN(40) == 0 {
			number, kind = protowire.Number(r.IntN(6)), protowire.Type(r.IntN(8))
		}
		tag := protowire.EncodeTag(number, kind)
		if r.IntN(100) == 0 {
			tag |= 1 << 33
		}
		b = protowire.AppendVarint(b, tag)
		switch kind {
		case protowire.VarintType:
			b = protowire.AppendVarint(b, r.Uint64()>>r.IntN(64))
		case protowire.BytesType:
			inside := []byte([]string{"", "a", "t1/2", "\xff"}[min(r.IntN(40), 3)%(3+r.IntN(20)/19)])
			if depth < 5 && r.IntN(8) > 0 {
				inside = wild(r, depth+1)
			}
			n := len(inside)
			if r.IntN(100) == 0 {
				n += r.IntN(3)
			}
			b = append(protowire.AppendVarint(b, uint64(n)), inside...)
		case protowire.Fixed32Type:
			b = protowire.AppendFixed32(b, 1)
		case protowire.Fixed64Type:
			b = protowire.AppendFixed64(b, 1)
		case protowire.StartGroupType:
			b = protowire.AppendTag(append(b, wild(r, depth+1)...), number, protowire.EndGroupType)
		}
	}
	return b
}

// An item that pointed into its entry, or a batch that did after its end, would
// keep everything alive that came with it: here 1 MiB for each item of 10 bytes.
func TestItemsDoNotKeepTheirEntriesAlive(t *testing.T) {
	const entries = 64
	m := New(Config{})
	for i := range entries {
		group := [][]byte{
			encode(t, txn(exists("none"), put("junk", strings.Repeat("x", 1<<20)))), // refused: leaves nothing
			encode(t, txn(put(fmt.Sprintf("t/%02d", i), "0123456789", "app", "web"), put("again", "0123456789"))),
		}
		entry := bytes.Join(group, nil)
		n := len(group[0])
		if _, err := m.Apply([][]byte{entry[:n], entry[n:]}, nil); err != nil {
			t.Fatal(err)
		}
	}
	var with, without runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&with)
	runtime.KeepAlive(m)
	m = nil
	runtime.GC()
	runtime.ReadMemStats(&without)
	if kept := int64(with.HeapAlloc) - int64(without.HeapAlloc); kept > 1<<20 {
		t.Errorf("%d items keep %d KiB, want at most 1024", entries, kept>>10)
	}
}

// The same key is one string for the map, all its items, and the history.
func TestKeyIsOneString(t *testing.T) {
	m := New(Config{})
	cmd := encode(t, txn(exists("pods/a/1"), put("pods/a/1", "", "app", "web")))
	apply(t, m, txn(put("pods/a/1", "", "app", "web")))
	w, err := m.Watch("", 0)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := m.Apply([][]byte{cmd}, []bool{false}); err != nil {
			t.Fatal(err)
		}
	}); n > 3 {
		t.Errorf("%v allocations for an update, want at most 3: the item, its slot among the answers, room in the history", n)
	}
	events, _, err := w.Poll()
	if err != nil {
		t.Fatal(err)
	}
	item, _ := m.Get("pods/a/1")
	for _, e := range events {
		if !sameString(e.Key(), item.Key) {
			t.Fatalf("the event of revision %d has a key of its own", e.Revision)
		}
		if &e.Item.Labels[0] != &item.Labels[0] {
			t.Fatalf("the event of revision %d has labels of its own", e.Revision)
		}
	}
}

func sameString(a, b string) bool { return unsafe.StringData(a) == unsafe.StringData(b) }
