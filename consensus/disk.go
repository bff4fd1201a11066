package consensus

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/consensus/wal"
)

// disk is raft's log and stable store, and what it may expect of them. Package
// wal does the work. A write that fails or does not end is the end of this node:
// fail is told, and nothing is written or promised afterwards, because a
// repeated fsync may succeed without the data being on the disk. The exception
// is a full disk, which refuses before anything is written; see room.go.
type disk struct {
	store   store
	log     *wal.Log
	path    string
	metrics *metrics
	fail    func(error)
	// covered is the newest entry that a snapshot holds.
	covered func() uint64
	// early is told of entries before they are written; it does not block.
	early func([]*raft.Log)
	// refused is told that there was no room; it does not block.
	refused func()
	// running is set once the node is open; until then errors go to the opener.
	running atomic.Bool
	// quiet is closed once nothing can leave this node any more.
	quiet chan struct{}

	broken atomic.Bool
	under  underWay
	// cut: entries were dropped from the end, to be replaced. Raft goes on as
	// if they were replaced already, so from here they must be.
	cut bool

	mu     sync.RWMutex
	recent recentEntries
}

type store interface {
	raft.LogStore
	raft.StableStore
}

// walStore is the log and the stable store of a directory.
type walStore struct {
	*wal.Log
	stable
}

type stable struct{ raft.StableStore }

var errDiskBroken = errors.New("an earlier write to the log failed")

func (d *disk) write(what string, f func() error) error {
	if d.broken.Load() {
		return errDiskBroken
	}
	begin := time.Now()
	done := d.under.begin()
	err := f()
	done()
	d.metrics.diskWrite(time.Since(begin))
	if errors.Is(err, wal.ErrNoSpace) && !d.cut {
		d.refused()
		return fmt.Errorf("%w: %s: %s: %w", ErrNoSpace, d.path, what, err)
	}
	if err != nil {
		err = diskError(d.path, fmt.Errorf("%s: %w", what, err))
		d.broken.Store(true)
		if d.running.Load() {
			d.fail(err)
		}
	}
	return err
}

// IsMonotonic makes raft drop the whole log when a snapshot replaces it.
func (d *disk) IsMonotonic() bool { return true }

func (d *disk) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	if !d.broken.Load() {
		d.early(entries)
	}
	err := d.write("append to the log", func() error {
		// The log drops what is before a gap. Only a snapshot may cause one.
		if before := entries[0].Index - 1; before >= d.log.Next() && d.covered() < before {
			return fmt.Errorf("entry %d would follow entry %d", before+1, d.log.Next()-1)
		}
		return d.store.StoreLogs(entries)
	})
	if err == nil {
		d.cut = false
		d.mu.Lock()
		d.recent.add(entries)
		d.mu.Unlock()
	}
	return err
}

func (d *disk) StoreLog(entry *raft.Log) error { return d.StoreLogs([]*raft.Log{entry}) }

func (d *disk) DeleteRange(first, last uint64) error {
	newest, _ := d.store.LastIndex()
	low, _ := d.store.FirstIndex()
	end := newest > 0 && last >= newest && first > low
	if end && !d.log.Reserve() {
		// What replaces them must fit: raft does not look back (raft 1.7.3,
		// appendEntries, "leaving r.getLastLog() in the wrong state").
		if err := d.write("replace the end of the log", d.log.Prepare); err != nil {
			return err
		}
	}
	d.mu.Lock()
	d.recent.clear()
	d.mu.Unlock()
	err := d.write("trim the log", func() error { return d.store.DeleteRange(first, last) })
	if err == nil && end {
		d.cut = true
	}
	return err
}

func (d *disk) FirstIndex() (uint64, error) { return d.store.FirstIndex() }
func (d *disk) LastIndex() (uint64, error)  { return d.store.LastIndex() }

// GetLog never returns a command entry other than it was written.
func (d *disk) GetLog(index uint64, entry *raft.Log) error {
	d.mu.RLock()
	recent := d.recent.get(index)
	d.mu.RUnlock()
	if recent != nil {
		*entry = *recent
		return nil
	}
	done := d.under.begin()
	err := d.store.GetLog(index, entry)
	done()
	if err == nil && entry.Type == raft.LogCommand {
		err = checkEnvelope(entry.Data)
	}
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err // not found is an ordinary answer
	}
	err = fmt.Errorf("log entry %d: %w", index, err)
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		err = diskError(d.path, err)
	} else {
		err = damaged(d.path, err)
	}
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
	return d.promise(func() error { return d.store.Set(key, value) })
}

func (d *disk) SetUint64(key []byte, value uint64) error {
	return d.promise(func() error { return d.store.SetUint64(key, value) })
}

func (d *disk) promise(f func() error) error {
	err := d.write("save term and vote", f)
	for errors.Is(err, ErrNoSpace) && d.running.Load() {
		// Where overwriting takes no new space this does not happen. Raft waits.
		select {
		case <-time.After(roomTick):
			err = d.write("save term and vote", f)
		case <-d.quiet:
			return nil
		}
	}
	if err != nil && d.running.Load() {
		<-d.quiet
		return nil
	}
	return err
}

func (d *disk) Get(key []byte) ([]byte, error)       { return d.store.Get(key) }
func (d *disk) GetUint64(key []byte) (uint64, error) { return d.store.GetUint64(key) }

// underWay is which reads and writes have not ended.
type underWay struct {
	mu     sync.Mutex
	number uint64
	since  map[uint64]time.Time
}

// begin notes one that begins now; the function it returns notes its end.
func (u *underWay) begin() (end func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.since == nil {
		u.since = map[uint64]time.Time{}
	}
	u.number++
	number := u.number
	u.since[number] = time.Now()
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.since, number)
	}
}

// longest is how long the oldest of them has taken; 0 when there is none.
func (u *underWay) longest() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	var longest time.Duration
	for _, since := range u.since {
		longest = max(longest, time.Since(since))
	}
	return longest
}

// recentEntries keeps the newest entries in memory, for replication and for
// applying, within bounds.
type recentEntries struct {
	ring  [recentMax]*raft.Log
	bytes int
	low   uint64 // nothing below is kept
}

const (
	recentMax      = 1024
	recentBytesMax = 8 << 20
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
