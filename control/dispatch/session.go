package dispatch

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/transport"
	"github.com/musterhq/muster/control/resource"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// aloneMax is how long a control node without a quorum keeps its agents. Longer
// than an election takes, shorter than what makes a node count as lost while
// gossip hears it.
const aloneMax = 5 * time.Second

// againEvery is between two looks for a quorum for an agent that was told of none.
const againEvery = 200 * time.Millisecond

// doubtAfter is how old a session is at least that is ended because its node counts as lost.
const doubtAfter = time.Second

// ownedWithin bounds how long a session waits to hear whose name the node's is.
const ownedWithin = time.Second

var (
	errReplaced        = errors.New("the node opened another session")
	errGoAway          = errors.New("this control node is going away")
	errReplacedMachine = errors.New("the name of this node belongs to another machine now; join again under another name")
	errSilent          = errors.New("the agent has been silent")
	errMinority        = errors.New("this control node has lost the others")
	errDoubted         = errors.New("the node was called lost although its agent is heard; the agent is asked to report all anew")
)

// session is one agent's conversation with this control node. Three goroutines
// serve it: receive (the gRPC handler's), send, and report, which stores what
// the agent says.
type session struct {
	id, node string
	key      [sha256.Size]byte // of the machine
	d        *Dispatcher
	stream   grpc.BidiStreamingServer[agentv1.FromAgent, agentv1.ToAgent]
	cancel   context.CancelCauseFunc
	// servers is what the agent was told; nil before Welcome. again is when to look
	// whether there is a quorum again, and doubtAgain whether the node counts as lost.
	// Only send uses them.
	servers    []string
	again      <-chan time.Time
	doubtAgain <-chan time.Time
	began      time.Time
	welcomed   atomic.Bool
	pulse      *pulse // nil: no datagrams
	// heard is when the agent was heard last, and patience how long it may be silent
	// from then on before that is worth a word; both are durations, by the clock
	// that the session was opened at.
	heard, patience atomic.Int64
	opened          time.Duration
	// unheard: it is silent. The table of sessions guards it, and writes it.
	unheard atomic.Bool
	// bare: the agent wants no contents. referred counts, by key, the pods that
	// refer to a content. Only send uses it.
	bare     bool
	referred map[string]int
	// reclaiming are the volumes that the agent was told to reclaim, by name, with
	// their uids. Only send uses it.
	reclaiming map[string]string

	mu sync.Mutex
	// What is to be sent, each at most once however often it changed meanwhile:
	// bounded by the number of the node's pods.
	pods    map[string]bool
	network bool
	// reclaims: there may be other volumes to reclaim than before.
	reclaims bool
	// Keys of contents that changed; bounded by what the node's pods refer to.
	contents map[string]bool
	opens    []*agentv1.OpenStream
	stored   []*agentv1.StatusStored
	// What is to be stored, the latest for each pod.
	reports reports
	clock   int64 // what the agent's last heartbeat said

	toSend   chan struct{} // capacity 1: there is something to send
	toReport chan struct{} // capacity 1: there is something to store
	// capacity 1: the node's object changed.
	nodeMoved chan struct{}
	// capacity 1: the agent has sent a heartbeat, which is answered.
	toBeat chan struct{}
	// capacity 1: the control nodes are others.
	serversMoved chan struct{}
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
	if hello.Volumes != "" {
		metav1.SetMetaDataAnnotation(&registered.ObjectMeta, resource.LocalVolumesAnnotation, hello.Volumes)
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	s := &session{
		id: rand.Text(), began: time.Now(), node: node, key: caller.Key(), d: d, stream: stream, cancel: cancel,
		bare: hello.WithoutContents, referred: map[string]int{}, reclaiming: map[string]string{}, contents: map[string]bool{},
		pods: map[string]bool{}, reports: newReports(),
		toSend: make(chan struct{}, 1), toReport: make(chan struct{}, 1), nodeMoved: make(chan struct{}, 1), toBeat: make(chan struct{}, 1), serversMoved: make(chan struct{}, 1),
		opened: d.beats.awake.Now(),
	}
	s.hears(s.opened, silence)
	// Before it takes the place of a session of the machine that is this node.
	if err := s.owned(ctx); err != nil {
		return err
	}
	if hello.Datagrams {
		s.pulse = d.beats.join(s)
		defer d.beats.leave(s)
	}
	if !d.sessions.add(s) {
		return status.Error(codes.Unavailable, errGoAway.Error())
	}
	defer d.sessions.remove(s)
	defer d.forget(s)
	log := d.log.With("node", node, "session", s.id)
	log.Info("agent connected", "version", hello.Version)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.send(ctx, registered, hello.Version) })
	group.Go(func() error { return s.report(ctx) })
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

// owned says that the caller is the machine that has the node's name. One that
// was replaced, after its Node was deleted, still has its certificate: if it were
// heard, two machines would run the same pods. Without a quorum nobody can say;
// admit asks again before the session is told anything.
func (s *session) owned(ctx context.Context) error {
	if s.d.cfg.Owns(s.node, s.key) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, ownedWithin)
	defer cancel()
	// This replica may not know yet that the machine has joined.
	if err := s.d.cfg.Store.ReadBarrier(ctx); err != nil || s.d.cfg.Owns(s.node, s.key) {
		return nil
	}
	return status.Error(codes.PermissionDenied, errReplacedMachine.Error())
}

// end ends the session: from now on its agent is not answered.
func (s *session) end(cause error) {
	s.d.beats.leave(s)
	s.cancel(cause)
}

// hears notes that the agent is heard, now by the clock that stands still with this
// process, and how long it may be silent then.
func (s *session) hears(now, patience time.Duration) {
	s.heard.Store(int64(now))
	s.patience.Store(int64(patience))
}

// silentFor is how long nothing was heard, and whether that is worth a word.
func (s *session) silentFor(now time.Duration) (time.Duration, bool) {
	silent := now - time.Duration(s.heard.Load())
	return silent, silent >= time.Duration(s.patience.Load())
}

func (s *session) receive() error {
	for {
		message, err := s.stream.Recv()
		if err != nil {
			return err
		}
		beat := message.GetHeartbeat()
		if beat != nil {
			s.patience.Store(int64(silence))
		}
		s.heard.Store(int64(s.d.beats.awake.Now()))
		s.d.sessions.heard(s)
		if beat != nil {
			s.mu.Lock()
			s.clock = beat.Clock
			s.mu.Unlock()
			signal(s.toBeat)
			continue
		}
		s.mu.Lock()
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

func (s *session) markPod(key string)     { s.mark(func() { s.pods[key] = true }) }
func (s *session) markContent(key string) { s.mark(func() { s.contents[key] = true }) }
func (s *session) markReclaims()          { s.mark(func() { s.reclaims = true }) }
func (s *session) markNode()              { signal(s.nodeMoved) }

// markNetwork has the routes to all other nodes sent again. Pods that are only
// pretended speak to nobody, and thousands of such nodes would be told of each
// other for minutes.
func (s *session) markNetwork() {
	if !s.bare {
		s.mark(func() { s.network = true })
	}
}

func (s *session) open(request *agentv1.OpenStream) {
	s.mark(func() { s.opens = append(s.opens, request) })
}
