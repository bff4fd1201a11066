package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// A segment is a file of a fixed size, allocated and zeroed before it has its
// name, so that an append changes nothing but the bytes it writes. Sector 0
// says what it is, sector 1 up to where it is known to have been acknowledged,
// 2 to 7 are free, and appends begin at sector 8. The last sectors take no
// entries: they are for cutting the log and for the seal that ends a segment.
type segment struct {
	place
	path    string
	file    File
	sectors int64

	// How far it is written; of no meaning to readers.
	next   int64 // sector of the next append
	sealed bool
	fresh  bool // nothing was appended yet: the first append opens with the state

	// Index, guarded by the log's mu: entries base, base+1, ...
	base    uint64
	entries []location
}

// location is where an entry's record is in a segment's payload.
type location struct {
	at, size uint32
}

const (
	dataSector    = 8
	reservedMarks = 16 // sectors at the end, the last one for the seal
	sectorsMin    = dataSector + reservedMarks + 1
	// sectorsMax keeps locations within 32 bits.
	sectorsMax    = int64(1<<32/sectorPayload) - 1
	formatVersion = 1

	segmentPrefix = "log-"
	unfinished    = ".tmp"
	zeroChunk     = 1 << 20
)

const segmentMagic = "musterlg"

func segmentName(number uint64) string { return fmt.Sprintf("%s%016x", segmentPrefix, number) }

// segmentNumber is the number of a segment by its file's name.
func segmentNumber(name string) (uint64, bool) {
	hex, ok := strings.CutPrefix(name, segmentPrefix)
	if !ok || len(hex) != 16 {
		return 0, false
	}
	number, err := strconv.ParseUint(hex, 16, 64)
	return number, err == nil && segmentName(number) == name
}

func header(p place, sectors int64) []byte {
	b := make([]byte, sectorSize)
	copy(b, segmentMagic)
	binary.LittleEndian.PutUint32(b[8:], formatVersion)
	binary.LittleEndian.PutUint64(b[16:], p.log)
	binary.LittleEndian.PutUint64(b[24:], p.segment)
	binary.LittleEndian.PutUint64(b[32:], uint64(sectors))
	binary.LittleEndian.PutUint32(b[sectorSize-4:], crc32.Checksum(b[:sectorSize-4], castagnoli))
	return b
}

func decodeHeader(b []byte) (p place, sectors int64, err error) {
	if len(b) != sectorSize || string(b[:8]) != segmentMagic ||
		binary.LittleEndian.Uint32(b[sectorSize-4:]) != crc32.Checksum(b[:sectorSize-4], castagnoli) {
		return place{}, 0, errors.New("its first sector is not what was written there")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != formatVersion {
		return place{}, 0, fmt.Errorf("its version is %d, this muster reads %d", v, formatVersion)
	}
	p = place{log: binary.LittleEndian.Uint64(b[16:]), segment: binary.LittleEndian.Uint64(b[24:])}
	sectors = int64(binary.LittleEndian.Uint64(b[32:]))
	if sectors < sectorsMin || sectors > sectorsMax {
		return place{}, 0, fmt.Errorf("it says to have %d sectors", sectors)
	}
	return p, sectors, nil
}

// createSegment makes a file of zeroes with a header, durable but without its
// name. On an error nothing is left of it, if possible.
func createSegment(disk Disk, dir string, p place, sectors int64) (_ *segment, err error) {
	s := &segment{place: p, path: filepath.Join(dir, segmentName(p.segment)), sectors: sectors, next: dataSector, fresh: true}
	s.file, err = disk.OpenFile(s.path+unfinished, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := s.fill(); err != nil {
		_ = s.file.Close()
		_ = disk.Remove(s.path + unfinished)
		return nil, err
	}
	return s, nil
}

func (s *segment) fill() error {
	if err := s.file.Allocate(s.bytes()); err != nil {
		return err
	}
	// Allocated space that was never written changes metadata when it is. In
	// pieces, each durable before the next, so that appends elsewhere on the
	// disk do not wait behind all of it.
	piece := make([]byte, min(zeroChunk, s.bytes()))
	copy(piece, header(s.place, s.sectors))
	for at := int64(0); at < s.bytes(); at += int64(len(piece)) {
		piece = piece[:min(int64(len(piece)), s.bytes()-at)]
		if _, err := s.file.WriteAt(piece, at); err != nil {
			return err
		}
		if err := s.file.Datasync(); err != nil {
			return err
		}
		clear(piece[:sectorSize])
	}
	return nil
}

// publish gives a new segment its name, in place of what had it.
func (s *segment) publish(disk Disk) error {
	if err := disk.Rename(s.path+unfinished, s.path); err != nil {
		return err
	}
	return disk.SyncDir(filepath.Dir(s.path))
}

// openSegment reads what a segment says of itself.
func openSegment(disk Disk, dir string, number uint64) (_ *segment, err error) {
	s := &segment{path: filepath.Join(dir, segmentName(number)), next: dataSector, fresh: true}
	s.file, err = disk.OpenFile(s.path, os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, damaged(s.path, errors.New("it is missing"))
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.file.Close()
		}
	}()
	size, err := s.file.Size()
	if err != nil {
		return nil, err
	}
	if size < sectorsMin*sectorSize {
		return nil, damaged(s.path, fmt.Errorf("%d bytes are left of it", size))
	}
	first := make([]byte, sectorSize)
	if err := readFull(s.file, first, 0); err != nil {
		return nil, s.unreadable(err)
	}
	if s.place, s.sectors, err = decodeHeader(first); err != nil {
		return nil, damaged(s.path, err)
	}
	if s.segment != number {
		return nil, damaged(s.path, fmt.Errorf("it is segment %d", s.segment))
	}
	if size != s.sectors*sectorSize {
		return nil, damaged(s.path, fmt.Errorf("it has %d bytes instead of %d", size, s.sectors*sectorSize))
	}
	return s, nil
}

func readFull(f File, b []byte, at int64) error {
	n, err := f.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// unreadable makes a file that ends too early damage; other errors are the disk's.
func (s *segment) unreadable(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged(s.path, errors.New("it was cut off"))
	}
	return fmt.Errorf("read %s: %w", s.path, err)
}

// limit is the sector that appends must not reach: entries leave the reserve,
// cuts leave the last sector.
func (s *segment) limit(entries bool) int64 {
	if entries {
		return s.sectors - reservedMarks
	}
	return s.sectors - 1
}

func (s *segment) bytes() int64 { return s.sectors * sectorSize }

// readBuffers hold the sectors that an entry lies in. Large ones are not kept.
var readBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 16<<10); return &b }}

