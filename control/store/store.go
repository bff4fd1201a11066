// Package store is the cluster's objects in typed tables over the replicated
// state machine: get, list, create, update, delete and watch, and decoded
// caches kept current for controllers. It knows how an object becomes bytes
// and a key; what makes an object valid, and what a write must prepare, is the
// business of package resource.
//
// Reads are answered by this node's replica. Who needs to see every write that
// was acknowledged before calls ReadBarrier first.
package store

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/fsm"
	"github.com/musterhq/muster/fsm/kv"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

var (
	ErrNotFound = errors.New("object does not exist")
	ErrExists   = errors.New("object already exists")
	// ErrConflict says that the object is not at the revision, or not the one
	// with the UID, that the caller demanded.
	ErrConflict = errors.New("object has been modified")
	// ErrExpired says that a list cannot be continued, or a watch not resumed,
	// because what it needs is not kept any more.
	ErrExpired = errors.New("revision is too old")
	// ErrInvalid says that a request could not be meant: a name with a slash,
	// an object of another kind, a continue token of another list.
	ErrInvalid = errors.New("invalid request")
	// ErrFormat says that a command is not known to every control node yet.
	ErrFormat = errors.New("not before all control nodes are upgraded")
)

// Log is where writes are decided: consensus.Node, or, for a leader's duties,
// the consensus.Term that ends with its leadership. Propose returns once the
// command is applied to this node's machine.
type Log interface {
	Propose(ctx context.Context, cmd []byte) ([]byte, error)
	ReadBarrier(ctx context.Context) error
}

// Store is safe for use by any number of goroutines.
type Store struct {
	log     Log
	machine *fsm.Machine
	sealer  *sealer // nil: see Sealing
	// formatOf is fsm.FormatOf, except in tests.
	formatOf func(cmd []byte) uint32
}

// New returns a store that reads from m and writes through log, which must
// apply to m.
func New(log Log, m *fsm.Machine) *Store {
	return &Store{log: log, machine: m, formatOf: fsm.FormatOf}
}

// WithLog returns the same store writing through another log of the same
// machine: leader duties write through their term, so that a deposed leader's
// writes fail.
func (s *Store) WithLog(log Log) *Store {
	copied := *s
	copied.log = log
	return &copied
}

// ReadBarrier returns once this replica holds every write acknowledged, by any
// node, before the call.
func (s *Store) ReadBarrier(ctx context.Context) error { return s.log.ReadBarrier(ctx) }

// Revision is that of this replica.
func (s *Store) Revision() uint64 { return s.machine.Revision() }

// WaitRevision returns once this replica is at a revision or past it.
func (s *Store) WaitRevision(ctx context.Context, revision uint64) error {
	return s.machine.WaitRevision(ctx, revision)
}

// View is this replica's state at its newest revision.
func (s *Store) View() *kv.View { return s.machine.View() }

// propose sends a transaction through the log. A guard that fails is a result.
// Errors of the log are passed on as they are, so that callers can tell "not
// done" from "outcome unknown".
func (s *Store) propose(ctx context.Context, txn *storagev1.Txn) (*storagev1.Result, error) {
	cmd, err := proto.Marshal(&storagev1.Command{Txn: txn})
	if err != nil {
		// A label or field that is not UTF-8.
		return nil, fmt.Errorf("%w: encode: %w", ErrInvalid, err)
	}
	answer, err := s.send(ctx, cmd)
	if err != nil {
		return nil, err
	}
	result := &storagev1.Result{}
	if err := proto.Unmarshal(answer, result); err != nil {
		return nil, fmt.Errorf("decode the log's answer: %w", err)
	}
	if result.Applied && len(result.OpRevisions) != len(txn.Ops) {
		return nil, fmt.Errorf("the log answered %d operations with %d revisions", len(txn.Ops), len(result.OpRevisions))
	}
	return result, nil
}
