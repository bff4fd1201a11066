package fsm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/fsm/watch"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// small is a machine with everything that a snapshot can hold.
func small(t testing.TB) *Machine {
	m := New(Config{})
	apply(t, m, txn(put("pods/a/1", "one", "app", "web", "tier", "")))
	apply(t, m, txn(put("pods/a/2", ""), put("nodes/1", "node")))
	apply(t, m, txn(put("pods/a/1", "two", "app", "web"), del("pods/a/2")))
	apply(t, m, &storagev1.Command{Compact: &storagev1.Compact{Revision: 2}})
	return m
}

func TestSnapshotBringsBackEverything(t *testing.T) {
	m := small(t)
	restored := New(Config{})
	if err := restored.Restore(iotest.OneByteReader(bytes.NewReader(snapshotOf(t, m)))); err != nil {
		t.Fatal(err)
	}
	if got, want := restored.Revision(), m.Revision(); got != want {
		t.Errorf("revision %d, want %d", got, want)
	}
	for item := range m.View().Range("", "") {
		got, _ := restored.Get(item.Key)
		if fmt.Sprint(got) != fmt.Sprint(item) {
			t.Errorf("%s is %v, want %v", item.Key, got, item)
		}
	}
	if got, want := restored.View().Len(), m.View().Len(); got != want {
		t.Errorf("%d keys, want %d", got, want)
	}
	if restored.compacted != 2 {
		t.Errorf("compacted up to %d, want 2", restored.compacted)
	}
	if !bytes.Equal(snapshotOf(t, restored), snapshotOf(t, m)) {
		t.Error("the restored machine writes another snapshot")
	}
	if _, err := restored.Watch("pods/", m.Revision()-1); !errors.Is(err, watch.ErrCompacted) {
		t.Errorf("Watch from before the snapshot: %v, want %v", err, watch.ErrCompacted)
	}
	if _, err := restored.Watch("pods/", m.Revision()); err != nil {
		t.Errorf("Watch from the snapshot: %v, want nil", err)
	}
}

func TestSnapshotShowsTheMomentItWasTaken(t *testing.T) {
	m := small(t)
	want := snapshotOf(t, m)
	write, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	apply(t, m, txn(put("later", "1"), del("nodes/1")))
	apply(t, m, &storagev1.Command{Compact: &storagev1.Compact{Revision: 5}})
	var got bytes.Buffer
	if err := write(&got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("what was written later is in the snapshot")
	}
}

func TestDamagedSnapshotIsRefusedAtEveryByte(t *testing.T) {
	whole := snapshotOf(t, small(t))
	target := New(Config{})
	apply(t, target, txn(put("mine", "1")))
	before := snapshotOf(t, target)
	refused := func(what string, damaged []byte) {
		t.Helper()
		err := target.Restore(bytes.NewReader(damaged))
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v, want %v", what, err, ErrCorrupt)
		}
	}
	for i := range whole {
		refused(fmt.Sprintf("cut short at byte %d", i), whole[:i])
		for bit := range 8 {
			damaged := bytes.Clone(whole)
			damaged[i] ^= 1 << bit
			refused(fmt.Sprintf("bit %d of byte %d flipped", bit, i), damaged)
		}
		refused(fmt.Sprintf("byte %d missing", i), append(bytes.Clone(whole[:i]), whole[i+1:]...))
	}
	refused("more after the end", append(bytes.Clone(whole), 0))
	refused("twice", append(bytes.Clone(whole), whole...))
	if !bytes.Equal(snapshotOf(t, target), before) {
		t.Error("a refused snapshot changed the state")
	}
	w, err := target.Watch("", 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Poll(); err != nil {
		t.Errorf("a refused snapshot ended a watch: %v", err)
	}
}

// forge writes a snapshot whose checksums are right, whatever is in it.
func forge(t testing.TB, header proto.Message, count uint64, items ...proto.Message) []byte {
	t.Helper()
	return forgeFrom(t, kindHeader, header, count, items...)
}

func forgeFrom(t testing.TB, first byte, header proto.Message, count uint64, items ...proto.Message) []byte {
	t.Helper()
	b := binary.BigEndian.AppendUint32([]byte(magic), format)
	record := func(kind byte, payload []byte) {
		start := len(b)
		b = append(b, kind)
		b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
		b = append(b, payload...)
		b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
	}
	record(first, encode(t, header))
	for _, item := range items {
		record(kindItem, encode(t, item))
	}
	sum := sha256.Sum256(b)
	record(kindTrailer, append(binary.BigEndian.AppendUint64(nil, count), sum[:]...))
	return b
}

