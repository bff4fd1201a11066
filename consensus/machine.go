package consensus

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// machine stands between raft and the StateMachine: it opens envelopes, tells
// waiting proposals their answers, and keeps count of what is applied. Raft
// calls it from one goroutine.
type machine struct {
	sm       StateMachine
	origin   uint64 // of this process
	pending  *pending
	progress *progress
	fail     func(error)

	index, term uint64 // of the last entry applied
	failed      error  // set: nothing further is applied

	commands [][]byte // of one entry, reused
	own      []bool   // which of them were proposed here, reused
}

// outcome is what raft's future answers for an entry.
type outcome struct {
	index, term uint64
	// late: the entry was meant for another term, and was not applied anywhere.
	late   bool
	failed error
}

func (m *machine) Apply(entry *raft.Log) any { return m.ApplyBatch([]*raft.Log{entry})[0] }

func (m *machine) ApplyBatch(entries []*raft.Log) []any {
	outcomes := make([]any, len(entries))
	for i, entry := range entries {
		if m.failed != nil {
			outcomes[i] = outcome{failed: m.failed}
			continue
		}
		late := false
		if entry.Type == raft.LogCommand {
			late = m.open(entry)
		}
		if m.failed != nil {
			outcomes[i] = outcome{failed: m.failed}
			continue
		}
		m.index, m.term = entry.Index, entry.Term
		outcomes[i] = outcome{index: entry.Index, term: entry.Term, late: late}
	}
	m.progress.advance(m.index, m.term)
	return outcomes
}

// open applies an entry's commands, and says if it came too late for that.
func (m *machine) open(entry *raft.Log) (late bool) {
	e, err := decodeEnvelope(entry.Data)
	if err != nil {
		m.stop(fmt.Errorf("log entry %d cannot be read: %w", entry.Index, err))
		return false
	}
	if e.term != 0 && e.term != entry.Term {
		return true
	}
	m.commands, m.own = m.commands[:0], m.own[:0]
	for _, c := range e.commands {
		m.commands = append(m.commands, c.data)
		m.own = append(m.own, c.origin == m.origin)
	}
	answers, err := m.sm.Apply(m.commands, m.own)
	clear(m.commands) // they point into the entry, which raft lets go of
	for i, answer := range answers {
		if m.own[i] {
			m.pending.answer(e.commands[i].sequence, answer)
		}
	}
	if err != nil {
		m.stop(fmt.Errorf("log entry %d cannot be applied: command %d of %d: %w", entry.Index, len(answers)+1, len(e.commands), err))
	}
	return false
}

// stop ends applying for good: going on would fork the state.
func (m *machine) stop(err error) {
	m.failed = err
	m.fail(err)
}

// snapshotMagic opens a snapshot; index and term of the last entry in it
// follow as two little-endian words, then the state machine's own bytes. Raft
// keeps both as well but does not pass them to Restore.
const snapshotMagic = "muster1\n"

type snapshot struct {
	index, term uint64
	write       func(io.Writer) error
}

func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	if m.failed != nil {
		return nil, m.failed // an entry may be applied in part
	}
	write, err := m.sm.Snapshot()
	if err != nil {
		return nil, err
	}
	return &snapshot{index: m.index, term: m.term, write: write}, nil
}

func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	w := bufio.NewWriterSize(sink, 256<<10)
	header := []byte(snapshotMagic)
	header = binary.LittleEndian.AppendUint64(header, s.index)
	header = binary.LittleEndian.AppendUint64(header, s.term)
	_, err := w.Write(header)
	if err == nil {
		err = s.write(w)
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (s *snapshot) Release() {}

func (m *machine) Restore(snapshot io.ReadCloser) error {
	if m.failed != nil {
		return m.failed
	}
	r := bufio.NewReaderSize(snapshot, 256<<10)
	header := make([]byte, len(snapshotMagic)+16)
	if _, err := io.ReadFull(r, header); err != nil {
		return fmt.Errorf("snapshot header: %w", err)
	}
	if string(header[:len(snapshotMagic)]) != snapshotMagic {
		return errors.New("not a snapshot of this format")
	}
	words := header[len(snapshotMagic):]
	if err := m.sm.Restore(r); err != nil {
		return err
	}
	m.index, m.term = binary.LittleEndian.Uint64(words), binary.LittleEndian.Uint64(words[8:])
	// Entries were skipped, so nobody here can tell which proposals were among them.
	m.pending.doubt()
	m.progress.advance(m.index, m.term)
	return nil
}
