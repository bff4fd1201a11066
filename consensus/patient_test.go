package consensus

import (
	"testing"
	"time"
)

// raft waits longer with each log message that fails, up to ten seconds, while
// heartbeats resume at once: a follower that was away takes part and lags.
// Provoked by a follower that is down while others write; what counts is how
// often raft is told of a failure, since time says little on a loaded machine.
func TestFollowerThatWasDownCatchesUpAtOnce(t *testing.T) {
	c := newCluster(t, 3, nil)
	away := c.followers()[0]
	away.stop()
	leader := c.leader()
	before := leader.trans.failed.Load()
	for down := time.Now().Add(2 * time.Second); time.Now().Before(down); time.Sleep(100 * time.Millisecond) {
		c.propose(leader, "while away")
	}
	c.propose(leader, "last")
	// Left to itself raft tries some eight times in two seconds, and waits longer
	// each time.
	if failed := leader.trans.failed.Load() - before; failed > 2 {
		t.Errorf("raft was told of %d failures, want 2 at the most", failed)
	}
	away.start()
	c.eventually("the follower has what it missed", func() bool { return away.sm.has("last") })
}
