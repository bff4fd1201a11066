package dispatch

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// sessions is the set of agents that this control node hears, by node name.
type sessions struct {
	mu     sync.Mutex
	byNode map[string]*session
	// silent says of nodes that ceased to be heard for how long they had said nothing
	// by then.
	silent map[string]time.Duration
	// changed is closed and replaced at each connect and disconnect.
	changed chan struct{}
	closed  bool
}

func newSessions() *sessions {
	return &sessions{byNode: map[string]*session{}, silent: map[string]time.Duration{}, changed: make(chan struct{})}
}

// add makes s the session of its node. An earlier one of the same node is
// ended: the agent has moved on, or a second machine uses its certificate, and
// in both cases one voice is right.
func (t *sessions) add(s *session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	if old := t.byNode[s.node]; old != nil {
		old.end(errReplaced)
	}
	t.byNode[s.node] = s
	delete(t.silent, s.node)
	t.wake()
	return true
}

// remove ends what add began.
func (t *sessions) remove(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byNode[s.node] == s {
		delete(t.byNode, s.node)
		if !s.unheard.Load() { // or that was told
			t.wake()
		}
	}
}

// lookWhoIsSilent tells of agents that have fallen silent, and ends the sessions of
// those that have been so for long. It answers how many sessions there are. A session
// that is silent stays: to open another costs both ends much more than to wait, and
// most of those that are there at all are late because a machine is busy.
func (t *sessions) lookWhoIsSilent(now time.Duration) (count int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for node, s := range t.byNode {
		silent, is := s.silentFor(now)
		if !is {
			continue
		}
		if !s.unheard.Load() {
			s.unheard.Store(true)
			t.silent[node] = silent
			t.wake()
		}
		if silent > silentMost {
			s.end(errSilent)
		}
	}
	return len(t.byNode)
}

// heard notes that s is heard again if it was silent.
func (t *sessions) heard(s *session) {
	if !s.unheard.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.unheard.Swap(false) && t.byNode[s.node] == s {
		delete(t.silent, s.node)
		t.wake()
	}
}

func (t *sessions) all() []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Values(t.byNode))
}

func (t *sessions) wake() {
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *sessions) get(node string) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byNode[node]
}

func (t *sessions) silentFor(node string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.silent[node]
}

// ids is the set of those heard as it is now, and a channel that closes when it changes.
func (t *sessions) ids() (map[string]string, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := make(map[string]string, len(t.byNode))
	for node, s := range t.byNode {
		if !s.unheard.Load() {
			ids[node] = s.id
		}
	}
	return ids, t.changed
}

func (t *sessions) podChanged(node, key string) {
	if s := t.get(node); s != nil {
		s.markPod(key)
	}
}

func (t *sessions) nodeChanged(node string) {
	if s := t.get(node); s != nil {
		s.markNode()
	}
}

func (t *sessions) reclaimsChanged(node string) {
	if s := t.get(node); s != nil {
		s.markReclaims()
	}
}

func (t *sessions) networkChanged() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.byNode {
		s.markNetwork()
	}
}

// goAway sends every agent elsewhere and takes no more of them.
func (t *sessions) goAway() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, s := range t.byNode {
		s.end(errGoAway)
	}
}

// Watch tells the leader which agents are heard here: all, then each change,
// and a heartbeat so that a hung sender is not mistaken for a quiet one.
func (d *Dispatcher) Watch(_ *clusterv1.WatchSessionsRequest, stream grpc.ServerStreamingServer[clusterv1.SessionEvent]) error {
	ticker := time.NewTicker(HeartbeatInterval)
	defer ticker.Stop()
	sent := map[string]string{}
	synced := false
	for {
		now, changed := d.sessions.ids()
		if err := d.sendChanges(stream, sent, now); err != nil {
			return err
		}
		sent = now
		if !synced {
			if err := stream.Send(&clusterv1.SessionEvent{Synced: true}); err != nil {
				return err
			}
			synced = true
		}
		select {
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		case <-changed:
		case <-ticker.C:
			if err := stream.Send(&clusterv1.SessionEvent{Heartbeat: true}); err != nil {
				return err
			}
		}
	}
}

func (d *Dispatcher) sendChanges(stream grpc.ServerStreamingServer[clusterv1.SessionEvent], sent, now map[string]string) error {
	for node, id := range now {
		if sent[node] != id {
			if err := stream.Send(&clusterv1.SessionEvent{Node: node, Session: id, Connected: true}); err != nil {
				return err
			}
		}
	}
	for node, id := range sent {
		if _, still := now[node]; !still {
			if err := stream.Send(&clusterv1.SessionEvent{Node: node, Session: id, SilentMs: d.sessions.silentFor(node).Milliseconds()}); err != nil {
				return err
			}
		}
	}
	return nil
}
