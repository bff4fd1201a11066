package nodelifecycle

import (
	"sync"
	"time"
)

// silences remembers since when nodes have had no session.
type silences struct {
	grace, sessionGrace time.Duration

	mu     sync.Mutex
	byNode map[string]time.Time
}

func newSilences(grace, sessionGrace time.Duration) *silences {
	return &silences{grace: grace, sessionGrace: sessionGrace, byNode: make(map[string]time.Time)}
}

// judge takes what is heard of a node now and says whether it counts as lost,
// and if not, when it will if nothing changes; 0 for never. A session that has
// just ended had been silent before. The grace is for an
// agent that moves its session. Gossip gets none: who is dead there has been suspected
// for a while, and did not object.
func (s *silences) judge(node string, session, gossip bool, before time.Duration, now time.Time) (lost bool, again time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if session {
		delete(s.byNode, node)
		return false, 0
	}
	since, silent := s.byNode[node]
	if !silent {
		since = now.Add(-before)
		s.byNode[node] = since
	}
	grace := s.grace
	if gossip {
		grace = s.sessionGrace
	}
	left := grace - now.Sub(since)
	return left <= 0, max(left, 0)
}

// sessionLost says that a node has had no session for so long that gossip alone
// does not count any more.
func (s *silences) sessionLost(node string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	since, ok := s.byNode[node]
	return ok && now.Sub(since) >= s.sessionGrace
}

func (s *silences) forget(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byNode, node)
}
