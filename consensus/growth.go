package consensus

import (
	"sync"

	"github.com/hashicorp/raft"
)

// entryOverhead is counted for each log entry beside its data: what it takes
// on the disk and the work of applying it again after a restart. It makes a
// count of entries needless: 64 MiB are at most 128 Ki entries.
const entryOverhead = 512

func weigh(entry *raft.Log) int64 { return entryOverhead + int64(len(entry.Data)) }

// growth knows what the log weighs, and from where. It is not told what the
// entries before this process weigh, except those after the last snapshot,
// which raft reads when it starts.
type growth struct {
	mu    sync.Mutex
	last  uint64 // newest entry
	total int64  // all that was counted; marks say where in the log
	marks []mark // in ascending order; the first is the oldest known entry
}

// mark says what was counted before an entry.
type mark struct {
	index  uint64
	before int64
}

// markEvery is how finely the log is known: 16,384 marks for 4 GiB.
const markEvery = 256 << 10

func (g *growth) add(entries ...*raft.Log) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range entries {
		if e.Index != g.last+1 {
			g.cut(e.Index)
		}
		if n := len(g.marks); n == 0 || g.total-g.marks[n-1].before >= markEvery {
			g.marks = append(g.marks, mark{e.Index, g.total})
		}
		g.total += weigh(e)
		g.last = e.Index
	}
}

// cut forgets the entries from index on: others will have these numbers. What
// lies between the last mark before and index stays counted. A gap before
// index makes all that is known useless.
func (g *growth) cut(index uint64) {
	if index > g.last+1 {
		g.marks = nil
	}
	for n := len(g.marks); n > 0 && g.marks[n-1].index >= index; n-- {
		g.total, g.marks = g.marks[n-1].before, g.marks[:n-1]
	}
	if len(g.marks) == 0 {
		g.total = 0
	}
	g.last = index - 1
}

// deleted is told of what the log store drops.
func (g *growth) deleted(first, last uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if last >= g.last {
		if first <= g.last {
			g.cut(max(first, 1))
		}
		return
	}
	drop := 0
	for drop+1 < len(g.marks) && g.marks[drop+1].index <= last+1 {
		drop++
	}
	g.marks = append(g.marks[:0:0], g.marks[drop:]...)
}

// since is the weight and number of the entries after index, or a little more.
func (g *growth) since(index uint64) (weight int64, entries uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.last <= index || len(g.marks) == 0 {
		return 0, 0
	}
	at := g.marks[0].before
	for i := len(g.marks) - 1; i >= 0; i-- {
		if g.marks[i].index <= index+1 {
			at = g.marks[i].before
			break
		}
	}
	return g.total - at, g.last - index
}

// newest is how many of the newest entries together weigh no more than weight.
func (g *growth) newest(weight int64) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.marks {
		if g.total-m.before <= weight {
			return g.last + 1 - m.index
		}
	}
	return 0
}

// counted is a disk that is counted.
type counted struct {
	*disk
	growth *growth
	grew   chan struct{} // room for one: something was appended
}

func (c *counted) StoreLogs(entries []*raft.Log) error {
	err := c.disk.StoreLogs(entries)
	if err == nil {
		c.growth.add(entries...)
		select {
		case c.grew <- struct{}{}:
		default:
		}
	}
	return err
}

func (c *counted) StoreLog(entry *raft.Log) error { return c.StoreLogs([]*raft.Log{entry}) }

func (c *counted) DeleteRange(first, last uint64) error {
	err := c.disk.DeleteRange(first, last)
	if err == nil {
		c.growth.deleted(first, last)
	}
	return err
}

// GetLog counts what raft reads before it runs, which is all after the last
// snapshot, in order.
func (c *counted) GetLog(index uint64, entry *raft.Log) error {
	err := c.disk.GetLog(index, entry)
	if err == nil && !c.running.Load() {
		c.growth.add(entry)
	}
	return err
}

// segmentBytes is what segments of the log grow to: no more than what makes a
// snapshot due, because a log is trimmed by whole segments.
func segmentBytes(snapshotBytes int64) int64 {
	if snapshotBytes == 0 {
		return 0 // as wal likes it
	}
	return min(max(snapshotBytes, 4<<20), 64<<20)
}
