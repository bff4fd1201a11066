package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// The payload of an append is records, one after the other, then zeroes to the
// end of the last sector:
//
//	entry  1, length of the rest; index, term, type, time, extensions, data
//	state  2, first and last index, oldest segment: what counts from here on
//	seal   3, number of the segment that goes on
//
// Numbers are unsigned varints, the time 8 bytes of Unix nanoseconds (0: none),
// extensions have their length before them, and data is what is left.
const (
	recordEnd   = 0
	recordEntry = 1
	recordState = 2
	recordSeal  = 3
)

// recordHeadMax is at least as long as all of a state or seal, and an entry up to its index.
const recordHeadMax = 1 + 3*binary.MaxVarintLen64

// state is what a log was cut to. An empty log has last = first-1.
type state struct {
	first, last uint64
	oldest      uint64 // segment; those before are not needed any more
}

func (s state) append(b []byte) []byte {
	b = append(b, recordState)
	b = binary.AppendUvarint(b, s.first)
	b = binary.AppendUvarint(b, s.last)
	return binary.AppendUvarint(b, s.oldest)
}

func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

func bodySize(e *raft.Log) int {
	return uvarintLen(e.Index) + uvarintLen(e.Term) + 1 + 8 +
		uvarintLen(uint64(len(e.Extensions))) + len(e.Extensions) + len(e.Data)
}

func entrySize(e *raft.Log) int {
	body := bodySize(e)
	return 1 + uvarintLen(uint64(body)) + body
}

// appendEntryHead appends an entry up to its data, which follows as it is.
func appendEntryHead(b []byte, e *raft.Log) []byte {
	b = append(b, recordEntry)
	b = binary.AppendUvarint(b, uint64(bodySize(e)))
	b = binary.AppendUvarint(b, e.Index)
	b = binary.AppendUvarint(b, e.Term)
	b = append(b, byte(e.Type))
	var at int64
	if !e.AppendedAt.IsZero() {
		at = e.AppendedAt.UnixNano()
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(at))
	b = binary.AppendUvarint(b, uint64(len(e.Extensions)))
	return append(b, e.Extensions...)
}

var errRecord = errors.New("not a record")

// head is a record as far as opening a log needs it.
type head struct {
	kind  byte
	size  int64  // of the whole record
	index uint64 // entry
	state state
	next  uint64 // seal
}

// decodeHead reads a record from its beginning, of which b has recordHeadMax bytes
// or all there are.
func decodeHead(b []byte) (head, error) {
	if len(b) == 0 {
		return head{}, nil
	}
	h := head{kind: b[0], size: 1}
	var failed bool
	number := func() uint64 {
		v, n := binary.Uvarint(b[h.size:])
		if n <= 0 {
			failed = true
			return 0
		}
		h.size += int64(n)
		return v
	}
	switch h.kind {
	case recordEnd:
		h.size = 0
	case recordEntry:
		body := number()
		before := h.size
		h.index = number()
		if body > 1<<40 || int64(body) < h.size-before {
			failed = true
		}
		h.size = before + int64(body)
	case recordState:
		h.state = state{first: number(), last: number(), oldest: number()}
	case recordSeal:
		h.next = number()
	default:
		return head{}, fmt.Errorf("%w: kind %d", errRecord, h.kind)
	}
	if failed {
		return head{}, fmt.Errorf("%w: kind %d is cut off", errRecord, h.kind)
	}
	return h, nil
}

// decodeEntry reads a whole entry record. Its Data and Extensions lie in b.
func decodeEntry(b []byte, e *raft.Log) error {
	short := func(what string) error { return fmt.Errorf("%w: entry without %s", errRecord, what) }
	if len(b) == 0 || b[0] != recordEntry {
		return short("its kind")
	}
	b = b[1:]
	number := func() (uint64, bool) {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return 0, false
		}
		b = b[n:]
		return v, true
	}
	size, ok := number()
	if !ok || size != uint64(len(b)) {
		return short("its size")
	}
	var got raft.Log
	if got.Index, ok = number(); !ok {
		return short("index")
	}
	if got.Term, ok = number(); !ok {
		return short("term")
	}
	if len(b) < 9 {
		return short("time")
	}
	got.Type = raft.LogType(b[0])
	if at := int64(binary.LittleEndian.Uint64(b[1:])); at != 0 {
		got.AppendedAt = time.Unix(0, at)
	}
	b = b[9:]
	extensions, ok := number()
	if !ok || extensions > uint64(len(b)) {
		return short("extensions")
	}
	if extensions > 0 {
		got.Extensions = b[:extensions:extensions]
	}
	if got.Data = b[extensions:]; len(got.Data) == 0 {
		got.Data = nil
	}
	*e = got
	return nil
}
