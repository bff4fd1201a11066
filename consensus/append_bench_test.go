package consensus

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/musterhq/muster/consensus/wal"
)

// BenchmarkAppend is one durable append of entries of 300 B, beside bolt as a
// log of format 1 was written.
func BenchmarkAppend(b *testing.B) {
	for _, count := range []int{1, 64} {
		for name, open := range map[string]func() (raft.LogStore, error){
			"wal": func() (raft.LogStore, error) { return wal.Create(wal.Options{Dir: b.TempDir()}) },
			"bolt": func() (raft.LogStore, error) {
				return raftboltdb.New(raftboltdb.Options{Path: filepath.Join(b.TempDir(), "log.db"),
					BoltOptions: &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType}})
			},
		} {
			b.Run(fmt.Sprintf("%s/entries=%d", name, count), func(b *testing.B) {
				log, err := open()
				if err != nil {
					b.Fatal(err)
				}
				entries := make([]*raft.Log, count)
				next := uint64(1)
				b.ReportAllocs()
				for b.Loop() {
					for i := range entries {
						entries[i] = &raft.Log{Index: next, Term: 1, Data: make([]byte, 300)}
						next++
					}
					if err := log.StoreLogs(entries); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
