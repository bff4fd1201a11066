package dispatch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// send greets the agent, sends it all its pods, and then what changes. Only
// this goroutine sends on the stream.
func (s *session) send(ctx context.Context, registered *corev1.Node, version string) error {
	if s.pulse != nil {
		if err := s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_Beats{Beats: &agentv1.Beats{
			Session: s.pulse.number, Key: s.pulse.key, IntervalMs: uint32(s.d.beats.interval.Load() / int64(time.Millisecond)),
		}}}); err != nil {
			return err
		}
	}
	known, err := s.greet(ctx, registered)
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			// An agent can't see that its control node is cut off from the others, who
			// take the agent for silent then: it is sent to one of them.
			if cause := context.Cause(ctx); errors.Is(cause, errGoAway) || errors.Is(cause, errMinority) {
				_ = s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_GoAway{GoAway: &agentv1.GoAway{}}})
			}
			return context.Cause(ctx)
		case <-s.toBeat:
			if err := s.beat(); err != nil {
				return err
			}
		case <-s.again:
			if err := s.beatAgain(); err != nil {
				return err
			}
		case <-s.serversMoved:
			if err := s.sendServers(); err != nil {
				return err
			}
		case <-s.nodeMoved:
			if s.replaced() {
				return errReplacedMachine
			}
			if err := s.doubt(ctx); err != nil {
				return err
			}
		case <-s.doubtAgain:
			if err := s.doubt(ctx); err != nil {
				return err
			}
		case <-s.toSend:
			if err := s.sendChanges(known); err != nil {
				return err
			}
		}
	}
}

// doubt ends a session whose node counts as lost, once the session has been there for
// doubtAfter. One that ended sooner might not be noticed at all, and the leader
// would call the node lost again for the time before it.
func (s *session) doubt(ctx context.Context) error {
	s.doubtAgain = nil
	if !s.doubted(ctx) {
		return nil
	}
	if left := doubtAfter - time.Since(s.began); left > 0 {
		s.doubtAgain = time.After(left)
		return nil
	}
	return errDoubted
}

// doubted says whether the node counts as lost in spite of this session. The
// leader's word that it is lost can land just after the agent's, that it is not;
// then nothing would be said again until something changes on the node. A new
// session says all of it again.
func (s *session) doubted(ctx context.Context) bool {
	node, err := store.Of[*corev1.Node](s.d.cfg.Store, store.Nodes).Get(ctx, "", s.node)
	if err != nil {
		return false
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionUnknown
		}
	}
	return false
}

// replaced says whether the node was deleted, and another machine took its name.
func (s *session) replaced() bool { return s.welcomed.Load() && !s.d.cfg.Owns(s.node, s.key) }

// beat answers a heartbeat that came through the stream. Answering wakes this
// process once for both.
func (s *session) beat() error {
	// Read before the quorum is asked for: what the agent may conclude from both
	// (package fencing) must not be newer than that.
	s.mu.Lock()
	clock := s.clock
	s.mu.Unlock()
	quorum := s.d.cfg.Quorum()
	s.again = nil
	if !quorum {
		s.again = time.After(againEvery)
	}
	return s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_Heartbeat{Heartbeat: &agentv1.Heartbeat{Clock: clock, Quorum: quorum}}})
}

// sendServers says who the control nodes are, if they are others than before.
func (s *session) sendServers() error {
	servers := s.d.cfg.Servers()
	if slices.Equal(servers, s.servers) {
		return nil
	}
	s.servers = servers
	return s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_Servers{Servers: &agentv1.Servers{Servers: servers}}})
}

// beatAgain answers the last heartbeat once more when there is a quorum again: where
// leaders come and go, each agent would else have to be lucky when it asks.
func (s *session) beatAgain() error {
	if s.d.cfg.Quorum() {
		return s.beat()
	}
	s.again = time.After(againEvery)
	return nil
}

// sentPod remembers what the agent was told of a pod, so that a removal names
// the uid that the agent knows.
type sentPod struct {
	namespace, name, uid string
	revision             uint64
	contents             []string // keys of what it refers to
}

