package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/control/store/keyring"
	"github.com/musterhq/muster/fsm"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

const (
	// replacePrefix is where a saved state lies until it is whole.
	replacePrefix = systemPrefix + "restore/"

	pieceBytes     = 512 << 10
	piecesInFlight = 4
	deletesInOne   = 256

	// RevisionStep is how far the revision jumps when the state is replaced. It is
	// more than a cluster writes between two backups, so that not even what a
	// lost cluster wrote after its last one has revisions that are used again.
	RevisionStep = 1_000_000_000

	replaceTries = 20
	replacePause = 250 * time.Millisecond
	cleanMax     = 10 * time.Second
)

// ErrReplaceInterrupted says that a replacement was not carried out because
// somebody else began one.
var ErrReplaceInterrupted = errors.New("another restore has begun meanwhile; nothing was changed by this one")

// Replaced is what Replace has done.
type Replaced struct {
	SavedRevision, Revision uint64
	Items                   int // that came from the saved state
}

// Replace puts a saved state, in fsm's format, in the place of the present one,
// on all replicas at one point of the log: a write is before it, and gone, or
// after it. What is Muster's own (names of machines, tokens, settings) stays as
// it is: those are facts about the running cluster, and a token that was
// revoked since must not come back. Every object gets a new revision, and all
// watchers ErrExpired.
//
// The state is read and checked in full before anything is written. An error
// means that it was not replaced, unless it says that this is not known. The
// keys that its values are sealed with are taken over; root is what wraps them,
// nil for this cluster's own.
func (s *Store) Replace(ctx context.Context, state io.Reader, root *keyring.Root) (Replaced, error) {
	saved := fsm.New(fsm.Config{HistoryEvents: 1})
	if err := saved.Restore(state); err != nil {
		return Replaced{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if saved.Revision() > 1<<61 {
		return Replaced{}, fmt.Errorf("%w: revision %d of the saved state leaves no room for later ones", ErrInvalid, saved.Revision())
	}
	done := Replaced{SavedRevision: saved.Revision()}
	for item := range saved.View().Range("", "") {
		if !strings.HasPrefix(item.Key, systemPrefix) {
			done.Items++
		}
	}
	if err := s.retry(ctx, func() error { return s.log.ReadBarrier(ctx) }); err != nil {
		return done, err
	}
	if err := s.clean(ctx, replacePrefix); err != nil {
		return done, err
	}
	if err := s.adoptKeys(ctx, saved, root); err != nil {
		return done, err
	}
	// What is sent is written anew by this build, which every control node reads.
	write, err := saved.Snapshot()
	if err != nil {
		return done, err
	}
	prefix, sum := replacePrefix+rand.Text()+"/", sha256.New()
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanMax)
		defer cancel()
		_ = s.clean(ctx, prefix) // nothing is left if all went well; the next restore looks again
	}()
	if err := s.sendPieces(ctx, prefix, func(w io.Writer) error { return write(io.MultiWriter(w, sum)) }); err != nil {
		return done, err
	}
	command := &storagev1.Command{Replace: &storagev1.Replace{
		Pieces: []byte(prefix), Sum: sum.Sum(nil), Keep: []byte(systemPrefix), Ahead: RevisionStep,
	}}
	done.Revision, err = s.carryOut(ctx, command, prefix)
	return done, err
}

// adoptKeys takes over the keyring of a saved state.
func (s *Store) adoptKeys(ctx context.Context, saved *fsm.Machine, root *keyring.Root) error {
	item, _ := saved.Get(systemPrefix + keyringName)
	if item == nil || s.sealer == nil {
		return nil
	}
	if root == nil {
		root = &s.sealer.root
	}
	ring, err := keyring.Parse(*root, item.Value)
	if err != nil {
		return fmt.Errorf("%w: the saved state's %w", ErrInvalid, err)
	}
	return s.retry(ctx, func() error { return s.Keyring().Adopt(ctx, ring) })
}

