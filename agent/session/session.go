// Package session is an agent's conversation with the control plane: one
// outgoing gRPC stream to any control node, opened elsewhere when that one
// dies. It carries desired pods down and statuses up, and opens the streams
// that logs, exec and port-forward run over. What is done about any of it is
// the handler's business.
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/proto/agent/beat"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// Handler is told what the control plane says, from one goroutine, and must
// not block; only Stream is called from a goroutine of its own each time.
type Handler interface {
	// Node is this node as it should be registered.
	Node() *corev1.Node
	// Welcome gives the node as the cluster has it, with its podCIDR.
	Welcome(node *corev1.Node)
	Put(pod *corev1.Pod)
	Remove(uid types.UID)
	// Retain follows the pods that were put since Welcome: they are all.
	Retain(uids map[types.UID]bool)
	Network(routes []*agentv1.NodeRoute)
	// Content is a config map or secret that a pod refers to, told before the pod.
	Content(content *agentv1.Content)
	// Reclaim says that a volume's directory is to be deleted, and Reclaimed be told.
	Reclaim(volume *agentv1.ReclaimVolume)
	// Stream serves one log, exec, attach or port-forward. It ends with CloseSend
	// and with Recv failing, which then follows soon.
	Stream(ctx context.Context, request *agentv1.OpenStream, stream Frames)
}

// Frames is the agent's end of a stream. Send may be called by one goroutine at
// a time, and so may Recv.
type Frames interface {
	Send(*agentv1.Frame) error
	Recv() (*agentv1.Frame, error)
	CloseSend() error
}

// Certainty learns how certain the agent may be of the control plane. It must
// not block, and may be told by two goroutines at a time.
type Certainty interface {
	// Clock is what this agent's clock says, for the control plane to echo.
	Clock() int64
	// Heard: a control node that has a quorum is heard.
	Heard()
	// Certain: such a node, which has told all pods, had heard this agent when its
	// clock said so.
	Certain(clock int64)
}

// Config is what a Session needs.
type Config struct {
	Servers []string // host:port of control nodes to begin with
	File    string   // where later ones are kept
	Dial    func(ctx context.Context, address string) (*grpc.ClientConn, error)
	Handler Handler
	// Certainty may be nil.
	Certainty Certainty
	Version   string
	// Bare: the config maps and secrets of pods are of no use here.
	Bare bool
	// Volumes is the directory below which volumes of claims are made.
	Volumes string
	// Heartbeat is how often one is sent through the stream, where datagrams do not pass.
	// A control node that is silent for Silence, or beyond the interval that it has asked
	// for by silenceMore or one and a half intervals, whichever is the longest, is taken
	// for dead; one that does not welcome within Patience too.
	Heartbeat, Silence, Patience time.Duration // default 1 s, 2.5 s, 5 s
	Logger                       *slog.Logger
}

const (
	backOffMost = time.Second
	streamsMax  = 256              // at once; more are refused
	streamsLeft = 30 * time.Second // what open streams get when the control node goes away
	// silenceMore is what a control node may be silent beyond the interval of heartbeats
	// that it has asked for: three are sent in that time. A control node that asks for long
	// ones has many agents, and who leaves it because it is busy makes it busier: then one
	// and a half intervals count.
	silenceMore = 1500 * time.Millisecond
	// lookEvery is between two looks whether it is silent.
	lookEvery = 500 * time.Millisecond
	// streamsClose is what the control node gets to end a stream after us.
	streamsClose = 5 * time.Second
)

// Session carries on the conversation.
type Session struct {
	cfg      Config
	log      *slog.Logger
	instance string
	outbox   *outbox
	servers  *servers

	mu     sync.Mutex
	server string // with whom there is a session; "" none
	client agentv1.AgentClient
}

// ErrNoSession says that there is no control node to ask.
var ErrNoSession = errors.New("no session with a control node")

// indifferent is who has no use for certainty.
type indifferent struct{}

func (indifferent) Clock() int64  { return 0 }
func (indifferent) Heard()        {}
func (indifferent) Certain(int64) {}

var errGoAway = errors.New("the control node is going away")

