package dispatch

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/transport"
	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// aloneMax is how long a control node without a quorum keeps its agents. Longer
// than an election takes, shorter than what makes a node count as lost while
// gossip hears it.
const aloneMax = 5 * time.Second

var (
	errReplaced = errors.New("the node opened another session")
	errGoAway   = errors.New("this control node is going away")
	errSilent   = errors.New("the agent has been silent")
	errMinority = errors.New("this control node has lost the others")
	errDoubted  = errors.New("the node was called lost although its agent is heard; the agent is asked to report all anew")
)

// session is one agent's conversation with this control node. Three goroutines
// serve it: receive (the gRPC handler's), send, and report, which stores what
// the agent says.
type session struct {
	id, node string
	d        *Dispatcher
	stream   grpc.BidiStreamingServer[agentv1.FromAgent, agentv1.ToAgent]
	cancel   context.CancelCauseFunc
	// servers is what the agent was told; nil before Welcome. alone is since when
	// this control node has had no quorum; zero while it has. Only send uses them.
	servers []string
	alone   time.Time

	mu sync.Mutex
	// What is to be sent, each at most once however often it changed meanwhile:
	// bounded by the number of the node's pods.
	pods    map[string]bool
	network bool
	opens   []*agentv1.OpenStream
	stored  []*agentv1.StatusStored
	// What is to be stored, the latest for each pod.
	reports reports
	heard   time.Time

	toSend   chan struct{} // capacity 1: there is something to send
	toReport chan struct{} // capacity 1: there is something to store
	// capacity 1: the node's object changed.
	nodeMoved chan struct{}
}

// Session serves one agent until either side goes.
func (d *Dispatcher) Session(stream grpc.BidiStreamingServer[agentv1.FromAgent, agentv1.ToAgent]) error {
	caller, ok := transport.CallerFrom(stream.Context())
	if !ok || caller.Role != identity.Agent {
		return status.Error(codes.PermissionDenied, "a session needs a compute node's certificate")
	}
	node := caller.Name
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return status.Error(codes.InvalidArgument, "a session opens with hello")
	}
	registered := &corev1.Node{}
	if err := registered.Unmarshal(hello.Node); err != nil {
		return status.Errorf(codes.InvalidArgument, "hello.node: %v", err)
	}
	if registered.Name != node {
		return status.Errorf(codes.PermissionDenied, "hello.node is named %q, the certificate says %q", registered.Name, node)
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	s := &session{
		id: rand.Text(), node: node, d: d, stream: stream, cancel: cancel,
		pods: map[string]bool{}, heard: time.Now(), reports: newReports(),
		toSend: make(chan struct{}, 1), toReport: make(chan struct{}, 1), nodeMoved: make(chan struct{}, 1),
	}
	if !d.sessions.add(s) {
		return status.Error(codes.Unavailable, errGoAway.Error())
	}
	defer d.sessions.remove(s)
	log := d.log.With("node", node, "session", s.id)
	log.Info("agent connected", "version", hello.Version)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.send(ctx, registered, hello.Version) })
	group.Go(func() error { return s.report(ctx) })
	group.Go(func() error { return s.listen(ctx) })
	// Recv ends only when the handler returns or the agent goes, so it is not
	// waited for: gRPC ends the stream's context, and with it Recv, on return.
	received := make(chan error, 1)
	go func() { received <- s.receive() }()
	select {
	case err = <-received:
		cancel(err)
		_ = group.Wait()
	case <-ctx.Done():
		err = group.Wait()
	}
	if cause := context.Cause(ctx); cause != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = cause
	}
	log.Info("agent disconnected", "reason", err)
	return status.Error(codes.Unavailable, fmt.Sprint(err))
}

func (s *session) end(cause error) { s.cancel(cause) }

// listen ends the session when heartbeats stop.
func (s *session) listen(ctx context.Context) error {
	ticker := time.NewTicker(HeartbeatInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
			s.mu.Lock()
			quiet := time.Since(s.heard)
			s.mu.Unlock()
			if quiet > silence {
				return errSilent
			}
		}
	}
}

func (s *session) receive() error {
	for {
		message, err := s.stream.Recv()
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.heard = time.Now()
		changed := s.reports.take(message)
		s.mu.Unlock()
		if changed {
			signal(s.toReport)
		}
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (s *session) mark(change func()) {
	s.mu.Lock()
	change()
	s.mu.Unlock()
	signal(s.toSend)
}

func (s *session) markPod(key string) { s.mark(func() { s.pods[key] = true }) }
func (s *session) markNetwork()       { s.mark(func() { s.network = true }) }
func (s *session) markNode()          { signal(s.nodeMoved) }

func (s *session) open(request *agentv1.OpenStream) {
	s.mark(func() { s.opens = append(s.opens, request) })
}

// send greets the agent, sends it all its pods, and then what changes. Only
// this goroutine sends on the stream.
func (s *session) send(ctx context.Context, registered *corev1.Node, version string) error {
	heartbeat := time.NewTicker(HeartbeatInterval)
	defer heartbeat.Stop()
	known, err := s.greet(ctx, registered, heartbeat.C)
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); errors.Is(cause, errGoAway) {
				_ = s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_GoAway{GoAway: &agentv1.GoAway{}}})
			}
			return context.Cause(ctx)
		case <-heartbeat.C:
			if err := s.beat(); err != nil {
				return err
			}
		case <-s.nodeMoved:
			if s.doubted(ctx) {
				return errDoubted
			}
		case <-s.toSend:
			if err := s.sendChanges(known); err != nil {
				return err
			}
		}
	}
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

