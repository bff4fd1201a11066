package fsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/fsm/kv"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// ErrCorrupt says that a snapshot is damaged, cut short, or not one at all.
var ErrCorrupt = errors.New("corrupt snapshot")

// Restore replaces the state by a snapshot's, or, with an error, leaves it as
// it is. Watchers get watch.ErrCompacted.
func (m *Machine) Restore(r io.Reader) error {
	s, err := readSnapshot(r)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.items, m.revision, m.compacted = s.items, s.header.Revision, s.header.Compacted
	m.weigh()
	m.moved()
	m.history.Reset(m.revision)
	m.past.forget()
	m.log.Info("state restored from a snapshot", "revision", m.revision, "items", m.items.Len())
	return nil
}

type snapshot struct {
	header *storagev1.SnapshotHeader
	items  *kv.Map
}

func readSnapshot(from io.Reader) (*snapshot, error) {
	r := recordReader{from: bufio.NewReaderSize(from, 256<<10), sum: sha256.New()}
	if err := r.preamble(); err != nil {
		return nil, err
	}
	s := &snapshot{header: &storagev1.SnapshotHeader{}, items: kv.NewMap()}
	if err := r.header(s.header); err != nil {
		return nil, err
	}
	interned, last := interner{}, ""
	for {
		var sum []byte
		if next, _ := r.from.Peek(1); string(next) == string(rune(kindTrailer)) {
			sum = r.sum.Sum(nil)
		}
		kind, payload, err := r.record()
		if err != nil {
			return nil, err
		}
		switch kind {
		case kindItem:
			item, err := readItem(payload, s.header.Revision, interned)
			if err != nil {
				return nil, r.corrupt("%w", err)
			}
			if s.items.Len() > 0 && item.Key <= last {
				return nil, r.corrupt("key %q follows %q", item.Key, last)
			}
			last = item.Key
			s.items.Put(item)
		case kindTrailer:
			if err := r.trailer(payload, sum, s); err != nil {
				return nil, err
			}
			return s, nil
		default:
			return nil, r.corrupt("a record of unknown kind %q", kind)
		}
	}
}

func readItem(payload []byte, newest uint64, interned interner) (*kv.Item, error) {
	var p storagev1.Item
	if err := unmarshal(payload, &p); err != nil {
		return nil, err
	}
	item := &kv.Item{
		Key: string(p.Key), Value: p.Value,
		CreateRevision: p.CreateRevision, Revision: p.Revision,
	}
	if item.CreateRevision == 0 || item.CreateRevision > item.Revision || item.Revision > newest {
		return nil, fmt.Errorf("key %q was created at revision %d and changed at %d of %d",
			item.Key, item.CreateRevision, item.Revision, newest)
	}
	var err error
	if item.Labels, err = readItemAttrs(p.Labels, interned); err != nil {
		return nil, fmt.Errorf("labels of key %q: %w", item.Key, err)
	}
	if item.Fields, err = readItemAttrs(p.Fields, interned); err != nil {
		return nil, fmt.Errorf("fields of key %q: %w", item.Key, err)
	}
	return item, nil
}

func readItemAttrs(from []*storagev1.Attr, interned interner) (kv.Attrs, error) {
	if len(from) == 0 {
		return nil, nil
	}
	attrs := make(kv.Attrs, len(from))
	for i, a := range from {
		if unknown(a) {
			return nil, errors.New("fields that this version of muster does not know")
		}
		attrs[i] = kv.Attr{Name: interned.intern([]byte(a.Name)), Value: interned.intern([]byte(a.Value))}
	}
	if !ascending(attrs) {
		return nil, errors.New("not in order")
	}
	return attrs, nil
}

// unmarshal refuses what this build would only understand in part.
func unmarshal(payload []byte, into proto.Message) error {
	if err := proto.Unmarshal(payload, into); err != nil {
		return err
	}
	if unknown(into) {
		return fmt.Errorf("%s has fields that this version of muster does not know", into.ProtoReflect().Descriptor().Name())
	}
	return nil
}

func unknown(m proto.Message) bool { return len(m.ProtoReflect().GetUnknown()) > 0 }

// recordReader reads and checks what a recordWriter wrote.
type recordReader struct {
	from   *bufio.Reader
	sum    hash.Hash
	buf    bytes.Buffer // reused
	offset int64
}

func (r *recordReader) preamble() error {
	head, err := r.bytes(len(magic) + 4)
	if err != nil {
		return err
	}
	if string(head[:len(magic)]) != magic {
		return fmt.Errorf("%w: this is no snapshot of muster's state", ErrCorrupt)
	}
	if f := binary.BigEndian.Uint32(head[len(magic):]); f != format {
		return fmt.Errorf("%w: its format is %d, and this version of muster reads %d", ErrCorrupt, f, format)
	}
	return nil
}

func (r *recordReader) header(into *storagev1.SnapshotHeader) error {
	kind, payload, err := r.record()
	if err != nil {
		return err
	}
	if kind != kindHeader {
		return r.corrupt("a record of kind %q instead of the header", kind)
	}
	if err := unmarshal(payload, into); err != nil {
		return r.corrupt("%w", err)
	}
	if into.Format != format || into.Compacted > into.Revision {
		return r.corrupt("header says format %d, revision %d, compacted %d", into.Format, into.Revision, into.Compacted)
	}
	return nil
}

func (r *recordReader) trailer(payload, sum []byte, s *snapshot) error {
	if len(payload) != trailerLen {
		return r.corrupt("the trailer has %d bytes instead of %d", len(payload), trailerLen)
	}
	count := binary.BigEndian.Uint64(payload)
	if n := uint64(s.items.Len()); n != count || n != s.header.Items {
		return r.corrupt("%d items, but the header says %d and the trailer %d", n, s.header.Items, count)
	}
	if !bytes.Equal(payload[8:], sum) {
		return r.corrupt("the checksum of the whole does not match")
	}
	if _, err := r.from.ReadByte(); err == nil {
		return r.corrupt("there is more after the trailer")
	} else if !errors.Is(err, io.EOF) {
		return fmt.Errorf("read snapshot: %w", err)
	}
	return nil
}

// record returns the next record, which is good until the next call.
func (r *recordReader) record() (kind byte, payload []byte, err error) {
	head, err := r.bytes(5)
	if err != nil {
		return 0, nil, err
	}
	kind, length := head[0], int(binary.BigEndian.Uint32(head[1:]))
	crc := crc32.Checksum(head, castagnoli)
	body, err := r.bytes(length + 4)
	if err != nil {
		return 0, nil, err
	}
	payload = body[:length]
	if crc32.Update(crc, castagnoli, payload) != binary.BigEndian.Uint32(body[length:]) {
		return 0, nil, r.corrupt("the checksum of the record before does not match")
	}
	return kind, payload, nil
}

// bytes reads n bytes. A damaged length costs no more memory than there is input.
func (r *recordReader) bytes(n int) ([]byte, error) {
	r.buf.Reset()
	got, err := io.CopyN(&r.buf, r.from, int64(n))
	r.offset += got
	if errors.Is(err, io.EOF) {
		return nil, r.corrupt("it ends here")
	}
	if err != nil {
		return nil, fmt.Errorf("read snapshot at byte %d: %w", r.offset, err)
	}
	r.sum.Write(r.buf.Bytes())
	return r.buf.Bytes(), nil
}

func (r *recordReader) corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: at byte %d: %w", ErrCorrupt, r.offset, fmt.Errorf(format, args...))
}