func New(cfg Config) (*Session, error) {
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = time.Second
	}
	if cfg.Silence == 0 {
		cfg.Silence = 2500 * time.Millisecond
	}
	if cfg.Patience == 0 {
		cfg.Patience = 5 * time.Second
	}
	if cfg.Certainty == nil {
		cfg.Certainty = indifferent{}
	}
	list, err := loadServers(cfg.File, cfg.Servers)
	if err != nil {
		return nil, err
	}
	return &Session{cfg: cfg, log: cfg.Logger, outbox: newOutbox(), servers: list, instance: fmt.Sprintf("%016x", rand.Uint64())}, nil
}

// Server is the control node there is a session with.
func (s *Session) Server() (address string, connected bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.server, s.server != ""
}

// Token asks the control node for a token that a pod mounts.
func (s *Session) Token(ctx context.Context, request *agentv1.TokenRequest) (*agentv1.TokenResponse, error) {
	return ask(ctx, s, agentv1.AgentClient.Token, request)
}

// Certificate asks the control node for a certificate that a pod mounts.
func (s *Session) Certificate(ctx context.Context, request *agentv1.CertificateRequest) (*agentv1.CertificateResponse, error) {
	return ask(ctx, s, agentv1.AgentClient.Certificate, request)
}

func ask[Q, A any](ctx context.Context, s *Session, verb func(agentv1.AgentClient, context.Context, Q, ...grpc.CallOption) (A, error), request Q) (answer A, err error) {
	s.mu.Lock()
	client := s.client
	s.mu.Unlock()
	if client == nil {
		return answer, ErrNoSession
	}
	return verb(client, ctx, request)
}

// Run keeps a session open until ctx ends.
func (s *Session) Run(ctx context.Context) error {
	var lingering sync.WaitGroup // streams of sessions that are over
	defer lingering.Wait()
	failures := 0
	for ctx.Err() == nil {
		address := s.servers.next()
		welcomed, err := s.converse(ctx, address, &lingering)
		s.mu.Lock()
		s.server, s.client = "", nil
		s.mu.Unlock()
		if ctx.Err() != nil {
			break
		}
		if welcomed {
			failures = 0
			s.log.Info("session with the control plane lost; opening another", "server", address, "reason", err)
		} else {
			failures++
			s.log.Debug("no session with a control node", "server", address, "reason", err)
			if failures == s.servers.count() {
				s.log.Warn("no control node answers; pods go on as they are", "last", err)
			}
		}
		s.servers.failed(address)
		// The next is tried at once; only when all have failed is there a pause.
		rounds := failures / max(s.servers.count(), 1)
		if rounds == 0 {
			continue
		}
		pause := min(50*time.Millisecond<<min(rounds, 10), backOffMost)
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
	}
	return ctx.Err()
}

// converse holds one session, from dialling to its end.
func (s *Session) converse(ctx context.Context, address string, lingering *sync.WaitGroup) (welcomed bool, err error) {
	life, end := context.WithCancelCause(ctx)
	defer end(nil)
	dialling, stop := context.WithTimeout(life, s.cfg.Patience)
	conn, err := s.cfg.Dial(dialling, address)
	stop()
	if err != nil {
		return false, fmt.Errorf("dial: %w", err)
	}
	c := &conversation{
		Session: s, conn: conn, client: agentv1.NewAgentClient(conn), address: address, end: end,
		awake: beat.NewAwake(2 * lookEvery), pulse: newPulse(s.cfg.Heartbeat, time.Now()), beating: make(chan struct{}, 1),
	}
	c.streamLife, c.endStreams = context.WithCancel(ctx)
	defer func() {
		if !errors.Is(err, errGoAway) {
			c.endStreams()
		}
		lingering.Go(func() {
			// Streams end by themselves, or when the control node has gone.
			stop := time.AfterFunc(streamsLeft, c.endStreams)
			defer stop.Stop()
			c.streams.Wait()
			c.endStreams()
			_ = conn.Close()
		})
	}()
	group, together := errgroup.WithContext(life)
	c.group = group
	group.Go(func() error { return c.listen(together) })
	group.Go(func() error {
		stream, err := c.client.Session(together)
		if err != nil {
			return err
		}
		hello, err := s.hello()
		if err != nil {
			return err
		}
		if err := stream.Send(hello); err == nil { // else reading says why
			group.Go(func() error { return c.write(together, stream) })
		}
		return c.read(together, stream)
	})
	err = group.Wait()
	if cause := context.Cause(life); cause != nil && ctx.Err() == nil {
		err = cause
	}
	return c.welcomed.Load(), err
}

