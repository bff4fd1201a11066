//go:build nextformat

package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/control/store"
)

// newDuties has the leader write, ten times a second, a command that the
// version before does not know.
func newDuties(st *store.Store, log *slog.Logger) []consensus.Duty {
	return []consensus.Duty{{Name: "stamp", Run: func(ctx context.Context, term *consensus.Term) error {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			err := st.WithLog(term).System().Stamp(ctx, "stamp", []byte(time.Now().Format(time.RFC3339Nano)))
			if errors.Is(err, store.ErrFormat) {
				log.Info("stamp held back", "error", err)
			} else if err != nil && !errors.Is(err, consensus.ErrNotLeader) && ctx.Err() == nil {
				return err
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil
			}
		}
	}}}
}
