package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/hashicorp/raft"
)

// newMachine returns a machine over a register, and what it failed with.
func newMachine(origin uint64) (*machine, *register, *error) {
	sm, failed := &register{}, new(error)
	return &machine{sm: sm, origin: origin, pending: newPending(), progress: newProgress(), fail: func(err error) { *failed = err }}, sm, failed
}

func entry(index, term uint64, e envelope) *raft.Log {
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: e.encode()}
}

type sink struct{ bytes.Buffer }

func (*sink) ID() string    { return "sink" }
func (*sink) Cancel() error { return nil }
func (*sink) Close() error  { return nil }

// A node restored from a snapshot knows how far it is without another entry,
// and that it cannot know what became of its own proposals.
func TestSnapshotCarriesIndexAndTerm(t *testing.T) {
	from, _, _ := newMachine(1)
	from.ApplyBatch([]*raft.Log{entry(40, 3, envelope{commands: []command{{data: []byte("a")}, {data: []byte("b")}}}), {Index: 41, Term: 4, Type: raft.LogConfiguration}})
	s, err := from.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var file sink
	if err := s.Persist(&file); err != nil {
		t.Fatal(err)
	}
	from.ApplyBatch([]*raft.Log{entry(42, 4, envelope{commands: []command{{data: []byte("c")}}})})

	whole := bytes.Clone(file.Bytes())
	to, sm, _ := newMachine(2)
	own := to.pending.add([]byte("own"))
	if err := to.Restore(io.NopCloser(&file)); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(sm.all()); got != "[a b]" {
		t.Errorf("state %s, want [a b]", got)
	}
	if got := to.progress.applied(); got != 41 {
		t.Errorf("applied index %d, want 41", got)
	}
	if over, _ := to.progress.termAfter(3); !over {
		t.Error("term 4 is not known")
	}
	select {
	case a := <-own.answered:
		if !errors.Is(a.err, ErrOutcomeUnknown) {
			t.Errorf("own proposal: %v, want %v", a.err, ErrOutcomeUnknown)
		}
	default:
		t.Error("own proposal was told nothing")
	}
	for _, size := range []int{0, 5, len(snapshotMagic) + 3, len(whole) - 3} {
		cut, _, _ := newMachine(3)
		if err := cut.Restore(io.NopCloser(bytes.NewReader(whole[:size]))); err == nil {
			t.Errorf("restored from %d of %d bytes", size, len(whole))
		}
	}
}

func TestNothingIsAppliedAfterAFailure(t *testing.T) {
	for _, test := range []struct {
		name string
		bad  *raft.Log
	}{
		{"unknown command", entry(2, 1, envelope{commands: []command{{data: []byte("in part")}, {data: []byte("!")}, {data: []byte("no more")}}})},
		{"unreadable entry", &raft.Log{Index: 2, Term: 1, Type: raft.LogCommand, Data: []byte("garbage")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, sm, failed := newMachine(1)
			m.ApplyBatch([]*raft.Log{entry(1, 1, envelope{commands: []command{{data: []byte("good")}}}), test.bad, entry(3, 1, envelope{commands: []command{{data: []byte("later")}}})})
			m.ApplyBatch([]*raft.Log{entry(4, 1, envelope{commands: []command{{data: []byte("later")}}})})
			if *failed == nil {
				t.Error("nobody was told")
			}
			if sm.has("later") || sm.has("no more") {
				t.Errorf("applied %v", sm.all())
			}
			if got := m.progress.applied(); got != 1 {
				t.Errorf("applied index %d, want 1", got)
			}
			if _, err := m.Snapshot(); err == nil {
				t.Error("a snapshot of a state that is wrong was taken")
			}
		})
	}
}

func TestOnlyOwnCommandsAnswer(t *testing.T) {
	m, _, _ := newMachine(7)
	own := m.pending.add([]byte("own"))
	m.ApplyBatch([]*raft.Log{entry(1, 1, envelope{commands: []command{{origin: 8, sequence: own.sequence, data: []byte("another's")}}})})
	if len(own.answered) != 0 {
		t.Fatal("answered by another process' command")
	}
	m.ApplyBatch([]*raft.Log{entry(2, 1, envelope{commands: []command{{origin: 7, sequence: own.sequence, data: []byte("own")}}})})
	if a := <-own.answered; string(a.data) != "2" || a.err != nil {
		t.Errorf("answer %q, %v, want 2", a.data, a.err)
	}
}
