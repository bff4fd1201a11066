package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Options say where a log is and how it grows.
type Options struct {
	Disk Disk   // nil: OS
	Dir  string // exists
	// SegmentBytes is the size that segments grow to, from FirstBytes by doubling.
	// Defaults 64 MiB and 4 MiB.
	SegmentBytes, FirstBytes int64
}

const (
	defaultSegment = 64 << 20
	defaultFirst   = 4 << 20
	// keptFramerMax bounds the buffer that is kept from one append to the next.
	keptFramerMax = 4 << 20
	// Run: how often a refused segment is tried again, and how often it is
	// written down what was acknowledged.
	retrySpace      = 500 * time.Millisecond
	acknowledgeTick = time.Second
)

// Log is raft's log. Entries are contiguous; one that leaves a gap drops all
// before it, as after a snapshot.
//
// Appends and cuts are one write and one fdatasync each. After one of them
// failed for another reason than space, nothing more is written: ErrBroken.
type Log struct {
	disk Disk
	dir  string
	most int64 // sectors of a segment
	id   uint64

	// writing orders appends and cuts; preparing the making of segments, and is
	// taken after it.
	writing   sync.Mutex
	preparing sync.Mutex
	wake      chan struct{} // room for one: Run has something to prepare

	// Of whoever holds writing.
	frame   framer
	scratch []byte
	located []location
	number  uint64 // of the next append
	// dirty: sectors from active.next on that a refused append may have touched.
	dirty  int64
	broken error

	mu       sync.RWMutex
	segments []*segment // oldest first; the last is the active one
	spare    *segment   // follows the active one; nil while there is none
	first    uint64
	last     uint64

	starved      atomic.Bool             // the next segment could not be made
	active       atomic.Pointer[segment] // for Run, which holds no lock of it
	durable      atomic.Uint64           // number of the newest append that is durable
	acknowledged uint64                  // of Run and Close: the newest mark
}

var (
	_ raft.LogStore          = (*Log)(nil)
	_ raft.MonotonicLogStore = (*Log)(nil)
)

func (o Options) withDefaults() Options {
	if o.Disk == nil {
		o.Disk = OS
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = defaultSegment
	}
	if o.FirstBytes == 0 {
		o.FirstBytes = min(defaultFirst, o.SegmentBytes)
	}
	return o
}

// Create makes an empty log where there is none.
func Create(o Options) (*Log, error) {
	o = o.withDefaults()
	l := newLog(o)
	for l.id == 0 {
		l.id = rand.Uint64()
	}
	s, err := createSegment(l.disk, l.dir, place{l.id, 1}, sectorsOf(o.FirstBytes))
	if err == nil {
		err = s.publish(l.disk)
	}
	if err != nil {
		return nil, refused(err)
	}
	l.number = 1
	l.first = 1
	l.segments = []*segment{s}
	l.active.Store(s)
	return l, nil
}

func newLog(o Options) *Log {
	return &Log{disk: o.Disk, dir: o.Dir, most: sectorsOf(o.SegmentBytes), wake: make(chan struct{}, 1)}
}

func sectorsOf(bytes int64) int64 { return min(max(bytes/sectorSize, sectorsMin), sectorsMax) }

func refused(err error) error {
	if full(err) {
		return noSpace(err)
	}
	return err
}

// Close writes down what was acknowledged, and gives the files up.
func (l *Log) Close() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.preparing.Lock()
	defer l.preparing.Unlock()
	var err error
	if l.broken == nil {
		if s, marked := l.active.Load(), l.mark(); marked {
			err = s.file.Datasync()
		}
		l.broken = errors.New("the log is closed")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.segments {
		err = errors.Join(err, s.file.Close())
	}
	if l.spare != nil {
		err = errors.Join(err, l.spare.file.Close())
	}
	l.segments, l.spare = nil, nil
	return err
}

// IsMonotonic makes raft drop the old log when a snapshot replaces it.
func (l *Log) IsMonotonic() bool { return true }

// FirstIndex is 0 for an empty log.
func (l *Log) FirstIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.last < l.first {
		return 0, nil
	}
	return l.first, nil
}