// sendPieces puts what write writes into keys below prefix.
func (s *Store) sendPieces(ctx context.Context, prefix string, write func(io.Writer) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(piecesInFlight)
	pieces := &pieceWriter{ctx: ctx, send: func(number int, piece []byte) {
		op := &storagev1.Op{Op: &storagev1.Op_Put{Put: &storagev1.Put{Key: fmt.Appendf(nil, "%s%08d", prefix, number), Value: piece}}}
		group.Go(func() error {
			return s.retry(ctx, func() error { // a put of the same again does no harm
				_, err := s.propose(ctx, &storagev1.Txn{Ops: []*storagev1.Op{op}})
				return err
			})
		})
	}}
	err := write(pieces)
	pieces.flush()
	return errors.Join(group.Wait(), err)
}

// pieceWriter cuts what is written to it.
type pieceWriter struct {
	ctx    context.Context
	send   func(number int, piece []byte)
	piece  []byte
	number int
}

func (w *pieceWriter) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		take := min(len(b), pieceBytes-len(w.piece))
		w.piece, b = append(w.piece, b[:take]...), b[take:]
		if len(w.piece) == pieceBytes {
			w.flush()
		}
	}
	return n, context.Cause(w.ctx)
}

func (w *pieceWriter) flush() {
	if len(w.piece) > 0 {
		w.send(w.number, w.piece)
		w.piece, w.number = make([]byte, 0, pieceBytes), w.number+1
	}
}

// carryOut proposes the replacement until it is certain that it was carried
// out, or that it never will be. It can be proposed again: once it is carried
// out its pieces are gone, and a second one does nothing.
func (s *Store) carryOut(ctx context.Context, command *storagev1.Command, prefix string) (revision uint64, err error) {
	encoded, err := proto.Marshal(command)
	if err != nil {
		return 0, err
	}
	before, unknown := s.machine.Revision(), false
	err = s.retry(ctx, func() error {
		answer, err := s.send(ctx, encoded)
		if err != nil {
			unknown = true
			return err
		}
		var result storagev1.Result
		if err := proto.Unmarshal(answer, &result); err != nil {
			return fmt.Errorf("decode the log's answer: %w", err)
		}
		switch {
		case result.Applied:
			revision = result.Revision
		case unknown && result.Revision > before+RevisionStep:
			revision = result.Revision // an earlier try was carried out
		default:
			return ErrReplaceInterrupted
		}
		return nil
	})
	if err != nil && unknown && !errors.Is(err, ErrReplaceInterrupted) {
		return 0, fmt.Errorf("it is not known whether the state was replaced, look at what the cluster has: %w", err)
	}
	return revision, err
}

// clean deletes the keys below a prefix of replacePrefix.
func (s *Store) clean(ctx context.Context, prefix string) error {
	for {
		txn := &storagev1.Txn{}
		for item := range s.machine.View().Range(prefix, "") {
			if txn.Ops = append(txn.Ops, &storagev1.Op{Op: &storagev1.Op_Delete{Delete: &storagev1.Delete{Key: []byte(item.Key)}}}); len(txn.Ops) == deletesInOne {
				break
			}
		}
		if len(txn.Ops) == 0 {
			return nil
		}
		if err := s.retry(ctx, func() error { _, err := s.propose(ctx, txn); return err }); err != nil {
			return err
		}
	}
}

// retry calls f, which may be done twice, until it succeeds: a cluster that
// changes its leader or is busy needs a moment.
func (s *Store) retry(ctx context.Context, f func() error) error {
	for try := 1; ; try++ {
		err := f()
		switch {
		case err == nil, ctx.Err() != nil, try == replaceTries, errors.Is(err, ErrReplaceInterrupted), errors.Is(err, ErrFormat), errors.Is(err, ErrInvalid):
			return err
		}
		select {
		case <-time.After(replacePause):
		case <-ctx.Done():
			return err
		}
	}
}