// Damage that checksums cannot see: it was written so.
func TestSnapshotWithWrongContentsIsRefused(t *testing.T) {
	item := func(key string, created, changed uint64, labels ...string) *storagev1.Item {
		p := put(key, "v", labels...).GetPut()
		return &storagev1.Item{Key: p.Key, Value: p.Value, Labels: p.Labels, CreateRevision: created, Revision: changed}
	}
	header := func(items uint64) *storagev1.SnapshotHeader {
		return &storagev1.SnapshotHeader{Format: format, Revision: 9, Items: items, Compacted: 3}
	}
	newer := func(m proto.Message) proto.Message {
		m.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 1))
		return m
	}
	attrOfNewer := item("a", 1, 1, "x", "1")
	newer(attrOfNewer.Labels[0])
	good := forge(t, header(2), 2, item("a", 1, 2), item("b", 3, 3, "app", "web"))
	if err := New(Config{}).Restore(bytes.NewReader(good)); err != nil {
		t.Fatalf("a good one: %v, want nil", err)
	}
	const trailerRecord = 1 + 4 + trailerLen + 4
	other := forge(t, header(2), 2, item("a", 1, 2), item("b", 4, 4))
	for name, snapshot := range map[string][]byte{
		"keys out of order":        forge(t, header(2), 2, item("b", 1, 2), item("a", 3, 3)),
		"a key twice":              forge(t, header(2), 2, item("a", 1, 2), item("a", 3, 3)),
		"fewer items than said":    forge(t, header(2), 1, item("a", 1, 2)),
		"another count at the end": forge(t, header(1), 2, item("a", 1, 2)),
		"an item of the future":    forge(t, header(1), 1, item("a", 1, 10)),
		"changed before created":   forge(t, header(1), 1, item("a", 3, 2)),
		"never created":            forge(t, header(1), 1, item("a", 0, 2)),
		"labels out of order":      forge(t, header(1), 1, item("a", 1, 2, "b", "1", "a", "1")),
		"another format":           forge(t, &storagev1.SnapshotHeader{Format: 2, Revision: 9}, 0),
		"compacted in the future":  forge(t, &storagev1.SnapshotHeader{Format: 1, Revision: 9, Compacted: 10}, 0),
		"a header of a newer one":  forge(t, newer(header(0)), 0),
		"an item of a newer one":   forge(t, header(1), 1, newer(item("a", 1, 1))),
		"a label of a newer one":   forge(t, header(1), 1, attrOfNewer),
		"no header first":          forgeFrom(t, kindItem, header(0), 0),
		"records of another whole": append(bytes.Clone(good[:len(good)-trailerRecord]), other[len(other)-trailerRecord:]...),
	} {
		if err := New(Config{}).Restore(bytes.NewReader(snapshot)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v, want %v", name, err, ErrCorrupt)
		}
	}
	damaged := bytes.Clone(good)
	damaged[len(magic)+3] = 7
	if err := New(Config{}).Restore(bytes.NewReader(damaged)); err == nil || !strings.Contains(err.Error(), "format is 7") {
		t.Errorf("a snapshot of format 7: %v, want that said", err)
	}
}

func TestFailureToReadOrWriteASnapshotIsPassedOn(t *testing.T) {
	m := small(t)
	broken := errors.New("disk on fire")
	if err := m.Restore(io.MultiReader(strings.NewReader(magic), iotest.ErrReader(broken))); !errors.Is(err, broken) || errors.Is(err, ErrCorrupt) {
		t.Errorf("Restore: %v, want %v and not %v", err, broken, ErrCorrupt)
	}
	write, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	r.CloseWithError(broken)
	if err := write(w); !errors.Is(err, broken) {
		t.Errorf("Snapshot: %v, want %v", err, broken)
	}
}

func TestRestoreWakesWhoeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		snapshot := snapshotOf(t, small(t))
		m := New(Config{})
		apply(t, m, txn(put("pods/a/1", "1")))
		w, err := m.Watch("pods/", 1)
		if err != nil {
			t.Fatal(err)
		}
		var watchErr, waitErr error
		var wg sync.WaitGroup
		wg.Go(func() { _, _, watchErr = w.Next(t.Context()) })
		wg.Go(func() { waitErr = m.WaitRevision(t.Context(), 5) })
		synctest.Wait()
		if err := m.Restore(bytes.NewReader(snapshot)); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if !errors.Is(watchErr, watch.ErrCompacted) || waitErr != nil {
			t.Errorf("Next: %v, WaitRevision: %v, want %v and nil", watchErr, waitErr, watch.ErrCompacted)
		}
		ctx, cancel := context.WithCancel(t.Context())
		w, err = m.Watch("pods/", 5)
		if err != nil {
			t.Fatal(err)
		}
		apply(t, m, txn(put("pods/a/9", "1")))
		events, _, err := w.Next(ctx)
		if err != nil || len(events) != 1 || events[0].Revision != 6 {
			t.Errorf("Next after the restore: %v, %v, want the event of revision 6", events, err)
		}
		cancel()
	})
}