// LastIndex is 0 for an empty log.
func (l *Log) LastIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.last < l.first {
		return 0, nil
	}
	return l.last, nil
}

// Floor is the index up to which entries were once dropped: a snapshot must
// cover it.
func (l *Log) Floor() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.first - 1
}

// Next is the index that follows the last.
func (l *Log) Next() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.last + 1
}

// Bytes is what the log takes on the disk.
func (l *Log) Bytes() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var bytes int64
	for _, s := range l.segments {
		bytes += s.bytes()
	}
	if l.spare != nil {
		bytes += l.spare.bytes()
	}
	return bytes
}

// Reserve says whether the segment that follows is there already. Without one
// the log goes on to the end of the active segment.
func (l *Log) Reserve() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.spare != nil
}

// Starved says whether a segment was needed and there was no room for it.
func (l *Log) Starved() bool { return l.starved.Load() }

// GetLog reads an entry from the disk and checks it. raft.ErrLogNotFound: it is
// not in the log; DamageError: it is not what was written.
func (l *Log) GetLog(index uint64, e *raft.Log) error {
	record, path, err := l.record(index)
	if err != nil {
		return err
	}
	var got raft.Log
	if err := decodeEntry(record, &got); err != nil {
		return damaged(path, err)
	}
	if got.Index != index {
		return damaged(path, fmt.Errorf("entry %d says it is entry %d", index, got.Index))
	}
	*e = got
	return nil
}

func (l *Log) record(index uint64) ([]byte, string, error) {
	l.mu.RLock() // while reading too: a segment that is dropped is closed
	defer l.mu.RUnlock()
	if index < l.first || index > l.last {
		return nil, "", raft.ErrLogNotFound
	}
	for i := len(l.segments) - 1; i >= 0; i-- {
		s := l.segments[i]
		if len(s.entries) > 0 && index >= s.base {
			if at := index - s.base; at < uint64(len(s.entries)) {
				record, err := s.read(s.entries[at])
				return record, s.path, err
			}
			break
		}
	}
	return nil, "", raft.ErrLogNotFound
}

// StoreLog appends one entry.
func (l *Log) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs appends all of the entries or none. ErrNoSpace: none, and the log is
// as it was.
func (l *Log) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.broken != nil {
		return l.stopped()
	}
	from := entries[0].Index
	payload := 0
	for i, e := range entries {
		if e.Index != from+uint64(i) {
			return fmt.Errorf("entry %d follows entry %d in one append", e.Index, from+uint64(i)-1)
		}
		payload += entrySize(e)
	}
	now := state{first: l.first, last: l.last}
	if from <= l.last || from < l.first {
		return fmt.Errorf("entry %d is in the log already: it goes from %d to %d", from, l.first, l.last)
	}
	gap := from != l.last+1
	if gap {
		now = state{first: from, last: from - 1}
	}
	s := l.active.Load()
	// Room for the state whether or not it is needed.
	if need := sectorsFor(payload + recordHeadMax); s.next+need > s.limit(true) {
		if err := l.rotate(need); err != nil {
			return err
		}
		s = l.active.Load()
	}
	l.frame.reset()
	if gap || s.fresh {
		now.oldest = l.oldestFor(now.first, s)
		l.scratch = now.append(l.scratch[:0])
		l.frame.write(l.scratch)
	}
	start := (s.next - dataSector) * sectorPayload
	l.frame.grow(payload + recordHeadMax)
	l.located = l.located[:0]
	for _, e := range entries {
		at := l.frame.at()
		l.scratch = appendEntryHead(l.scratch[:0], e)
		l.frame.write(l.scratch)
		l.frame.write(e.Data)
		l.located = append(l.located, location{at: uint32(start + at), size: uint32(l.frame.at() - at)})
	}
	if err := l.commit(s); err != nil {
		return err
	}
	l.mu.Lock()
	if gap {
		l.cut(now)
	}
	if len(s.entries) == 0 {
		s.base = from
	}
	s.entries = append(s.entries, l.located...)
	l.last = from + uint64(len(entries)) - 1
	l.mu.Unlock()
	if gap {
		return l.dropBefore(now.oldest)
	}
	return nil
}

