package fsm

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/fsm/kv"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

const (
	magic  = "MUSTRFSM"
	format = 1

	kindHeader  = 'H'
	kindItem    = 'I'
	kindTrailer = 'T'

	trailerLen = 8 + sha256.Size
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Snapshot takes the state as it is, which is cheap, and returns a function
// that writes it while the machine goes on. The format is described at the top
// of the package.
func (m *Machine) Snapshot() (func(io.Writer) error, error) {
	// In this order: compacted must not be ahead of the view.
	m.mu.RLock()
	compacted := m.compacted
	m.mu.RUnlock()
	view := m.View()
	return func(w io.Writer) error {
		if err := writeSnapshot(w, view, compacted); err != nil {
			return fmt.Errorf("write snapshot at revision %d: %w", view.Revision(), err)
		}
		m.log.Debug("snapshot written", "revision", view.Revision(), "items", view.Len())
		return nil
	}, nil
}

func writeSnapshot(to io.Writer, view *kv.View, compacted uint64) error {
	w := recordWriter{to: bufio.NewWriterSize(to, 256<<10), sum: sha256.New()}
	w.bytes(binary.BigEndian.AppendUint32([]byte(magic), format))
	w.message(kindHeader, &storagev1.SnapshotHeader{
		Format:    format,
		Revision:  view.Revision(),
		Items:     uint64(view.Len()),
		Compacted: compacted,
	})
	var count uint64
	for item := range view.Range("", "") {
		w.message(kindItem, &storagev1.Item{
			Key:            []byte(item.Key),
			Value:          item.Value,
			Labels:         protoAttrs(item.Labels),
			Fields:         protoAttrs(item.Fields),
			CreateRevision: item.CreateRevision,
			Revision:       item.Revision,
		})
		count++
		if w.err != nil {
			return w.err
		}
	}
	w.payload = binary.BigEndian.AppendUint64(w.payload[:0], count)
	w.payload = w.sum.Sum(w.payload)
	w.record(kindTrailer)
	if w.err != nil {
		return w.err
	}
	return w.to.Flush()
}

func protoAttrs(attrs kv.Attrs) []*storagev1.Attr {
	if len(attrs) == 0 {
		return nil
	}
	all := make([]storagev1.Attr, len(attrs))
	list := make([]*storagev1.Attr, len(attrs))
	for i, a := range attrs {
		all[i].Name, all[i].Value = a.Name, a.Value
		list[i] = &all[i]
	}
	return list
}

// recordWriter keeps the first error and writes nothing after it.
type recordWriter struct {
	to      *bufio.Writer
	sum     hash.Hash
	payload []byte // reused
	head    []byte // reused
	err     error
}

func (w *recordWriter) message(kind byte, m proto.Message) {
	if w.err != nil {
		return
	}
	w.payload, w.err = proto.MarshalOptions{Deterministic: true}.MarshalAppend(w.payload[:0], m)
	w.record(kind)
}

func (w *recordWriter) record(kind byte) {
	w.head = append(w.head[:0], kind)
	w.head = binary.BigEndian.AppendUint32(w.head, uint32(len(w.payload)))
	crc := crc32.Update(crc32.Checksum(w.head, castagnoli), castagnoli, w.payload)
	w.bytes(w.head)
	w.bytes(w.payload)
	w.bytes(binary.BigEndian.AppendUint32(w.head[:0], crc))
}

func (w *recordWriter) bytes(b []byte) {
	if w.err != nil {
		return
	}
	w.sum.Write(b)
	_, w.err = w.to.Write(b)
}
