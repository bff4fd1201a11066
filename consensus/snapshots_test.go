package consensus

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// The log is added to, its end is replaced by another leader's, its front is
// trimmed, and now and then a snapshot from elsewhere leaves a gap. What is
// said of it must never be less than the truth, nor more by much.
func TestGrowthKnowsTheLogsWeight(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	g := &growth{}
	log := map[uint64]int64{} // by index
	var first, last uint64 = 1, 0
	var replaced int64 // may still be counted
	for step := range 5000 {
		switch n := random.IntN(100); {
		case n < 90:
			entry := &raft.Log{Index: last + 1, Data: make([]byte, random.IntN(64<<10))}
			g.add(entry)
			last++
			log[last] = weigh(entry)
		case n < 94 && last > first+10:
			from := last - uint64(random.IntN(10))
			if n%2 == 0 { // raft deletes, and then adds
				g.deleted(from, last)
			}
			for i := from; i <= last; i++ {
				replaced += log[i]
				delete(log, i)
			}
			entry := &raft.Log{Index: from}
			g.add(entry)
			last, log[from] = from, weigh(entry)
		case n < 99 && last > first+100:
			to := first + uint64(random.IntN(50))
			g.deleted(first, to)
			for ; first <= to; first++ {
				delete(log, first)
			}
		case n == 99 && last > 0:
			g.deleted(first, last)
			clear(log)
			replaced = 0
			last += 100
			first = last + 1
			entry := &raft.Log{Index: first}
			g.add(entry)
			last, log[first] = first, weigh(entry)
		}
		if last < first {
			continue
		}
		after := first - 1 + uint64(random.Int64N(int64(last-first+2)))
		var truth int64
		for i := after + 1; i <= last; i++ {
			truth += log[i]
		}
		weight, entries := g.since(after)
		if entries != last-after || weight < truth || weight > truth+markEvery+(64<<10)+replaced {
			t.Fatalf("step %d: %d entries of %d bytes after %d, want %d of %d", step, entries, weight, after, last-after, truth)
		}
		budget := random.Int64N(4 << 20)
		var newest int64
		n := g.newest(budget)
		for i := last; i > last-n; i-- {
			newest += log[i]
		}
		if newest > budget {
			t.Fatalf("step %d: the newest %d entries weigh %d, want at most %d", step, n, newest, budget)
		}
	}
}

// usage is the bytes of the files below a directory.
func usage(t testing.TB, dir string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			info, err := e.Info()
			if err != nil {
				return nil // removed meanwhile
			}
			bytes += info.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// Few large entries fill a disk as well as many small ones do.
func TestBytesMakeASnapshotDue(t *testing.T) {
	for _, test := range []struct {
		name     string
		commands int
		size     int
	}{{"few large", 40, 100 << 10}, {"many small", 4000, 10}} {
		t.Run(test.name, func(t *testing.T) {
			c := newCluster(t, 1, func(cfg *Config) { cfg.SnapshotBytes = 512 << 10 })
			h := c.hosts[0]
			command := strings.Repeat("x", test.size)
			for range test.commands {
				c.propose(h, command)
			}
			c.eventually("a snapshot", func() bool {
				index, size, _ := h.snapshots.newest()
				return index > 0 && size > 0 && !h.snapshotDue()
			})
			c.eventually("a trimmed log", func() bool {
				first, err := h.disk.FirstIndex()
				return err == nil && first > 1
			})
			index, _, _ := h.snapshots.newest()
			h.stop()
			h.start()
			c.barrier(h)
			if got := len(h.sm.all()); got != test.commands {
				t.Errorf("%d commands after a restart, want %d", got, test.commands)
			}
			// What a restart finds counts as well.
			weight, entries := h.grown.growth.since(index)
			if last := h.raft.LastIndex(); entries != last-index || weight < int64(entries)*entryOverhead {
				t.Errorf("%d entries of %d bytes after the snapshot, want %d", entries, weight, last-index)
			}
		})
	}
}

// A node that ends while it writes a snapshot leaves a part of one. A hundred
// of those would fill the disk.
func TestPartsOfSnapshotsAreRemoved(t *testing.T) {
	h := used(t, nil)
	part := filepath.Join(h.dir, "raft", "snapshots", "2-10-1700000000000"+temporarySuffix)
	if err := os.MkdirAll(part, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(part, "state.bin"), []byte("half a snapsh"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	if _, err := os.Stat(part); !os.IsNotExist(err) {
		t.Errorf("the part is still there: %v", err)
	}
	sink, err := h.snapshots.Create(1, 100, 2, raft.Configuration{}, 1, h.trans)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprint(sink, "abc"); err != nil {
		t.Fatal(err)
	}
	if err := sink.Cancel(); err != nil {
		t.Errorf("cancel: %v", err)
	}
	if left := usage(t, h.snapshots.path); left != 0 {
		t.Errorf("%d bytes are left of a snapshot that was given up", left)
	}
}
