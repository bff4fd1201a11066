package consensus

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
	"github.com/musterhq/muster/consensus/rhythm"
)

// Raft sends each follower its heartbeats by a timer of its own, of a random
// length. What an idle leader costs is how often it is woken, not what it then
// does: so here one timer has raft send all of them, by asking it whether this
// node still leads. Raft's own timers come later than that, for when its main
// goroutine is at the disk and takes no questions.

// pulsesPerLease leaves two thirds of the lease for a heartbeat and its answer to be late.
const pulsesPerLease = 3

func (n *Node) pulseEvery() time.Duration { return n.cfg.LeaderLease / pulsesPerLease }

// timersOfLeader are such that raft's own heartbeats, one each tenth to fifth of the
// first, come one to two pulses after the last.
func (n *Node) timersOfLeader() (heartbeat, election time.Duration) {
	own := 10 * n.pulseEvery()
	return own, own
}

// pulse sends heartbeats until ctx ends; none while there is nobody to hear them.
func (l *leadership) pulse(ctx context.Context) {
	members := make(chan raft.Observation, 1) // only a poke
	observer := raft.NewObserver(members, false, func(o *raft.Observation) bool {
		_, is := o.Data.(raft.PeerObservation)
		return is
	})
	r := l.node.raft
	r.RegisterObserver(observer)
	defer r.DeregisterObserver(observer)
	for {
		var due <-chan time.Time
		if len(r.GetConfiguration().Configuration().Servers) > 1 {
			due = rhythm.After(l.node.pulseEvery())
		}
		select {
		case <-due:
			r.VerifyLeader() // its answer comes too late to be of use
		case <-members:
		case <-ctx.Done():
			return
		}
	}
}
