package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Answers are looked into only as far as a case must know, and without decoding
// objects.

// Fields of runtime.Unknown, of a list, and of its metadata.
const (
	unknownRaw   = 2
	listMetadata = 1
	listContinue = 3
)

// continueOf reads the token of the next page from the beginning of a list; ""
// if this is the last.
func continueOf(head []byte, media string) (string, error) {
	if media == inJSON {
		var list struct {
			Metadata struct {
				Continue string `json:"continue"`
			} `json:"metadata"`
		}
		items := bytes.Index(head, []byte(`"items":`))
		if items < 0 {
			return "", errors.New("a list does not begin with its metadata")
		}
		text := append(bytes.TrimRight(bytes.Clone(head[:items]), ", "), '}')
		err := json.Unmarshal(text, &list)
		return list.Metadata.Continue, err
	}
	if !bytes.HasPrefix(head, []byte("k8s\x00")) {
		return "", errors.New("a list in protobuf does not begin as one")
	}
	raw, err := field(head[4:], unknownRaw)
	if err != nil {
		return "", err
	}
	metadata, err := field(raw, listMetadata)
	if err != nil {
		return "", err
	}
	token, err := field(metadata, listContinue)
	return string(token), err
}

// field is the first field of that number, as far as b has it; nil if there is
// none.
func field(b []byte, number protowire.Number) ([]byte, error) {
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

// stamp is what a watched pod's message holds: when its write began, since the
// case began.
const stampMark = "began-at-"

func stamp(since time.Duration) string { return fmt.Sprintf("%s%016x", stampMark, int64(since)) }

// stampOf finds it in a frame of a watch.
func stampOf(frame []byte) (time.Duration, bool) {
	at := bytes.Index(frame, []byte(stampMark))
	if at < 0 || len(frame) < at+len(stampMark)+16 {
		return 0, false
	}
	at += len(stampMark)
	since, err := strconv.ParseInt(string(frame[at:at+16]), 16, 64)
	return time.Duration(since), err == nil
}

const frameMax = 1 << 20

// frames cuts a watch into its events. What next answers is good until it is
// called again.
type frames struct {
	in    *bufio.Reader
	media string
	frame []byte
}

func newFrames(in io.Reader, media string) *frames {
	return &frames{in: bufio.NewReaderSize(in, 32<<10), media: media}
}

func (f *frames) next() ([]byte, error) {
	if f.media == inJSON {
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

// isError tells the event that says that the watch has ended. Its type is near
// the beginning in both forms.
func isError(frame []byte) bool { return bytes.Contains(frame[:min(len(frame), 96)], []byte("ERROR")) }
