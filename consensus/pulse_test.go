package consensus

import (
	"testing"
	"time"
)

// With raft's own timers and repetitions far apart, only the pulse can keep
// followers and the lease; it begins when there is somebody to hear it.
func TestPulseReachesAllFollowers(t *testing.T) {
	slow := func(cfg *Config) {
		cfg.Heartbeat, cfg.LeaderLease, cfg.LeaderWait, cfg.Commit = time.Minute, 5*time.Second, time.Minute, time.Hour
	}
	c := newCluster(t, 1, slow)
	leader := c.leader()
	leader.setTimers(time.Hour, time.Hour)
	var followers []*host
	for _, name := range []string{"b", "c"} {
		h := c.add(name, slow)
		if err := c.join(h, leader); err != nil {
			t.Fatal(err)
		}
		followers = append(followers, h)
	}
	term, after := leader.Status().Term, time.Now().Add(time.Second) // what the joins brought is over by then
	for _, h := range followers {
		c.eventually("a heartbeat to "+h.name, func() bool { return h.raft.LastContact().After(after) })
	}
	if now := leader.Status().Term; now != term {
		t.Errorf("term %d, want still %d", now, term)
	}
}
