package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// Exists says whether there is a log in a directory, whole or not.
func Exists(disk Disk, dir string) (bool, error) {
	numbers, err := segmentsIn(disk, dir)
	return len(numbers) > 0, err
}

// Remove removes all that a log left in a directory.
func Remove(disk Disk, dir string) error {
	files, err := disk.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, is := segmentNumber(strings.TrimSuffix(f.Name(), unfinished)); is {
			err = errors.Join(err, disk.Remove(filepath.Join(dir, f.Name())))
		}
	}
	return errors.Join(err, disk.SyncDir(dir))
}

func segmentsIn(disk Disk, dir string) ([]uint64, error) {
	files, err := disk.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, f := range files {
		if number, is := segmentNumber(f.Name()); is {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// Open reads a log. An append that was under way when the last process or the
// machine ended is dropped if it is not whole; a DamageError is all that cannot
// have come from such an end.
func Open(o Options) (_ *Log, err error) {
	o = o.withDefaults()
	l := newLog(o)
	numbers, err := segmentsIn(l.disk, l.dir)
	if err != nil {
		return nil, err
	}
	if len(numbers) == 0 {
		return nil, damaged(filepath.Join(l.dir, segmentPrefix+"*"), errors.New("it is missing"))
	}
	opened := false
	var all []*segment
	defer func() {
		if !opened {
			for _, s := range all {
				_ = s.file.Close()
			}
		}
	}()
	if err := l.tidy(); err != nil {
		return nil, err
	}
	// Segments that are gone but for some: those before the gap were on their way out.
	from := len(numbers) - 1
	for from > 0 && numbers[from-1] == numbers[from]-1 {
		from--
	}
	for _, number := range numbers[from:] {
		s, err := openSegment(l.disk, l.dir, number)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
		if s.log != all[0].log {
			return nil, damaged(s.path, errors.New("it is of another log"))
		}
	}
	l.id = all[0].log
	r := &reader{log: l}
	for _, s := range all {
		if err := r.segment(s); err != nil {
			return nil, err
		}
	}
	if err := r.finish(all); err != nil {
		return nil, err
	}
	if r.state.oldest < all[0].segment {
		return nil, damaged(filepath.Join(l.dir, segmentName(r.state.oldest)), errors.New("it is missing"))
	}
	if err := l.secure(r); err != nil {
		return nil, err
	}
	opened = true
	for _, number := range numbers[:from] {
		if err := l.disk.Remove(filepath.Join(l.dir, segmentName(number))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return l, l.dropBefore(r.state.oldest)
}

// tidy removes segments that were never finished.
func (l *Log) tidy() error {
	files, err := l.disk.ReadDir(l.dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if name, is := strings.CutSuffix(f.Name(), unfinished); is {
			if _, is := segmentNumber(name); is {
				if err := l.disk.Remove(filepath.Join(l.dir, f.Name())); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// reader goes through the segments of a log from the oldest on and builds the index.
type reader struct {
	log    *Log
	state  state
	number uint64 // of the next append; 0 while it is not known

	newest    *segment // the last one that has appends
	lastStart int64    // where in it the newest append begins
	torn      *segment // has an append that is not whole
	tornSize  int64
	open      *segment // not sealed, and appends go on here

	window      []byte
	windowFirst int64
	windowOf    *segment
}

const windowSectors = 512

func (r *reader) segment(s *segment) error {
	first := r.newest == nil && r.open == nil
	if r.open != nil {
		// The one before goes on, so nothing was ever written here.
		return r.spare(s)
	}
	l := r.log
	l.segments = append(l.segments, s)
	r.windowOf = nil
	for s.next < s.sectors {
		sector, err := r.sector(s, s.next)
		if err != nil {
			return err
		}
		found := s.inspect(s.next, sector)
		if first && r.number == 0 && found.valid && found.index == 0 {
			r.number = found.append
		}
		whole := found.valid && found.append == r.number && found.index == 0 && s.next+int64(found.total) <= s.sectors
		for i := int64(1); whole && i < int64(found.total); i++ {
			if sector, err = r.sector(s, s.next+i); err != nil {
				return err
			}
			part := s.inspect(s.next+i, sector)
			whole = part.valid && part.append == r.number && int64(part.index) == i && part.total == found.total
		}
		if !whole {
			if err := r.tail(s, false); err != nil {
				return err
			}
			r.open = s
			return nil
		}
		if err := r.records(s, int64(found.total)); err != nil {
			return err
		}
		r.newest, r.lastStart = s, s.next
		s.next += int64(found.total)
		s.fresh = false
		r.number++
		if s.sealed {
			return r.tail(s, true)
		}
	}
	return damaged(s.path, errors.New("it is full and does not say what follows"))
}

// tail looks at what is after the last whole append of a segment. Zeroes, and
// some sectors of one append among them, are what an append that was cut short
// leaves; anything else is damage.
func (r *reader) tail(s *segment, sealed bool) error {
	var torn, found int64 // sectors of the append, and those that are there
	var number uint64
	for at := s.next; at < s.sectors; at++ {
		sector, err := r.sector(s, at)
		if err != nil {
			return err
		}
		here := s.inspect(at, sector)
		switch {
		case here.untouched:
			continue
		case !here.valid:
			return damaged(s.path, fmt.Errorf("sector %d is neither what was written nor untouched", at))
		case sealed:
			return damaged(s.path, fmt.Errorf("sector %d was written after its end", at))
		}
		if torn == 0 {
			torn, number = int64(here.total), here.append
		}
		if here.append != number || int64(here.total) != torn || int64(here.index) != at-s.next ||
			r.number != 0 && number != r.number || s.next+torn > s.sectors {
			return damaged(s.path, fmt.Errorf("append %d is at sector %d, and what comes before it at sector %d is not there", here.append, at, s.next))
		}
		found++
	}
	if torn > 0 && found == torn {
		return damaged(s.path, fmt.Errorf("append %d is not what is expected at sector %d", number, s.next))
	}
	if torn > 0 {
		r.torn, r.tornSize = s, torn
	}
	return nil
}

// spare takes a segment that follows one that is not sealed.
func (r *reader) spare(s *segment) error {
	if r.log.spare != nil {
		return damaged(s.path, errors.New("the segment before it does not lead to it"))
	}
	for at := int64(1); at < s.sectors; at++ {
		sector, err := r.sector(s, at)
		if err != nil {
			return err
		}
		if !allZero(sector) {
			return damaged(s.path, errors.New("it was written to, and the segment before it does not lead to it"))
		}
	}
	r.log.spare = s
	return nil
}

// records builds the index from a whole append.
func (r *reader) records(s *segment, total int64) error {
	l := r.log
	bad := func(err error) error { return damaged(s.path, fmt.Errorf("append %d: %w", r.number, err)) }
	base := (s.next - dataSector) * sectorPayload
	end := base + total*sectorPayload
	for at := base; at < end; {
		b, err := r.payload(s, at, min(end-at, recordHeadMax))
		if err != nil {
			return err
		}
		h, err := decodeHead(b)
		if err != nil {
			return bad(err)
		}
		if at+h.size > end {
			return bad(fmt.Errorf("%w: %d bytes, %d are left", errRecord, h.size, end-at))
		}
		if s.fresh && at == base && h.kind != recordState {
			return bad(errors.New("a segment begins without the log's state"))
		}
		switch h.kind {
		case recordEnd:
			at = end
		case recordState:
			if h.state.first == 0 || h.state.last+1 < h.state.first || h.state.oldest == 0 || h.state.oldest > s.segment {
				return bad(fmt.Errorf("entries %d to %d from segment %d on", h.state.first, h.state.last, h.state.oldest))
			}
			if known := r.state.first != 0; !known || h.state.last < h.state.first {
				// The entries before are in segments that are gone, or nowhere.
				l.cut(state{first: h.state.first, last: h.state.first - 1})
				l.last = h.state.last
			} else {
				l.cut(h.state)
			}
			r.state = h.state
		case recordEntry:
			if h.index != l.last+1 {
				return bad(fmt.Errorf("entry %d follows entry %d", h.index, l.last))
			}
			if len(s.entries) == 0 {
				s.base = h.index
			}
			s.entries = append(s.entries, location{at: uint32(at), size: uint32(h.size)})
			l.last = h.index
		case recordSeal:
			if h.next != s.segment+1 {
				return bad(fmt.Errorf("segment %d follows segment %d", h.next, s.segment))
			}
			s.sealed = true
		}
		at += h.size
	}
	return nil
}

// finish checks what the segments say together.
func (r *reader) finish(all []*segment) error {
	l := r.log
	final := all[len(all)-1]
	if r.open == nil {
		if final.sealed {
			return damaged(filepath.Join(l.dir, segmentName(final.segment+1)), errors.New("it is missing"))
		}
		return damaged(final.path, errors.New("it has no end"))
	}
	// What is marked as acknowledged must be there, in this process' count.
	for _, s := range l.segments {
		marked, err := s.acknowledged()
		if err != nil {
			return err
		}
		if marked != 0 && marked >= max(r.number, 1) {
			return damaged(s.path, fmt.Errorf("append %d was acknowledged and is not there", marked))
		}
	}
	if r.number == 0 {
		r.number = 1
	}
	if r.state.first == 0 { // never appended to
		if l.segments[0].segment != 1 {
			return damaged(filepath.Join(l.dir, segmentName(l.segments[0].segment-1)), errors.New("it is missing"))
		}
		r.state = state{first: 1, last: 0, oldest: 1}
		l.first, l.last = 1, 0
	}
	// The index must hold every entry from first to last.
	next := l.first
	for _, s := range l.segments {
		if len(s.entries) == 0 {
			continue
		}
		end := s.base + uint64(len(s.entries))
		if s.base > next {
			break
		}
		next = max(next, end)
	}
	if next != l.last+1 {
		return damaged(l.segments[0].path, fmt.Errorf("entry %d of %d to %d is not there", next, l.first, l.last))
	}
	l.number = r.number
	l.active.Store(r.open)
	return nil
}

// secure makes durable what was read: it may never have been, as when the last
// process ended because its fdatasync failed. That call cannot be repeated, so
// the newest append is written once more. What is torn becomes zeroes.
func (l *Log) secure(r *reader) error {
	if r.newest != nil {
		b := make([]byte, zeroChunk)
		for at, end := r.lastStart*sectorSize, r.newest.next*sectorSize; at < end; at += int64(len(b)) {
			b = b[:min(int64(len(b)), end-at)]
			if err := readFull(r.newest.file, b, at); err != nil {
				return r.newest.unreadable(err)
			}
			if _, err := r.newest.file.WriteAt(b, at); err != nil {
				return refused(err)
			}
		}
		if err := r.newest.file.Datasync(); err != nil {
			return err
		}
		l.durable.Store(l.number - 1)
	}
	if r.torn != nil {
		if err := zero(r.torn, r.torn.next, r.tornSize); err != nil {
			return refused(err)
		}
		if err := r.torn.file.Datasync(); err != nil {
			return err
		}
	}
	return l.disk.SyncDir(l.dir)
}

// payload returns part of a segment's payload, out of the window.
func (r *reader) payload(s *segment, at, size int64) ([]byte, error) {
	b := make([]byte, 0, size)
	for int64(len(b)) < size {
		here := at + int64(len(b))
		sector, err := r.sector(s, dataSector+here/sectorPayload)
		if err != nil {
			return nil, err
		}
		part := sector[sectorHeader+here%sectorPayload:]
		b = append(b, part[:min(int64(len(part)), size-int64(len(b)))]...)
	}
	return b, nil
}

func (r *reader) sector(s *segment, number int64) ([]byte, error) {
	if r.windowOf != s || number < r.windowFirst || number >= r.windowFirst+int64(len(r.window)/sectorSize) {
		if r.window == nil {
			r.window = make([]byte, windowSectors*sectorSize)
		}
		r.window = r.window[:min(windowSectors, s.sectors-number)*sectorSize]
		r.windowOf = nil
		if err := readFull(s.file, r.window, number*sectorSize); err != nil {
			return nil, s.unreadable(err)
		}
		r.windowOf, r.windowFirst = s, number
	}
	return r.window[(number-r.windowFirst)*sectorSize:][:sectorSize], nil
}