func (s *Session) hello() (*agentv1.FromAgent, error) {
	said := s.cfg.Handler.Node()
	s.outbox.nodeIsReady(nodeReady(&said.Status))
	node, err := said.Marshal()
	if err != nil {
		return nil, err
	}
	return &agentv1.FromAgent{Message: &agentv1.FromAgent_Hello{Hello: &agentv1.Hello{Node: node, Version: s.cfg.Version, Instance: s.instance, WithoutContents: s.cfg.Bare, Volumes: s.cfg.Volumes, Datagrams: true}}}, nil
}

// conversation is one session's state.
type conversation struct {
	*Session
	conn     *grpc.ClientConn
	client   agentv1.AgentClient
	address  string
	end      context.CancelCauseFunc
	welcomed atomic.Bool
	echoes   bool        // heartbeats of the stream tell of a quorum; only read uses it
	synced   atomic.Bool // all pods were told
	group    *errgroup.Group

	pulse     *pulse
	datagrams atomic.Pointer[datagrams] // nil: none
	beating   chan struct{}             // room for one: pulse has something new
	awake     *beat.Awake
	heard     atomic.Int64 // when something came last, by awake

	streams    sync.WaitGroup
	open       atomic.Int64
	streamLife context.Context
	endStreams context.CancelFunc
}

// hears notes that something has come: the conversation ends when nothing else
// does for too long.
func (c *conversation) hears() { c.heard.Store(int64(c.awake.Now())) }

// patience is how long nothing may come.
func (c *conversation) patience() time.Duration {
	if c.welcomed.Load() {
		apart := c.pulse.apart()
		return max(c.cfg.Silence, apart+max(silenceMore, apart+apart/2))
	}
	return c.cfg.Patience
}

// listen ends the conversation when nothing has come for too long, by a clock that
// stands still with this process: whoever did not run could not hear.
func (c *conversation) listen(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		patience := c.patience()
		left := patience - (c.awake.Tick(2*lookEvery) - time.Duration(c.heard.Load()))
		if left <= 0 {
			c.end(fmt.Errorf("nothing heard for %v", patience))
			return nil
		}
		timer.Reset(min(left, lookEvery))
	}
}

// read hears the control node out.
func (c *conversation) read(ctx context.Context, stream grpc.BidiStreamingClient[agentv1.FromAgent, agentv1.ToAgent]) error {
	handler := c.cfg.Handler
	put := map[types.UID]bool{}
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		c.hears()
		if beats := message.GetBeats(); beats != nil {
			c.begin(ctx, stream, beats)
			continue
		}
		if _, ok := message.Message.(*agentv1.ToAgent_Welcome); !ok && !c.welcomed.Load() {
			if message.GetGoAway() != nil {
				return errGoAway
			}
			if beat := message.GetHeartbeat(); beat != nil {
				c.certainty(beat)
				continue
			}
			return fmt.Errorf("%T before a welcome", message.Message)
		}
		switch m := message.Message.(type) {
		case *agentv1.ToAgent_Welcome:
			if err := c.welcome(m.Welcome); err != nil {
				return err
			}
		case *agentv1.ToAgent_PodPut:
			pod := &corev1.Pod{}
			if err := pod.Unmarshal(m.PodPut.Pod); err != nil {
				return fmt.Errorf("read a pod: %w", err)
			}
			if !c.synced.Load() {
				put[pod.UID] = true
			}
			handler.Put(pod)
			c.outbox.seen(pod)
		case *agentv1.ToAgent_PodRemove:
			delete(put, types.UID(m.PodRemove.Uid))
			handler.Remove(types.UID(m.PodRemove.Uid))
		case *agentv1.ToAgent_Synced:
			if !c.synced.Load() {
				handler.Retain(put)
			}
			put = nil
			c.synced.Store(true)
		case *agentv1.ToAgent_Heartbeat:
			c.certainty(m.Heartbeat)
		case *agentv1.ToAgent_StatusStored:
			c.outbox.stored(types.UID(m.StatusStored.Uid), m.StatusStored.Sequence)
		case *agentv1.ToAgent_Network:
			handler.Network(m.Network.Routes)
		case *agentv1.ToAgent_Content:
			handler.Content(m.Content)
		case *agentv1.ToAgent_ReclaimVolume:
			handler.Reclaim(m.ReclaimVolume)
		case *agentv1.ToAgent_OpenStream:
			c.openStream(m.OpenStream)
		case *agentv1.ToAgent_Servers:
			c.learn(m.Servers.Servers)
		case *agentv1.ToAgent_GoAway:
			c.end(errGoAway)
			return errGoAway
		}
	}
}

