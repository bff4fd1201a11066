package gossip

import (
	"time"

	"github.com/hashicorp/memberlist"
)

// timers are for one LAN.
//
// Each node probes one other node per ProbeInterval, all of them in turn. With
// N nodes some node therefore probes a dead one within about one interval,
// whatever N is. It waits ProbeTimeout for the answer over UDP, asks three
// others to try and tries TCP itself until the interval ends, then suspects. A
// suspect has SuspicionMult × max(1, log10 N) × ProbeInterval to object.
//
//	            notice    + probe + suspicion = dead at
//	   5 nodes  0 – 0.5 s   0.5 s   0.5 s       1 – 1.5 s
//	1000 nodes  0 – 0.5 s   0.5 s   1.5 s       2 – 2.5 s, and up to 1 s for word to get around
//
// SuspicionMult is 1 where memberlist suggests 4: an alarm that proves false
// costs little here, as a node counts as gone only when its session is lost
// too. It also makes the time fixed: above 2, memberlist waits several times
// as long unless further nodes confirm the suspicion.
//
// A node's load does not depend on N: two probes a second out, two on average
// in, about eight small packets; gossip only while there is news. Complete
// states are exchanged over TCP every 30 s, more rarely with many nodes (every
// 3 min at 1000, when one is some 100 KB).
func timers(fast bool) *memberlist.Config {
	m := memberlist.DefaultLANConfig()
	m.ProbeInterval = 500 * time.Millisecond
	// An asked node reports failure after ProbeTimeout. Two timeouts must fit into
	// the interval with room to spare, otherwise the reports come late and the
	// prober thinks that it is ill itself, and slows down.
	m.ProbeTimeout = 200 * time.Millisecond
	m.SuspicionMult = 1
	m.AwarenessMaxMultiplier = 4
	m.GossipInterval = 100 * time.Millisecond
	m.TCPTimeout = 3 * time.Second
	// Nobody speaks UDP to the dead for longer; keepJoined finds them again.
	m.GossipToTheDeadTime = 30 * time.Second
	if fast {
		m.ProbeInterval = 200 * time.Millisecond
		m.ProbeTimeout = 80 * time.Millisecond
		m.GossipInterval = 20 * time.Millisecond
		m.TCPTimeout = time.Second
	}
	return m
}
