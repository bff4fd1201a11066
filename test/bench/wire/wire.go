// Package wire cuts what API servers answer into its parts without decoding
// objects, so that who measures leaves the machine to who is measured.
package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field is the first field of that number, as far as b has it; nil if there is
// none.
func Field(b []byte, number protowire.Number) ([]byte, error) {
	for len(b) > 0 {
		found, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
		if kind == protowire.BytesType && found == number {
			length, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return nil, protowire.ParseError(n)
			}
			return b[n:min(uint64(len(b)), uint64(n)+length)], nil
		}
		if n = protowire.ConsumeFieldValue(found, kind, b); n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
	}
	return nil, nil
}

const frameMax = 1 << 20

// Frames cuts a watch into its events.
type Frames struct {
	in    *bufio.Reader
	lines bool
	frame []byte
}

// NewFrames reads a watch in JSON, whose events are lines, or in protobuf.
func NewFrames(in io.Reader, inJSON bool) *Frames {
	return &Frames{in: bufio.NewReaderSize(in, 32<<10), lines: inJSON}
}

// Next answers what is good until it is called again.
func (f *Frames) Next() ([]byte, error) {
	if f.lines {
		f.frame = f.frame[:0]
		for {
			part, err := f.in.ReadSlice('\n')
			if f.frame = append(f.frame, part...); err != bufio.ErrBufferFull {
				return f.frame, err
			}
		}
	}
	var length [4]byte
	if _, err := io.ReadFull(f.in, length[:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(length[:]))
	if size > frameMax {
		return nil, fmt.Errorf("a frame of %d bytes", size)
	}
	if cap(f.frame) < size {
		f.frame = make([]byte, size)
	}
	f.frame = f.frame[:size]
	_, err := io.ReadFull(f.in, f.frame)
	return f.frame, err
}

// IsError tells the event that says that the watch has ended. Its type is near
// the beginning in both forms.
func IsError(frame []byte) bool { return bytes.Contains(frame[:min(len(frame), 96)], []byte("ERROR")) }

// Fields of a WatchEvent, which has no envelope of its own, of RawExtension,
// runtime.Unknown, an object, and its metadata.
const (
	eventType       = 1
	eventObject     = 2
	extensionRaw    = 1
	unknownRaw      = 2
	objectMetadata  = 1
	metadataVersion = 6
)

// Event is the type of an event in protobuf, such as ADDED, and its object as
// it was sent.
func Event(frame []byte) (kind string, object []byte, err error) {
	name, err := Field(frame, eventType)
	if err != nil {
		return "", nil, err
	}
	if len(name) == 0 {
		return "", nil, errors.New("an event in protobuf has no type")
	}
	extension, err := Field(frame, eventObject)
	if err != nil {
		return "", nil, err
	}
	object, err = Field(extension, extensionRaw)
	return string(name), object, err
}

// Version is the resourceVersion of an object in protobuf. Metadata may be in
// parts, of which the last that has a version counts.
func Version(object []byte) (version string, err error) {
	if !bytes.HasPrefix(object, []byte("k8s\x00")) {
		return "", errors.New("an object in protobuf does not begin as one")
	}
	raw, err := Field(object[4:], unknownRaw)
	if err != nil {
		return "", err
	}
	for len(raw) > 0 {
		number, kind, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return "", protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(number, kind, raw[n:])
		if size < 0 {
			return "", protowire.ParseError(size)
		}
		if number == objectMetadata && kind == protowire.BytesType {
			metadata, _ := protowire.ConsumeBytes(raw[n:])
			found, err := Field(metadata, metadataVersion)
			if err != nil {
				return "", err
			}
			if len(found) > 0 {
				version = string(found)
			}
		}
		raw = raw[n+size:]
	}
	if version == "" {
		return "", errors.New("an object has no version")
	}
	return version, nil
}
