package consensus

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// silence is who does not answer this leader's heartbeats, and since when.
type silence struct {
	mu    sync.Mutex
	since map[raft.ServerID]time.Time
}

// reset begins a term: what an earlier one has not heard counts no more.
func (s *silence) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = map[raft.ServerID]time.Time{}
}

// note takes raft's word; it runs in raft's goroutines and must not block.
func (s *silence) note(o *raft.Observation) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.since == nil {
		s.since = map[raft.ServerID]time.Time{}
	}
	switch it := o.Data.(type) {
	case raft.FailedHeartbeatObservation:
		s.since[it.PeerID] = it.LastContact
	case raft.ResumedHeartbeatObservation:
		delete(s.since, it.PeerID)
	}
	return false // nobody waits for observations
}

func (n *Node) trackSilence(ctx context.Context) {
	observer := raft.NewObserver(nil, false, n.silence.note)
	n.raft.RegisterObserver(observer)
	<-ctx.Done()
	n.raft.DeregisterObserver(observer)
}

// Silent says for how long members have not answered this leader's heartbeats,
// at most since it leads. Who answers is not in it; nobody is while this node
// does not lead.
func (n *Node) Silent() map[string]time.Duration {
	if l, _ := n.term.get(); l == nil {
		return nil
	}
	n.silence.mu.Lock()
	defer n.silence.mu.Unlock()
	silent := map[string]time.Duration{}
	for id, since := range n.silence.since {
		silent[string(id)] = time.Since(since)
	}
	return silent
}
