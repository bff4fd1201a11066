package store

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/fsm"
)

// counting is a log of one machine that counts what reaches it.
type counting struct {
	machine  *fsm.Machine
	proposed int
}

func (d *counting) Propose(_ context.Context, cmd []byte) ([]byte, error) {
	d.proposed++
	return d.machine.ApplyOne(cmd)
}

func (d *counting) ReadBarrier(context.Context) error { return nil }

func newCounting() (*Store, *counting) {
	log := &counting{machine: fsm.New(fsm.Config{})}
	return New(log, log.machine), log
}

// A command that some control node does not know would stop it, at every start
// again. So none reaches the log before the cluster is known to read it;
// provoked by taking every write of a name for one of a later format.
func TestNoCommandAboveTheClustersFormatReachesTheLog(t *testing.T) {
	s, log := newCounting()
	s.formatOf = func(cmd []byte) uint32 {
		if strings.Contains(string(cmd), "muster/new") {
			return fsm.Format + 1
		}
		return 1
	}
	write := func(s *Store) error {
		_, err := s.System().Create(t.Context(), "new", []byte("x"))
		return err
	}
	for _, s := range []*Store{s, s.WithLog(log)} { // whoever writes, the leader's duties too
		if err := write(s); !errors.Is(err, ErrFormat) || log.proposed != 0 {
			t.Errorf("got %v and %d proposals, want %v and none", err, log.proposed, ErrFormat)
		}
	}
	if err := s.RaiseFormat(t.Context(), fsm.Format+1); !errors.Is(err, ErrFormat) {
		t.Errorf("raised above what this build reads: %v", err)
	}
	// Another node, of a newer build, has raised it.
	if _, err := s.System().Create(t.Context(), formatName, []byte{'0' + byte(fsm.Format) + 1}); err != nil {
		t.Fatal(err)
	}
	if err := write(s); err != nil {
		t.Errorf("after it was raised: %v", err)
	}
}

func TestFormatIsRaisedOnce(t *testing.T) {
	s, log := newCounting()
	if got := s.Format(); got != 1 {
		t.Errorf("a new cluster writes format %d, want 1", got)
	}
	for range 3 {
		if err := s.RaiseFormat(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	if log.proposed != 0 {
		t.Errorf("%d writes for the format that a cluster has anyway", log.proposed)
	}
}

// A node of an older build must not go on until it meets a command that it
// can't read; it says what helps.
func TestOlderBuildStopsWhenTheFormatIsRaised(t *testing.T) {
	s, _ := newCounting()
	ended := make(chan error, 1)
	go func() { ended <- s.WatchFormat(t.Context()) }()
	for i := range 10 {
		if _, err := s.System().Create(t.Context(), "other"+string(rune('a'+i)), nil); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-ended:
		t.Fatalf("ended with %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	if _, err := s.System().Create(t.Context(), formatName, []byte("77")); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "start the newer version") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	other, _ := newCounting()
	if err := other.WatchFormat(ctx); err != nil {
		t.Errorf("stopped: got %v", err)
	}
}
