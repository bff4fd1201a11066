// Package storetest gives tests a store of their own, and is the contract that
// a store keeps over any log.
package storetest

import (
	"context"
	"sync"
	"testing"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/fsm"
)

// New returns an empty store over one machine and a log in memory.
func New(t testing.TB) *store.Store {
	t.Helper()
	s, _, _ := Open(t)
	return s
}

// Open is New for tests that also steer the log or look into the machine.
func Open(t testing.TB) (*store.Store, *Log, *fsm.Machine) {
	t.Helper()
	machine := fsm.New(fsm.Config{})
	log := NewLog(machine)
	return store.New(log, machine), log, machine
}

// Log is a log of one node in memory: a proposal is applied at once, one at a
// time. It can be made to fail as a real one does.
type Log struct {
	machine *fsm.Machine
	apply   *sync.Mutex // of the machine

	mu        sync.Mutex
	refuse    error // instead of applying
	lose      error // after applying
	proposals int
	barriers  int
}

// NewLog returns the log of a machine; there may be only one. Its Term gives
// more.
func NewLog(m *fsm.Machine) *Log { return &Log{machine: m, apply: &sync.Mutex{}} }

// Term returns another log of the same machine, which fails on its own: a
// leader's, to be deposed with Refuse while others go on.
func (l *Log) Term() *Log { return &Log{machine: l.machine, apply: l.apply} }

// Refuse makes proposals and barriers fail without effect, as those of a
// deposed leader do, until called with nil.
func (l *Log) Refuse(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse = err
}

// Lose makes proposals take effect and yet return an error, as when the
// connection breaks before the answer, until called with nil.
func (l *Log) Lose(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lose = err
}

// Proposals is how many commands were applied.
func (l *Log) Proposals() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.proposals
}

// Barriers is how many read barriers were passed.
func (l *Log) Barriers() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.barriers
}

// Propose implements store.Log.
func (l *Log) Propose(ctx context.Context, cmd []byte) ([]byte, error) {
	if err := l.check(ctx); err != nil {
		return nil, err
	}
	l.apply.Lock()
	answer, err := l.machine.ApplyOne(cmd)
	l.apply.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	l.proposals++
	if l.lose != nil {
		return nil, l.lose
	}
	return answer, nil
}

// ReadBarrier implements store.Log.
func (l *Log) ReadBarrier(ctx context.Context) error {
	if err := l.check(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.barriers++
	return nil
}

func (l *Log) check(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	return l.refuse
}
