package wal

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
)

// An append is a run of sectors, each of which says by itself where it belongs:
//
//	0   checksum, Castagnoli, of the rest and of log, segment and place
//	4   number of the append, without gaps over all segments; never 0
//	12  this sector's place in the append, and how many sectors the append has
//	20  payload
//
// What was never written is zeroes. A disk writes a sector wholly or not at
// all, so a sector that is neither was damaged later.
const (
	sectorSize    = 512
	sectorHeader  = 20
	sectorPayload = sectorSize - sectorHeader
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// place seeds a sector's checksum: the same bytes anywhere else are not valid.
type place struct {
	log, segment uint64
}

// checksum begins with a number made of the place instead of zero, which costs
// no allocation and changes every result.
func (p place) checksum(number int64, sector []byte) uint32 {
	h := p.log ^ p.segment*0x9e3779b97f4a7c15 ^ uint64(number)*0xbf58476d1ce4e5b9
	h = (h ^ h>>31) * 0x94d049bb133111eb
	return crc32.Update(uint32(h>>32), castagnoli, sector[4:sectorSize])
}

// sectorState is what a sector on the disk is found to be.
type sectorState struct {
	valid, untouched bool
	append           uint64
	index, total     uint32
}

func (p place) inspect(number int64, sector []byte) sectorState {
	if binary.LittleEndian.Uint32(sector) == p.checksum(number, sector) {
		s := sectorState{
			append: binary.LittleEndian.Uint64(sector[4:]),
			index:  binary.LittleEndian.Uint32(sector[12:]), total: binary.LittleEndian.Uint32(sector[16:]),
		}
		s.valid = s.append != 0 && s.index < s.total
		s.untouched = !s.valid && allZero(sector)
		return s
	}
	return sectorState{untouched: allZero(sector)}
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

func sectorsFor(payload int) int64 {
	return (int64(payload) + sectorPayload - 1) / sectorPayload
}

// framer lays payload out in sectors, in one buffer that is used again.
type framer struct {
	buf  []byte // whole sectors
	room int    // payload left in the last one
}

func (f *framer) reset() { f.buf, f.room = f.buf[:0], 0 }

func (f *framer) grow(payload int) {
	f.buf = slices.Grow(f.buf, int(sectorsFor(payload))*sectorSize)
}

// at is where the next byte of payload will be, counted in payload from the first sector.
func (f *framer) at() int64 {
	return int64(len(f.buf)/sectorSize)*sectorPayload - int64(f.room)
}

func (f *framer) write(b []byte) {
	for len(b) > 0 {
		if f.room == 0 {
			f.buf = append(f.buf, zeroSector[:]...)
			f.room = sectorPayload
		}
		n := copy(f.buf[len(f.buf)-f.room:], b)
		f.room -= n
		b = b[n:]
	}
}

// seal fills in the headers of an append that goes to a sector of a segment.
func (f *framer) seal(p place, first int64, number uint64) []byte {
	total := len(f.buf) / sectorSize
	for i := range total {
		s := f.buf[i*sectorSize : (i+1)*sectorSize]
		binary.LittleEndian.PutUint64(s[4:], number)
		binary.LittleEndian.PutUint32(s[12:], uint32(i))
		binary.LittleEndian.PutUint32(s[16:], uint32(total))
		binary.LittleEndian.PutUint32(s, p.checksum(first+int64(i), s))
	}
	return f.buf
}

var zeroSector [sectorSize]byte