// DeleteRange drops entries from the front or from the back. A crash leaves
// either all of them or none.
func (l *Log) DeleteRange(low, high uint64) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.broken != nil {
		return l.stopped()
	}
	if l.last < l.first || high < l.first || low > l.last || low > high {
		return nil
	}
	now := state{first: l.first, last: l.last}
	switch {
	case high >= l.last:
		now.last = max(low, l.first) - 1
	case low <= l.first:
		now.first = high + 1
	default:
		return fmt.Errorf("entries %d to %d are in the middle of %d to %d", low, high, l.first, l.last)
	}
	s := l.active.Load()
	if s.next+1 > s.limit(false) {
		if err := l.rotate(1); err != nil {
			return err
		}
		s = l.active.Load()
	}
	now.oldest = l.oldestFor(now.first, s)
	if now.last < now.first {
		now.oldest = s.segment // nothing is left in any
	}
	l.frame.reset()
	l.scratch = now.append(l.scratch[:0])
	l.frame.write(l.scratch)
	if err := l.commit(s); err != nil {
		return err
	}
	l.mu.Lock()
	l.cut(now)
	l.mu.Unlock()
	return l.dropBefore(now.oldest)
}

// stopped is the answer after a write that failed.
func (l *Log) stopped() error { return fmt.Errorf("%w: %w", ErrBroken, l.broken) }

// commit writes what is framed as the next append of s, durably.
func (l *Log) commit(s *segment) error {
	if err := l.clean(s); err != nil {
		return err
	}
	b := l.frame.seal(s.place, s.next, l.number)
	if _, err := s.file.WriteAt(b, s.next*sectorSize); err != nil {
		if full(err) {
			// Not so on a file system that overwrites in place. Some of it may
			// be written; it must be gone before anything else takes its place.
			l.dirty = max(l.dirty, int64(len(b)/sectorSize))
			return noSpace(err)
		}
		l.broken = err
		return err
	}
	if err := s.file.Datasync(); err != nil {
		l.broken = err
		return err
	}
	s.next += int64(len(b) / sectorSize)
	s.fresh = false
	l.durable.Store(l.number)
	l.number++
	if cap(l.frame.buf) > keptFramerMax {
		l.frame.buf = nil
	}
	return nil
}

// clean makes zeroes again of what an append that was refused may have left.
func (l *Log) clean(s *segment) error {
	if l.dirty == 0 {
		return nil
	}
	if err := zero(s, s.next, l.dirty); err != nil {
		if full(err) {
			return noSpace(err)
		}
		l.broken = err
		return err
	}
	if err := s.file.Datasync(); err != nil {
		l.broken = err
		return err
	}
	l.dirty = 0
	return nil
}

func zero(s *segment, from, count int64) error {
	piece := make([]byte, min(count*sectorSize, zeroChunk))
	for at, end := from*sectorSize, (from+count)*sectorSize; at < end; at += int64(len(piece)) {
		if _, err := s.file.WriteAt(piece[:min(int64(len(piece)), end-at)], at); err != nil {
			return err
		}
	}
	return nil
}

// rotate ends the active segment and goes on in one that has room for an append
// of need sectors. If there is none to be had, nothing is changed.
func (l *Log) rotate(need int64) error {
	l.preparing.Lock()
	defer l.preparing.Unlock()
	s := l.active.Load()
	if l.spare == nil || l.spare.next+need > l.spare.limit(true) {
		if err := l.prepare(need); err != nil {
			return err
		}
	}
	if !s.sealed {
		l.frame.reset()
		l.scratch = l.scratch[:0]
		if s.fresh {
			l.scratch = state{l.first, l.last, l.oldestFor(l.first, s)}.append(l.scratch)
		}
		l.scratch = append(l.scratch, recordSeal)
		l.scratch = binary.AppendUvarint(l.scratch, s.segment+1)
		l.frame.write(l.scratch)
		if err := l.commit(s); err != nil {
			return err
		}
		s.sealed = true
	}
	l.mu.Lock()
	l.segments = append(l.segments, l.spare)
	l.active.Store(l.spare)
	l.spare = nil
	l.mu.Unlock()
	l.wakeRun()
	return nil
}