const keptBufferMax = 1 << 20

// read returns an entry's record, every sector of it checked.
func (s *segment) read(l location) ([]byte, error) {
	first := dataSector + int64(l.at)/sectorPayload
	end := dataSector + (int64(l.at)+int64(l.size)+sectorPayload-1)/sectorPayload
	pooled := readBuffers.Get().(*[]byte)
	buf := *pooled
	if need := int((end - first) * sectorSize); cap(buf) < need {
		buf = make([]byte, need)
	} else {
		buf = buf[:need]
	}
	defer func() {
		if cap(buf) <= keptBufferMax {
			*pooled = buf
			readBuffers.Put(pooled)
		}
	}()
	if err := readFull(s.file, buf, first*sectorSize); err != nil {
		return nil, s.unreadable(err)
	}
	record := make([]byte, 0, l.size)
	skip := int(l.at % sectorPayload)
	for number := first; number < end; number++ {
		sector := buf[(number-first)*sectorSize:][:sectorSize]
		if !s.inspect(number, sector).valid {
			return nil, damaged(s.path, fmt.Errorf("the checksum of sector %d is wrong", number))
		}
		part := sector[sectorHeader+skip:]
		skip = 0
		record = append(record, part[:min(len(part), int(l.size)-len(record))]...)
	}
	return record, nil
}

// The acknowledged mark is a sector of its own, written now and then: all
// appends up to its number were durable. It tells a lost end of the log from
// an append that was under way.

func (s *segment) markAcknowledged(append uint64) error {
	b := make([]byte, sectorSize)
	binary.LittleEndian.PutUint64(b[4:], append)
	binary.LittleEndian.PutUint32(b[16:], 1)
	binary.LittleEndian.PutUint32(b, s.checksum(1, b))
	_, err := s.file.WriteAt(b, sectorSize)
	return err
}

// acknowledged reads the mark; 0 when there is none.
func (s *segment) acknowledged() (uint64, error) {
	b := make([]byte, sectorSize)
	if err := readFull(s.file, b, sectorSize); err != nil {
		return 0, s.unreadable(err)
	}
	switch state := s.inspect(1, b); {
	case state.valid:
		return state.append, nil
	case state.untouched:
		return 0, nil
	}
	return 0, damaged(s.path, errors.New("its second sector is not what was written there"))
}