// beat sends a heartbeat, and the control nodes if they are others than before.
// An agent can't see that its control node is cut off from the others, who take
// the agent for silent then: after aloneMax it is sent to one of them.
func (s *session) beat() error {
	switch {
	case s.d.cfg.Quorum():
		s.alone = time.Time{}
	case s.alone.IsZero():
		s.alone = time.Now()
	case time.Since(s.alone) > aloneMax:
		_ = s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_GoAway{GoAway: &agentv1.GoAway{}}})
		return errMinority
	}
	if servers := s.d.cfg.Servers(); s.servers != nil && !slices.Equal(servers, s.servers) {
		s.servers = servers
		if err := s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_Servers{Servers: &agentv1.Servers{Servers: servers}}}); err != nil {
			return err
		}
	}
	return s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_Heartbeat{Heartbeat: &agentv1.Heartbeat{}}})
}

// sentPod remembers what the agent was told of a pod, so that a removal names
// the uid that the agent knows.
type sentPod struct {
	namespace, name, uid string
	revision             uint64
}

// greet registers the node, waits until it has its pod range and until this
// replica is as new as the log, and sends Welcome, the pods and Synced. Without
// a quorum it keeps trying, and heartbeats keep the session, so that the agent
// goes on with what it has.
func (s *session) greet(ctx context.Context, registered *corev1.Node, heartbeat <-chan time.Time) (map[string]sentPod, error) {
	type outcome struct {
		node *corev1.Node
		err  error
	}
	ready := make(chan outcome, 1)
	go func() {
		node, err := s.admit(ctx, registered)
		ready <- outcome{node, err}
	}()
	var node *corev1.Node
	for node == nil {
		select {
		case <-heartbeat:
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
		ControlNode: s.d.cfg.Name, Node: raw, Servers: s.servers,
	}}}); err != nil {
		return nil, err
	}
	s.mu.Lock()
	for _, key := range s.d.desired.keys(s.node) {
		s.pods[key] = true
	}
	s.network = true
	s.mu.Unlock()
	known := map[string]sentPod{}
	if err := s.sendChanges(known); err != nil {
		return nil, err
	}
	return known, s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_Synced{Synced: &agentv1.Synced{}}})
}

func (s *session) sendChanges(known map[string]sentPod) error {
	s.mu.Lock()
	pods, network, opens, stored := s.pods, s.network, s.opens, s.stored
	s.pods, s.network, s.opens, s.stored = map[string]bool{}, false, nil, nil
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
	if network {
		if err := s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_Network{Network: s.d.routes.to(s.node)}}); err != nil {
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
		known[key] = sentPod{meta.Namespace, meta.Name, string(meta.UID), pod.revision}
		return s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_PodPut{PodPut: &agentv1.PodPut{Pod: pod.raw}}})
	}
	if !told {
		return nil
	}
	delete(known, key)
	return s.sendRemove(before)
}

func (s *session) sendRemove(pod sentPod) error {
	return s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_PodRemove{PodRemove: &agentv1.PodRemove{
		Namespace: pod.namespace, Name: pod.name, Uid: pod.uid,
	}}})
}

// admit registers the node and returns it as stored, with its pod range, once
// this replica holds all that was committed before.
func (s *session) admit(ctx context.Context, registered *corev1.Node) (*corev1.Node, error) {
	for attempt := 0; ; attempt++ {
		err := s.d.register(ctx, registered)
		if err == nil {
			break
		}
		if permanent(err) {
			return nil, status.Errorf(codes.InvalidArgument, "register node %s: %v", registered.Name, err)
		}
		s.d.log.Warn("node not registered yet", "node", registered.Name, "error", err)
		if err := pause(ctx, attempt); err != nil {
			return nil, err
		}
	}
	for attempt := 0; ; attempt++ {
		err := s.d.desired.caughtUp(ctx)
		if err == nil {
			break
		}
		if err := pause(ctx, attempt); err != nil {
			return nil, err
		}
	}
	nodes := store.Of[*corev1.Node](s.d.cfg.Store, store.Nodes)
	for {
		node, err := nodes.Get(ctx, "", registered.Name)
		if err != nil {
			return nil, err
		}
		if node.Spec.PodCIDR != "" {
			return node, nil
		}
		// The leader's controller gives the range a moment after the node appears.
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-s.nodeMoved:
		}
	}
}

// pause waits 100 ms, doubling to 1 s.
func pause(ctx context.Context, attempt int) error {
	return sleep(ctx, min(100*time.Millisecond<<min(attempt, 4), time.Second))
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
