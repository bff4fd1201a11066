package consensus

import (
	"time"

	"github.com/hashicorp/raft"
)

// Status is what this node knows. It asks nobody and never blocks.
func (n *Node) Status() Status {
	address, leader := n.raft.LeaderWithID()
	state := n.raft.State()
	s := Status{
		Name: n.cfg.Name, State: state.String(), Term: n.raft.CurrentTerm(),
		Leader: string(leader), LeaderAddress: string(address),
		// Raft keeps both honest: a leader without a quorum steps down within
		// LeaderLease, a follower forgets a leader that is silent for Heartbeat.
		HasQuorum: leader != "" && state != raft.Shutdown, // as HasQuorum
		LastIndex: n.raft.LastIndex(), AppliedIndex: n.progress.applied(),
	}
	s.DiskFull, _ = n.room.full.get()
	s.DiskFree, s.LogBytes = n.room.free.Load(), n.dir.log.Bytes()
	switch heard := n.raft.LastContact(); {
	case state == raft.Leader:
	case heard.IsZero():
		s.LastContact = -1
	default:
		s.LastContact = time.Since(heard)
	}
	for _, it := range n.raft.GetConfiguration().Configuration().Servers {
		s.Servers = append(s.Servers, Server{Name: string(it.ID), Address: string(it.Address), Voter: it.Suffrage == raft.Voter})
	}
	return s
}

// HasQuorum is Status().HasQuorum, for who asks a thousand times a second.
func (n *Node) HasQuorum() bool {
	_, leader := n.raft.LeaderWithID()
	return leader != "" && n.raft.State() != raft.Shutdown
}