// prepare makes the spare segment, with room for an append of need sectors. It
// replaces a smaller one.
func (l *Log) prepare(need int64) error {
	s := l.active.Load()
	sectors := max(min(2*s.sectors, l.most), min(need+dataSector+reservedMarks, sectorsMax))
	if dataSector+need+reservedMarks > sectors {
		return fmt.Errorf("an append of %d MiB is too large", need*sectorSize>>20)
	}
	made, err := createSegment(l.disk, l.dir, place{l.id, s.segment + 1}, sectors)
	if err != nil {
		l.starved.Store(full(err))
		return refused(err)
	}
	// From here on the old one may have no name any more.
	l.mu.Lock()
	old := l.spare
	l.spare = nil
	l.mu.Unlock()
	if old != nil {
		err = old.file.Close()
	}
	if err = errors.Join(err, made.publish(l.disk)); err != nil {
		_ = made.file.Close()
		return refused(err)
	}
	l.mu.Lock()
	l.spare = made
	l.mu.Unlock()
	l.starved.Store(false)
	return nil
}

// Prepare makes sure that the next segment is there. ErrNoSpace: there is no
// room for it. Other errors are a failing disk's.
func (l *Log) Prepare() error {
	l.preparing.Lock()
	defer l.preparing.Unlock()
	if l.spare != nil {
		return nil
	}
	l.mu.RLock()
	closed := len(l.segments) == 0
	l.mu.RUnlock()
	if closed {
		return nil
	}
	return l.prepare(1)
}

// Run keeps a segment ready ahead of the appends until ctx ends. Without it
// they wait for one. An error is a failing disk's.
func (l *Log) Run(ctx context.Context) error {
	tick := time.NewTicker(acknowledgeTick)
	defer tick.Stop()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-l.wake:
		case <-retry.C:
		case <-tick.C:
			// Not made durable: the next append does that in passing.
			if l.writing.TryLock() {
				l.mark()
				l.writing.Unlock()
			}
			continue
		case <-ctx.Done():
			return nil
		}
		if err := l.Prepare(); errors.Is(err, ErrNoSpace) {
			retry.Reset(retrySpace)
		} else if err != nil {
			return err
		}
	}
}

func (l *Log) wakeRun() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// mark writes down which append is the newest durable one, if that is news.
// A failure is left to the next append to find.
func (l *Log) mark() bool {
	s, durable := l.active.Load(), l.durable.Load()
	if l.broken != nil || s.fresh || durable == l.acknowledged || s.markAcknowledged(durable) != nil {
		return false
	}
	l.acknowledged = durable
	return true
}

// oldestFor is the oldest segment that is needed when entries begin at first and
// active is written to.
func (l *Log) oldestFor(first uint64, active *segment) uint64 {
	for _, s := range l.segments {
		if s == active || len(s.entries) > 0 && s.base+uint64(len(s.entries)) > first {
			return s.segment
		}
	}
	return active.segment
}

// cut makes the index what a state says. The caller holds mu.
func (l *Log) cut(now state) {
	for _, s := range l.segments {
		if len(s.entries) == 0 {
			continue
		}
		switch {
		case now.last < s.base || now.last < now.first || s.base+uint64(len(s.entries)) <= now.first:
			s.entries = nil
		case s.base+uint64(len(s.entries))-1 > now.last:
			s.entries = s.entries[:now.last-s.base+1]
		}
	}
	l.first, l.last = now.first, now.last
}

// dropBefore removes segments that are not needed any more. Some may come back
// after a crash; the state on the disk says that they do not count.
func (l *Log) dropBefore(oldest uint64) error {
	l.mu.Lock()
	var dropped []*segment
	for len(l.segments) > 1 && l.segments[0].segment < oldest {
		dropped = append(dropped, l.segments[0])
		l.segments = l.segments[1:]
	}
	l.mu.Unlock()
	var err error
	for _, s := range dropped {
		err = errors.Join(err, s.file.Close(), l.disk.Remove(s.path))
	}
	if len(dropped) > 0 {
		l.wakeRun()
	}
	if err != nil {
		l.broken = err
	}
	return err
}
