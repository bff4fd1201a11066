package autopilot

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/fsm"
)

// raiseFormat has the cluster write what all of its control nodes read. They
// are only asked while this one reads more than is written. Its error says who
// is in the way.
func (a *Autopilot) raiseFormat(ctx context.Context, st *store.Store) error {
	now := st.Format()
	if now >= fsm.Format {
		return nil
	}
	servers := a.Node.Status().Servers
	format, behind := common(fsm.Format, servers, a.describe(ctx, servers))
	if format <= now {
		return fmt.Errorf("the cluster writes format %d until %s", now, behind)
	}
	return a.Node.WhileSettled(func(settled []consensus.Server) error {
		if !slices.EqualFunc(servers, settled, func(x, y consensus.Server) bool { return x.Name == y.Name && x.Address == y.Address }) {
			return nil // somebody joined or moved: ask anew
		}
		if err := st.RaiseFormat(ctx, format); err != nil {
			return err
		}
		a.Logger.Info("all control nodes read a newer format of commands: it is written from now on", "format", format, "before", now)
		return nil
	})
}

// common is the newest format, up to reads, that all servers read, and what keeps it from
// being newer. Who does not answer may read no more than the first.
func common(reads uint32, servers []consensus.Server, answers map[string]described) (format uint32, behind string) {
	format = reads
	var silent, older []string
	for _, s := range servers {
		switch it := answers[s.Name]; {
		case it.err != nil || it.DescribeResponse == nil:
			silent = append(silent, s.Name)
			format = 1
		case max(1, it.Format) < reads:
			older = append(older, s.Name)
			format = min(format, max(1, it.Format))
		}
	}
	var why []string
	if len(older) > 0 {
		why = append(why, strings.Join(older, ", ")+" runs a newer version")
	}
	if len(silent) > 0 {
		why = append(why, strings.Join(silent, ", ")+" answers or is removed")
	}
	return format, strings.Join(why, ", and ")
}
