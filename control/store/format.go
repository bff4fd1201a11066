package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/musterhq/muster/fsm"
)

// formatName is the key of what the cluster writes, as decimal digits.
const formatName = "format"

const formatPause = 100 * time.Millisecond

// Format is the newest format of commands (fsm.Format) that this cluster
// writes, as far as this replica knows. It only goes up, so who lags behind
// writes less than it might, never more.
func (s *Store) Format() uint32 {
	value, _, err := s.System().Get(formatName)
	if err != nil {
		return 1
	}
	format, err := strconv.ParseUint(string(value), 10, 32)
	if err != nil {
		return 1
	}
	return max(1, uint32(format))
}

// RaiseFormat has the cluster write commands of a format, if it does not do so
// already. Whoever calls it knows that every control node reads it, and that
// none that does not can join meanwhile.
func (s *Store) RaiseFormat(ctx context.Context, format uint32) error {
	if format > fsm.Format {
		return fmt.Errorf("%w: format %d, this node reads up to %d", ErrFormat, format, fsm.Format)
	}
	system := s.System()
	_, revision, err := system.Get(formatName)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if s.Format() >= format {
		return nil
	}
	value := strconv.AppendUint(nil, uint64(format), 10)
	if revision == 0 {
		_, err = system.Create(ctx, formatName, value)
	} else {
		_, err = system.Update(ctx, formatName, value, revision)
	}
	return err
}

// WatchFormat returns an error once this replica shows that the cluster writes
// commands that this build does not read, and nil when ctx ends.
func (s *Store) WatchFormat(ctx context.Context) error {
	for {
		after := s.Revision()
		if format := s.Format(); format > fsm.Format {
			return fmt.Errorf("this cluster writes commands of format %d, and this muster reads up to %d: start the newer version that the other control nodes run", format, fsm.Format)
		}
		w, err := s.Raw().Watch(systemPrefix+formatName, after)
		if err == nil {
			_, _, err = w.Next(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil { // the history was compacted or replaced: look anew
			select {
			case <-time.After(formatPause):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// send is the one way to the log. A command that some control node may not
// know would stop it.
func (s *Store) send(ctx context.Context, cmd []byte) ([]byte, error) {
	if needs := s.formatOf(cmd); needs > 1 && needs > s.Format() {
		return nil, fmt.Errorf("%w: it takes format %d, and the cluster writes %d", ErrFormat, needs, s.Format())
	}
	return s.log.Propose(ctx, cmd)
}
