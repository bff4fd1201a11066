package consensus

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/consensus/forward"
)

// remote is the route to another node's leadership.
type remote struct {
	node   *Node
	stream *forward.Stream
}

var _ route = (*remote)(nil)

func (r *remote) submit(it *proposal) error { return r.stream.Propose(it.sequence, it.command) }
func (r *remote) readIndex(ctx context.Context) (uint64, error) {
	return r.stream.ReadIndex(ctx)
}
func (r *remote) term() uint64          { return r.stream.Term() }
func (r *remote) lost() <-chan struct{} { return r.stream.Lost() }

const (
	// followPause is waited before a leader that did not take the stream is asked again.
	followPause = 20 * time.Millisecond
	// leaderlessMax: a follower that knows of no leader for this long gives up
	// its stream, so that commands on it are not held for ever. A shorter gap is
	// a blip after which the same leader is heard again.
	leaderlessMax = 250 * time.Millisecond
	// quickRounds bounds how long a lost connection keeps candidates' waits short,
	// in such waits. Whoever is not elected by then is on a machine so busy that
	// votes take longer than that, and candidates would go on to collide: they
	// wait patientRounds as long then, as long as quickMax lasts.
	quickRounds   = 5
	patientRounds = 3
	quickMax      = 20 // in such waits
)

// follow keeps a stream to whichever other node leads.
func (n *Node) follow(ctx context.Context) {
	for ctx.Err() == nil {
		leader, changed := n.leader.get()
		if leader.ID == "" || string(leader.ID) == n.cfg.Name {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		broken := n.followLeader(ctx, leader)
		if now, _ := n.leader.get(); broken && now == leader {
			n.log.Debug("connection to the leader lost, looking sooner", "leader", leader.ID)
			n.quicken()
		}
		select {
		case <-time.After(followPause):
		case <-ctx.Done():
		}
	}
}

// followLeader follows until the leader resigns, another leads, or the stream
// breaks. The last is what a dead leader looks like.
func (n *Node) followLeader(ctx context.Context, leader raft.Server) (broken bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		n.cancelWhenReplaced(ctx, leader, cancel)
	}()
	defer func() { cancel(); <-watching }()

	conn, err := n.cfg.Dial(ctx, string(leader.ID), string(leader.Address))
	if err != nil {
		n.log.Debug("leader cannot be dialed", "leader", leader.ID, "error", err)
		return false
	}
	// Tempting and wrong here: conn.ResetConnectBackoff. It ranges over a map that
	// grpc 1.85 changes in other goroutines.
	r := &remote{node: n}
	r.stream, err = forward.Open(ctx, conn, forward.Follower{
		Name: n.cfg.Name, Origin: n.origin, Term: n.raft.CurrentTerm,
		Disk:   n.room.full.get,
		Refuse: func(sequence uint64, err error) { n.pending.refuse(sequence, r, err) },
	})
	if err != nil {
		n.log.Debug("leader cannot be followed", "leader", leader.ID, "error", err)
		return false
	}
	n.calm()
	n.route.set(r)
	n.log.Debug("following", "leader", leader.ID, "term", r.term())
	err = r.stream.Run()
	n.route.clear(r)
	n.log.Debug("no longer following", "leader", leader.ID, "reason", err)
	return ctx.Err() == nil && status.Code(err) != codes.FailedPrecondition
}

// cancelWhenReplaced ends a stream to a leader that raft no longer knows as
// such. No leader at all is given a while.
func (n *Node) cancelWhenReplaced(ctx context.Context, leader raft.Server, cancel context.CancelFunc) {
	var none *time.Timer
	var expired <-chan time.Time
	for {
		now, changed := n.leader.get()
		switch {
		case now == leader:
			if none != nil {
				none.Stop()
			}
			none, expired = nil, nil
		case now.ID != "":
			cancel()
		case none == nil:
			none = time.NewTimer(leaderlessMax)
			defer none.Stop()
			expired = none.C
		}
		select {
		case <-changed:
		case <-expired:
			cancel()
			return
		case <-ctx.Done():
			return
		}
	}
}

// trackLeader keeps n.leader what raft says.
func (n *Node) trackLeader(ctx context.Context) {
	heard := make(chan raft.Observation, 1) // only a poke: what counts is asked below
	observer := raft.NewObserver(heard, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	})
	n.raft.RegisterObserver(observer)
	defer n.raft.DeregisterObserver(observer)
	for {
		address, id := n.raft.LeaderWithID()
		n.leader.set(raft.Server{ID: id, Address: address})
		select {
		case <-heard:
		case <-ctx.Done():
			n.leader.set(raft.Server{})
			return
		}
	}
}

// quicken makes this follower look sooner whether the leader is still there:
// raft looks again at once when its heartbeat timeout becomes shorter. If
// heartbeats go on, nothing else happens; pre-vote keeps a mistaken candidate
// from disturbing a leader that others hear.
func (n *Node) quicken() {
	quick := n.cfg.LeaderLease
	n.setTimers(quick, quick)
	n.timers.Lock()
	defer n.timers.Unlock()
	if n.calmLater != nil {
		n.calmLater.Stop()
	}
	n.calmLater = time.AfterFunc(quickRounds*quick, func() {
		n.timers.Lock()
		quickStill := n.raft.ReloadableConfig().HeartbeatTimeout == quick
		if quickStill {
			n.calmLater = time.AfterFunc((quickMax-quickRounds)*quick, n.calm)
		}
		n.timers.Unlock()
		if quickStill {
			n.setTimers(quick, max(quick, min(n.cfg.Election, patientRounds*quick)))
		}
	})
}

// calm undoes quicken.
func (n *Node) calm() {
	heartbeat, election := n.cfg.Heartbeat, n.cfg.Election
	if l, _ := n.term.get(); l != nil {
		heartbeat, election = n.timersOfLeader()
	}
	n.setTimers(heartbeat, election)
}

func (n *Node) setTimers(heartbeat, election time.Duration) {
	n.timers.Lock()
	defer n.timers.Unlock()
	c := n.raft.ReloadableConfig()
	if c.HeartbeatTimeout == heartbeat && c.ElectionTimeout == election {
		return
	}
	c.HeartbeatTimeout, c.ElectionTimeout = heartbeat, election
	if err := n.raft.ReloadConfig(c); err != nil {
		n.log.Warn("election timers cannot be changed", "error", err)
	}
}
