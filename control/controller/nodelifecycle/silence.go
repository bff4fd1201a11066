package nodelifecycle

import (
	"sync"
	"time"
)

// silences remembers since when nodes have not been heard.
type silences struct {
	grace, sessionGrace time.Duration

	mu     sync.Mutex
	byNode map[string]silence
}

type silence struct {
	session time.Time // no session since; zero: there is one
	all     time.Time // nor gossip since; zero: there is one of them
}

func newSilences(grace, sessionGrace time.Duration) *silences {
	return &silences{grace: grace, sessionGrace: sessionGrace, byNode: make(map[string]silence)}
}

// judge takes what is heard of a node now and says whether it counts as lost,
// and if not, when it will if nothing changes; 0 for never.
func (s *silences) judge(node string, session, gossip bool, now time.Time) (lost bool, again time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if session {
		delete(s.byNode, node)
		return false, 0
	}
	one := s.byNode[node]
	if one.session.IsZero() {
		one.session = now
	}
	left := s.sessionGrace - now.Sub(one.session)
	if gossip {
		one.all = time.Time{}
	} else {
		if one.all.IsZero() {
			one.all = now
		}
		left = min(left, s.grace-now.Sub(one.all))
	}
	s.byNode[node] = one
	return left <= 0, max(left, 0)
}

// sessionLost says that a node has had no session for so long that gossip alone
// does not count any more.
func (s *silences) sessionLost(node string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.byNode[node]
	return ok && now.Sub(one.session) >= s.sessionGrace
}

func (s *silences) forget(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byNode, node)
}
