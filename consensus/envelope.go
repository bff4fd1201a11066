package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The data of a raft entry is an envelope of commands:
//
//	1 byte    version, 1
//	4 bytes   CRC-32C of the rest, little endian
//	uvarint   term: the entry counts only if raft gave it this term; 0: any
//	uvarint   number of commands
//	each:     8 bytes origin, little endian; uvarint sequence; uvarint length; bytes
//
// Origin and sequence name a command, so that whoever proposed it recognises it
// in the log wherever it was proposed. The checksum is there because bolt, the log
// of directories of format 1, has none for the values it keeps.
const (
	envelopeVersion = 1
	envelopeHeader  = 5
	// Bounds of what one envelope joins. A single larger command goes alone.
	envelopeBytesMax    = 1 << 20
	envelopeCommandsMax = 1000
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

var errEnvelope = errors.New("not an envelope of commands")

type command struct {
	origin, sequence uint64
	data             []byte
}

// size is an upper bound of what the command takes in an envelope.
func (c command) size() int { return 8 + 2*binary.MaxVarintLen64 + len(c.data) }

type envelope struct {
	term     uint64
	commands []command
}

func (e envelope) encode() []byte {
	size := envelopeHeader + 2*binary.MaxVarintLen64
	for _, c := range e.commands {
		size += c.size()
	}
	b := make([]byte, envelopeHeader, size)
	b = binary.AppendUvarint(b, e.term)
	b = binary.AppendUvarint(b, uint64(len(e.commands)))
	for _, c := range e.commands {
		b = binary.LittleEndian.AppendUint64(b, c.origin)
		b = binary.AppendUvarint(b, c.sequence)
		b = binary.AppendUvarint(b, uint64(len(c.data)))
		b = append(b, c.data...)
	}
	b[0] = envelopeVersion
	binary.LittleEndian.PutUint32(b[1:], crc32.Checksum(b[envelopeHeader:], crcTable))
	return b
}

// checkEnvelope says whether b is what was written, without looking into it.
func checkEnvelope(b []byte) error {
	if len(b) < envelopeHeader {
		return fmt.Errorf("%w: %d bytes", errEnvelope, len(b))
	}
	if b[0] != envelopeVersion {
		return fmt.Errorf("%w: version %d is unknown here; a newer muster wrote it", errEnvelope, b[0])
	}
	if got, want := crc32.Checksum(b[envelopeHeader:], crcTable), binary.LittleEndian.Uint32(b[1:]); got != want {
		return fmt.Errorf("%w: checksum %08x, want %08x", errEnvelope, got, want)
	}
	return nil
}

// decodeEnvelope returns commands that point into b.
func decodeEnvelope(b []byte) (envelope, error) {
	if err := checkEnvelope(b); err != nil {
		return envelope{}, err
	}
	b = b[envelopeHeader:]
	short := func(what string) (envelope, error) {
		return envelope{}, fmt.Errorf("%w: ends inside its %s", errEnvelope, what)
	}
	uvarint := func() (uint64, bool) {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return 0, false
		}
		b = b[n:]
		return v, true
	}
	var e envelope
	var ok bool
	if e.term, ok = uvarint(); !ok {
		return short("term")
	}
	count, ok := uvarint()
	if !ok || count > envelopeCommandsMax {
		return short("number of commands")
	}
	e.commands = make([]command, 0, min(count, uint64(len(b)/10)))
	for range count {
		if len(b) < 8 {
			return short("origin")
		}
		c := command{origin: binary.LittleEndian.Uint64(b)}
		b = b[8:]
		if c.sequence, ok = uvarint(); !ok {
			return short("sequence")
		}
		size, ok := uvarint()
		if !ok || size > uint64(len(b)) {
			return short("command")
		}
		c.data = b[:size:size]
		b = b[size:]
		e.commands = append(e.commands, c)
	}
	if len(b) != 0 {
		return envelope{}, fmt.Errorf("%w: %d bytes too many", errEnvelope, len(b))
	}
	return e, nil
}
