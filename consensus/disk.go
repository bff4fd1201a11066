package consensus

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// disk is raft's log and stable store, and what it may expect of them. Bolt
// does the work. A write that fails or does not end is the end of this node:
// fail is told, and nothing is written or promised afterwards, because a
// repeated fsync may succeed without the data being on the disk.
type disk struct {
	bolt    store
	path    string
	metrics *metrics
	fail    func(error)
	// early is told of entries before they are written; it does not block.
	early func([]*raft.Log)
	// running is set once the node is open; until then errors go to the opener.
	running atomic.Bool
	// quiet is closed once nothing can leave this node any more.
	quiet chan struct{}

	broken  atomic.Bool
	writing atomic.Int64 // start of the write under way, Unix nanoseconds, or 0

	mu     sync.RWMutex
	recent recentEntries
}

type store interface {
	raft.LogStore
	raft.StableStore
}

// stuckFor is how long the write under way has taken.
func (d *disk) stuckFor() time.Duration {
	if begin := d.writing.Load(); begin != 0 {
		return time.Since(time.Unix(0, begin))
	}
	return 0
}

var errDiskBroken = errors.New("an earlier write to the log failed")

func (d *disk) write(what string, f func() error) error {
	if d.broken.Load() {
		return errDiskBroken
	}
	begin := time.Now()
	d.writing.Store(begin.UnixNano())
	err := f()
	d.writing.Store(0)
	d.metrics.diskWrite(time.Since(begin))
	if err != nil {
		err = diskError(d.path, fmt.Errorf("%s: %w", what, err))
		d.broken.Store(true)
		if d.running.Load() {
			d.fail(err)
		}
	}
	return err
}

func (d *disk) StoreLogs(entries []*raft.Log) error {
	if len(entries) > 0 && !d.broken.Load() {
		d.early(entries)
	}
	err := d.write("append to the log", func() error { return d.bolt.StoreLogs(entries) })
	if err == nil {
		d.mu.Lock()
		d.recent.add(entries)
		d.mu.Unlock()
	}
	return err
}

func (d *disk) StoreLog(entry *raft.Log) error { return d.StoreLogs([]*raft.Log{entry}) }

func (d *disk) DeleteRange(first, last uint64) error {
	d.mu.Lock()
	d.recent.clear()
	d.mu.Unlock()
	return d.write("trim the log", func() error { return d.bolt.DeleteRange(first, last) })
}

func (d *disk) FirstIndex() (uint64, error) { return d.bolt.FirstIndex() }
func (d *disk) LastIndex() (uint64, error)  { return d.bolt.LastIndex() }

// GetLog never returns a command entry other than it was written.
func (d *disk) GetLog(index uint64, entry *raft.Log) error {
	d.mu.RLock()
	recent := d.recent.get(index)
	d.mu.RUnlock()
	if recent != nil {
		*entry = *recent
		return nil
	}
	err := d.bolt.GetLog(index, entry)
	if err == nil && entry.Index != index {
		err = fmt.Errorf("entry %d says it is entry %d", index, entry.Index)
	}
	if err == nil && entry.Type == raft.LogCommand {
		err = checkEnvelope(entry.Data)
	}
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err // not found is an ordinary answer
	}
	err = damaged(d.path, fmt.Errorf("log entry %d: %w", index, err))
	if !d.running.Load() {
		return err
	}
	// Raft panics on an entry that it must have and cannot read.
	d.fail(err)
	<-d.quiet
	return err
}

// The stable store holds the term and the vote. Raft panics when it cannot be
// written, so a failure is reported and raft is held here until nothing it
// might send on that footing can leave the node.

func (d *disk) Set(key, value []byte) error {
	return d.promise(func() error { return d.bolt.Set(key, value) })
}

func (d *disk) SetUint64(key []byte, value uint64) error {
	return d.promise(func() error { return d.bolt.SetUint64(key, value) })
}

func (d *disk) promise(f func() error) error {
	err := d.write("save term and vote", f)
	if err != nil && d.running.Load() {
		<-d.quiet
		return nil
	}
	return err
}

func (d *disk) Get(key []byte) ([]byte, error)       { return d.bolt.Get(key) }
func (d *disk) GetUint64(key []byte) (uint64, error) { return d.bolt.GetUint64(key) }

// recentEntries keeps the newest entries in memory, for replication and for
// applying, within bounds.
type recentEntries struct {
	ring  [recentMax]*raft.Log
	bytes int
	low   uint64 // nothing below is kept
}

const (
	recentMax      = 1024
	recentBytesMax = 32 << 20
)

func (r *recentEntries) add(entries []*raft.Log) {
	for _, e := range entries {
		slot := &r.ring[e.Index%recentMax]
		r.drop(slot)
		*slot = e
		r.bytes += len(e.Data)
		if r.low == 0 || r.low > e.Index {
			r.low = e.Index
		}
		r.low = max(r.low, e.Index-min(e.Index, recentMax-1))
		for r.bytes > recentBytesMax && r.low < e.Index {
			r.drop(&r.ring[r.low%recentMax])
			r.low++
		}
	}
}

func (r *recentEntries) drop(slot **raft.Log) {
	if *slot != nil {
		r.bytes -= len((*slot).Data)
		*slot = nil
	}
}

func (r *recentEntries) get(index uint64) *raft.Log {
	if e := r.ring[index%recentMax]; e != nil && e.Index == index {
		return e
	}
	return nil
}

func (r *recentEntries) clear() { *r = recentEntries{} }
