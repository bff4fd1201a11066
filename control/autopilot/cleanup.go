package autopilot

import (
	"context"
	"fmt"
	"time"

	"github.com/musterhq/muster/control/store"
)

// member is a control node as clean-up judges it.
type member struct {
	name  string
	voter bool
	// gone is for how long neither gossip nor the leader's heartbeats have
	// reached it; 0: one of them does.
	gone time.Duration
}

// plan names the control node to remove now, if any. held says why one that
// has been gone for long enough is not removed. Voters are removed only while
// enough of the others live to agree on everything that follows, and never
// below MinVoters; who does not vote is in nobody's way.
func plan(s Settings, members []member) (remove, held string) {
	voters, alive := 0, 0
	var due *member
	for i, m := range members {
		if m.voter {
			voters++
			if m.gone == 0 {
				alive++
			}
		}
		if m.gone < s.DeadServerAfter || m.gone == 0 {
			continue
		}
		// Who does not vote first, then the longest gone.
		if due == nil || due.voter && !m.voter || due.voter == m.voter && m.gone > due.gone {
			due = &members[i]
		}
	}
	switch {
	case due == nil:
		return "", ""
	case !s.CleanupDeadServers:
		return "", "clean-up is off"
	case !due.voter:
		return due.name, ""
	case alive < voters/2+1:
		return "", fmt.Sprintf("only %d of %d voters are alive, too few to agree", alive, voters)
	case voters-1 < s.MinVoters:
		return "", fmt.Sprintf("that would leave %d voters, and min-voters is %d", voters-1, s.MinVoters)
	}
	return due.name, ""
}

// members is what the leader knows of the others. Nobody is asked for it.
func (a *Autopilot) members(now time.Time) []member {
	silent := a.Node.Silent()
	status := a.Node.Status()
	var members []member
	for _, s := range status.Servers {
		m := member{name: s.Name, voter: s.Voter}
		if s.Name != status.Name {
			state, since := a.State(s.Name)
			m.gone = gone(state, now.Sub(since), silent[s.Name])
		}
		members = append(members, m)
	}
	return members
}

// gone joins gossip's word and that of the leader's heartbeats. Of whom gossip
// never heard, a node that died before this one started for instance,
// heartbeats alone decide.
func gone(state string, lasts, silent time.Duration) time.Duration {
	switch state {
	case stateAlive:
		return 0
	case stateUnknown:
		return silent
	}
	return min(lasts, silent)
}

func (a *Autopilot) cleanUp(ctx context.Context, st *store.Store) error {
	s := a.settings()
	members := a.members(time.Now())
	name, _ := plan(s, members)
	if name == "" {
		return nil
	}
	for _, m := range members {
		if m.name == name {
			a.Logger.Warn("removing a dead control node", "server", name, "silent", m.gone.Round(time.Second))
		}
	}
	if err := a.remove(ctx, st, name, fmt.Sprintf("clean-up, after %v without a sign of life", s.DeadServerAfter)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
