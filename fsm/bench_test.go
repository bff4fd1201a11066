package fsm

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
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

// small256 are n commands that each put 256 bytes to one of 10,000 keys.
func small256(b *testing.B, n int) [][]byte {
	b.Helper()
	cmds := make([][]byte, n)
	for i := range cmds {
		value := bytes.Repeat([]byte{byte(i)}, 256)
		cmds[i] = encode(b, txn(put(fmt.Sprintf("bench/key-%05d", i*7919%10_000), string(value))))
	}
	return cmds
}

// Allocations are per entry of 64 commands.
func BenchmarkApply64Puts(b *testing.B) {
	m, cmds := New(Config{}), small256(b, 64*1000)
	wanted := make([]bool, 64)
	for i := range wanted {
		wanted[i] = i%3 == 0
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		first := i % 1000 * 64
		if _, err := m.Apply(cmds[first:first+64], wanted); err != nil {
			b.Fatal(err)
		}
	}
}

// What a machine takes after a million puts over 10,000 keys: live heap after
// a collection, the most that the heap was, and the process' resident memory.
// Run it with -benchtime 1x.
func BenchmarkMemoryAfterAMillionPuts(b *testing.B) {
	cmds := small256(b, 64*1000)
	for b.Loop() {
		m := New(Config{})
		var peak uint64
		var stats runtime.MemStats
		for i := range 1_000_000 / 64 {
			first := i % 1000 * 64
			// As from raft: each entry has its own memory.
			entry := bytes.Join(cmds[first:first+64], nil)
			group, at := make([][]byte, 64), 0
			for j := range group {
				n := len(cmds[first+j])
				group[j], at = entry[at:at+n:at+n], at+n
			}
			if _, err := m.Apply(group, make([]bool, 64)); err != nil {
				b.Fatal(err)
			}
			if i%500 == 0 {
				runtime.ReadMemStats(&stats)
				peak = max(peak, stats.HeapAlloc)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&stats)
		base := stats.HeapAlloc
		runtime.KeepAlive(m)
		m = nil
		runtime.GC()
		runtime.ReadMemStats(&stats)
		b.ReportMetric(float64(base-stats.HeapAlloc)/(1<<20), "live-MiB")
		b.ReportMetric(float64(peak)/(1<<20), "peak-heap-MiB")
	}
}
