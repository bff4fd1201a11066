package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

func putRaw(t *testing.T, s *store.Store, key, value string) uint64 {
	t.Helper()
	result, err := s.Raw().Commit(t.Context(), &storagev1.Txn{Ops: []*storagev1.Op{{Op: &storagev1.Op_Put{Put: &storagev1.Put{Key: []byte(key), Value: []byte(value)}}}}})
	if err != nil {
		t.Fatal(err)
	}
	return result.Revision
}

func savedState(t *testing.T, s *store.Store) []byte {
	t.Helper()
	write, err := s.Raw().Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var state bytes.Buffer
	if err := write(&state); err != nil {
		t.Fatal(err)
	}
	return state.Bytes()
}

// dump is all keys with the beginning of their values.
func dump(s *store.Store) string {
	var all []string
	for item := range s.View().Range("", "") {
		all = append(all, fmt.Sprintf("%s=%.5s", item.Key, item.Value))
	}
	return strings.Join(all, " ")
}

func TestReplaceTakesObjectsAndKeepsWhatIsTheClusters(t *testing.T) {
	s, _, _ := storetest.Open(t)
	putRaw(t, s, "muster/token/revoked", "old")
	putRaw(t, s, "pods/a", "saved")
	putRaw(t, s, "pods/big", strings.Repeat("x", 2<<20)) // several pieces
	state := savedState(t, s)
	if err := s.System().Delete(t.Context(), "token/revoked", 0); err != nil {
		t.Fatal(err)
	}
	putRaw(t, s, "muster/token/new", "new")
	putRaw(t, s, "pods/a", "later")
	before := putRaw(t, s, "pods/later", "later")

	done, err := s.Replace(t.Context(), bytes.NewReader(state), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := dump(s), "muster/token/new=new pods/a=saved pods/big=xxxxx"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if done.SavedRevision != 3 || done.Items != 2 || done.Revision != s.Revision() || done.Revision < before+store.RevisionStep {
		t.Errorf("got %+v at %d, want 2 items of revision 3, and a jump by %d", done, s.Revision(), store.RevisionStep)
	}
}

func TestReplaceByADamagedStateChangesNothing(t *testing.T) {
	s, log, _ := storetest.Open(t)
	putRaw(t, s, "pods/a", "saved")
	state := savedState(t, s)
	before, proposals := s.Revision(), log.Proposals()
	for _, damaged := range [][]byte{nil, state[:len(state)-1], append(bytes.Clone(state), 0), bytes.Replace(state, []byte("saved"), []byte("saveD"), 1)} {
		if _, err := s.Replace(t.Context(), bytes.NewReader(damaged), nil); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%d of %d bytes: %v, want %v", len(damaged), len(state), err, store.ErrInvalid)
		}
	}
	if s.Revision() != before || log.Proposals() != proposals {
		t.Error("something was written")
	}
}

// flaky is a log whose answers are lost now and then, after the command was
// carried out.
type flaky struct {
	store.Log
	calls atomic.Int64
}

func (f *flaky) Propose(ctx context.Context, cmd []byte) ([]byte, error) {
	answer, err := f.Log.Propose(ctx, cmd)
	if f.calls.Add(1)%2 == 1 && err == nil {
		return nil, errors.New("the answer is lost")
	}
	return answer, err
}

// Each command is carried out once and said to be unknown, so each is sent twice.
func TestReplaceSurvivesAnswersThatAreLost(t *testing.T) {
	plain, log, _ := storetest.Open(t)
	putRaw(t, plain, "pods/a", "saved")
	state := savedState(t, plain)
	putRaw(t, plain, "pods/a", "later")
	putRaw(t, plain, "muster/restore/left/00000000", "by one that was given up")
	done, err := plain.WithLog(&flaky{Log: log}).Replace(t.Context(), bytes.NewReader(state), nil)
	if err != nil || done.Revision != plain.Revision() {
		t.Fatalf("%+v at %d, %v", done, plain.Revision(), err)
	}
	if got := dump(plain); got != "pods/a=saved" {
		t.Errorf("got %s, want pods/a=saved", got)
	}
}

// What is sent in pieces and then not used must not stay.
func TestReplaceThatIsGivenUpLeavesNothing(t *testing.T) {
	s, log, _ := storetest.Open(t)
	putRaw(t, s, "pods/a", strings.Repeat("x", 3<<20))
	state := savedState(t, s)
	before := dump(s)
	ctx, cancel := context.WithCancel(t.Context())
	stop := &stopping{Log: log, cancel: cancel}
	stop.after.Store(4)
	if _, err := s.WithLog(stop).Replace(ctx, bytes.NewReader(state), nil); err == nil {
		t.Fatal("no error")
	}
	if got := dump(s); got != before {
		t.Errorf("got %s, want %s", got, before)
	}
	if _, err := s.Replace(t.Context(), io.LimitReader(bytes.NewReader(state), 100), nil); err == nil {
		t.Error("a part of a state was taken")
	}
}

type stopping struct {
	store.Log
	after  atomic.Int64
	cancel func()
}

func (s *stopping) Propose(ctx context.Context, cmd []byte) ([]byte, error) {
	if s.after.Add(-1) == 0 {
		s.cancel()
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return s.Log.Propose(ctx, cmd)
}
