package fsm

import (
	"bytes"
	"fmt"
	"io"
	"testing"
)

// loaded is a machine with n pods of the usual size in 50 namespaces.
func loaded(b *testing.B, n int) *Machine {
	b.Helper()
	m := New(Config{})
	for i := range n {
		apply(b, m, txn(put(podKey(i), podValue, "app", fmt.Sprintf("app-%d", i%100), "pod-template-hash", "5d8f9c7b6")))
	}
	return m
}

func podKey(i int) string { return fmt.Sprintf("pods/namespace-%d/pod-%08d", i%50, i) }

var podValue = string(bytes.Repeat([]byte("v"), 1250))

func BenchmarkApplyUpdate(b *testing.B) {
	const n = 100_000
	m := loaded(b, n)
	cmds := make([][]byte, 1000)
	for i := range cmds {
		key := podKey(i * 97)
		cmds[i] = encode(b, txn(exists(key), put(key, podValue, "app", "app-1", "pod-template-hash", "5d8f9c7b6")))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := m.ApplyOne(cmds[i%len(cmds)]); err != nil {
			b.Fatal(err)
		}
	}
}

// As when every write is followed by a list or a snapshot.
func BenchmarkApplyAndView(b *testing.B) {
	m := loaded(b, 100_000)
	cmd := encode(b, txn(put(podKey(4711), podValue)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.ApplyOne(cmd); err != nil {
			b.Fatal(err)
		}
		m.View()
	}
}

func BenchmarkMachineGet(b *testing.B) {
	m := loaded(b, 100_000)
	key := podKey(4711)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if item, _ := m.Get(key); item == nil {
				b.Error("the key is missing")
			}
		}
	})
}

func BenchmarkRangeNamespace(b *testing.B) {
	m := loaded(b, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		for range m.View().Range("pods/namespace-7/", "") {
			n++
		}
		if n != 2000 {
			b.Fatalf("%d items, want 2000", n)
		}
	}
}

func BenchmarkSnapshot100k(b *testing.B) {
	m := loaded(b, 100_000)
	write, err := m.Snapshot()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := write(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRestore100k(b *testing.B) {
	snapshot := snapshotOf(b, loaded(b, 100_000))
	b.SetBytes(int64(len(snapshot)))
	b.ReportAllocs()
	for b.Loop() {
		if err := New(Config{}).Restore(bytes.NewReader(snapshot)); err != nil {
			b.Fatal(err)
		}
	}
}