// greet registers the node, waits until it has its pod range and until this
// replica is as new as the log, and sends Welcome, the pods and Synced. Without
// a quorum it keeps trying, and heartbeats keep the session, so that the agent
// goes on with what it has.
func (s *session) greet(ctx context.Context, registered *corev1.Node) (map[string]sentPod, error) {
	type outcome struct {
		node *corev1.Node
		err  error
	}
	ready := make(chan outcome, 1)
	go func() {
		var o outcome
		if err := s.d.opening.do(ctx, func() { o.node, o.err = s.admit(ctx, registered) }); err != nil {
			o.err = err
		}
		ready <- o
	}()
	var node *corev1.Node
	for node == nil {
		select {
		case <-s.toBeat:
			if err := s.beat(); err != nil {
				return nil, err
			}
		case o := <-ready:
			if o.err != nil {
				return nil, o.err
			}
			node = o.node
		}
	}
	raw, err := node.Marshal()
	if err != nil {
		return nil, err
	}
	s.servers = s.d.cfg.Servers()
	if err := s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_Welcome{Welcome: &agentv1.Welcome{
		ControlNode: s.d.cfg.Name, Node: raw, Servers: s.servers, Echoes: true,
	}}}); err != nil {
		return nil, err
	}
	s.welcomed.Store(true)
	s.mu.Lock()
	for _, key := range s.d.desired.keys(s.node) {
		s.pods[key] = true
	}
	s.network, s.reclaims = !s.bare, true
	s.mu.Unlock()
	known := map[string]sentPod{}
	if err := s.sendChanges(known); err != nil {
		return nil, err
	}
	return known, s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_Synced{Synced: &agentv1.Synced{}}})
}

func (s *session) sendChanges(known map[string]sentPod) error {
	s.mu.Lock()
	pods, contents, network, reclaims, opens, stored := s.pods, s.contents, s.network, s.reclaims, s.opens, s.stored
	s.pods, s.contents, s.network, s.reclaims, s.opens, s.stored = map[string]bool{}, map[string]bool{}, false, false, nil, nil
	s.mu.Unlock()
	for _, done := range stored {
		if err := s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_StatusStored{StatusStored: done}}); err != nil {
			return err
		}
	}
	for key := range pods {
		if err := s.sendPod(key, known); err != nil {
			return err
		}
	}
	for key := range contents {
		if s.referred[key] > 0 {
			if err := s.sendContent(key); err != nil {
				return err
			}
		}
	}
	if network {
		if err := s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_Network{Network: s.d.routes.to(s.node)}}); err != nil {
			return err
		}
	}
	if reclaims {
		if err := s.sendReclaims(); err != nil {
			return err
		}
	}
	for _, open := range opens {
		if err := s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_OpenStream{OpenStream: open}}); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) sendPod(key string, known map[string]sentPod) error {
	pod, exists := s.d.desired.get(s.node, key)
	before, told := known[key]
	if exists {
		if told && before.revision == pod.revision {
			return nil
		}
		var meta corev1.Pod
		if err := meta.Unmarshal(pod.raw); err != nil {
			return fmt.Errorf("pod %s: %w", key, err)
		}
		if told && before.uid != string(meta.UID) {
			if err := s.sendRemove(before); err != nil {
				return err
			}
		}
		now := sentPod{meta.Namespace, meta.Name, string(meta.UID), pod.revision, s.contentsOf(&meta)}
		known[key] = now
		if err := s.refer(now.contents); err != nil {
			return err
		}
		if err := s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_PodPut{PodPut: &agentv1.PodPut{Pod: pod.raw}}}); err != nil {
			return err
		}
		return s.release(before.contents)
	}
	if !told {
		return nil
	}
	delete(known, key)
	if err := s.sendRemove(before); err != nil {
		return err
	}
	return s.release(before.contents)
}

func (s *session) sendRemove(pod sentPod) error {
	return s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_PodRemove{PodRemove: &agentv1.PodRemove{
		Namespace: pod.namespace, Name: pod.name, Uid: pod.uid,
	}}})
}