// certainty takes what a heartbeat of the stream tells. One from a control node of a
// version that tells nothing counts as if it had a quorum and answered the last of ours.
func (c *conversation) certainty(beat *agentv1.Heartbeat) {
	if c.synced.Load() && !c.echoes {
		c.told(c.cfg.Certainty.Clock()-c.cfg.Heartbeat.Nanoseconds(), true)
		return
	}
	c.told(beat.Clock, beat.Quorum)
}

// told takes what a control node says of itself, and the reading of our clock that
// it has heard.
func (c *conversation) told(clock int64, quorum bool) {
	if !quorum {
		return
	}
	c.cfg.Certainty.Heard()
	if c.synced.Load() && clock != 0 {
		c.cfg.Certainty.Certain(clock)
	}
}

func (c *conversation) welcome(m *agentv1.Welcome) error {
	c.echoes = m.Echoes
	node := &corev1.Node{}
	if err := node.Unmarshal(m.Node); err != nil {
		return fmt.Errorf("read the node: %w", err)
	}
	c.learn(m.Servers)
	c.mu.Lock()
	c.server = c.address
	c.Session.client = c.client
	c.mu.Unlock()
	c.servers.succeeded(c.address)
	c.outbox.begin()
	c.welcomed.Store(true)
	c.hears()
	c.log.Info("session with the control plane", "server", c.address, "control_node", m.ControlNode)
	c.cfg.Handler.Welcome(node)
	return nil
}

func (c *conversation) learn(servers []string) {
	if err := c.servers.learn(servers); err != nil {
		c.log.Warn("could not keep the list of control nodes", "err", err)
	}
}

// write says what there is to say, and that we are alive.
func (c *conversation) write(ctx context.Context, stream grpc.BidiStreamingClient[agentv1.FromAgent, agentv1.ToAgent]) error {
	due := time.NewTimer(0)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-due.C:
		case <-c.beating:
		case <-c.outbox.wake:
		}
		datagram, heartbeat, wait := c.pulse.next(time.Now())
		due.Reset(wait)
		if datagram != 0 {
			c.datagrams.Load().send(beat.Beat{Sequence: datagram, Clock: c.cfg.Certainty.Clock()})
		}
		// Presence counts before the control node can say what should run.
		if c.welcomed.Load() {
			for _, message := range c.outbox.take(time.Now()) {
				if err := stream.Send(message); err != nil {
					return nil // the reader knows why
				}
			}
		}
		if heartbeat {
			if err := stream.Send(&agentv1.FromAgent{Message: &agentv1.FromAgent_Heartbeat{Heartbeat: &agentv1.Heartbeat{Clock: c.cfg.Certainty.Clock()}}}); err != nil {
				return nil
			}
		}
	}
}

// openStream calls back for one stream.
func (c *conversation) openStream(request *agentv1.OpenStream) {
	if c.open.Add(1) > streamsMax {
		c.open.Add(-1)
		c.log.Warn("refusing a stream: too many are open", "open", streamsMax)
		return // whoever asked gives up waiting
	}
	c.streams.Go(func() {
		defer c.open.Add(-1)
		ctx, cancel := context.WithCancel(c.streamLife)
		defer cancel()
		stream, err := c.client.Stream(metadata.AppendToOutgoingContext(ctx, "muster-stream", request.Id))
		if err != nil {
			c.log.Debug("could not open a stream", "id", request.Id, "err", err)
			return
		}
		c.cfg.Handler.Stream(ctx, request, closing{stream, cancel})
	})
}

// closing is a stream that is not waited for without end once we have said all.
// Cancelling at once would throw away what is still on its way.
type closing struct {
	grpc.BidiStreamingClient[agentv1.Frame, agentv1.Frame]
	cancel context.CancelFunc
}

func (c closing) CloseSend() error {
	stop := time.AfterFunc(streamsClose, c.cancel)
	context.AfterFunc(c.Context(), func() { stop.Stop() })
	return c.BidiStreamingClient.CloseSend()
}
