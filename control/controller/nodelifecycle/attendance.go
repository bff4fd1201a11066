package nodelifecycle

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// gapMost is a break of a session that does not count: the agent has moved to
// another control node. It is too short for the agent to say that it lacks one.
const gapMost = 2 * time.Second

// attendance remembers since when sessions of nodes have been there, or not, and
// since when nodes are stored as lost, all as this leader has seen it.
type attendance struct {
	mu     sync.Mutex
	byNode map[string]attended
	lost   map[string]time.Time
	// doubted are lost nodes of which it was said that they can't be fenced.
	doubted map[string]bool
}

type attended struct {
	heard bool
	since time.Time
	// before is since when it had been heard when it ceased to be.
	before time.Time
}

func newAttendance() *attendance {
	return &attendance{byNode: make(map[string]attended), lost: make(map[string]time.Time), doubted: make(map[string]bool)}
}

// session notes whether there is one.
func (a *attendance) session(node string, heard bool, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	one, known := a.byNode[node]
	switch {
	case known && one.heard == heard:
	case known && heard && !one.before.IsZero() && now.Sub(one.since) < gapMost:
		a.byNode[node] = attended{heard: true, since: one.before}
	case heard:
		a.byNode[node] = attended{heard: true, since: now}
	default:
		a.byNode[node] = attended{since: now, before: one.since}
	}
}

// stored notes what is stored of a node's readiness. Whoever holds a session of
// a node that is stored as lost has that corrected.
func (a *attendance) stored(node *corev1.Node, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := conditionOf(node, corev1.NodeReady)
	if c == nil || c.Status != corev1.ConditionUnknown {
		delete(a.lost, node.Name)
		delete(a.doubted, node.Name)
	} else if _, known := a.lost[node.Name]; !known {
		a.lost[node.Name] = now
	}
}

// heardFor is how long there has been a session of the node, 0 if there is none.
func (a *attendance) heardFor(node string, now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if one := a.byNode[node]; one.heard {
		return now.Sub(one.since)
	}
	return 0
}

// lostFor is how long the node has had no session and been stored as lost, false
// if it is neither.
func (a *attendance) lostFor(node string, now time.Time) (time.Duration, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	one, known := a.byNode[node]
	lost, ok := a.lost[node]
	if !known || one.heard || !ok {
		return 0, false
	}
	if one.since.After(lost) {
		lost = one.since
	}
	return now.Sub(lost), true
}

func (a *attendance) forget(node string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.byNode, node)
	delete(a.lost, node)
	delete(a.doubted, node)
}

// firstDoubt is true once for each time that the node is lost.
func (a *attendance) firstDoubt(node string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	first := !a.doubted[node]
	a.doubted[node] = true
	return first
}
