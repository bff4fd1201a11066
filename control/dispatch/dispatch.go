// Package dispatch is the control plane's end of the conversation with agents.
// Every control node runs one Dispatcher. It holds the sessions of the agents
// that dialled this node, sends each the pods bound to it, stores what they say
// of their pods and node, and carries log, exec and port-forward streams. It
// also tells the leader, whichever node that is, which agents it hears.
//
// It leaves to others: what should run (controllers, scheduler), what it means
// that an agent is silent (controller/nodelifecycle), and how pods run (agent).
//
// A session starts only behind a read barrier, so that a replica that lags can
// never tell an agent to stop a pod it merely has not heard of yet.
package dispatch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"google.golang.org/grpc"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// HeartbeatInterval is how often control nodes say to one another, and agents that
// send no datagrams to them, that they live.
const HeartbeatInterval = time.Second

const (
	// silence: three such heartbeats did not come.
	silence = 3 * HeartbeatInterval
	// silentMost ends a session in which nothing is heard.
	silentMost = 10 * time.Second
)

// ErrNoSession means that no control node holds a session of the node's agent.
var ErrNoSession = errors.New("the node's agent has no session with any control node")

// Config is what a Dispatcher needs. All fields but Beats and Logger are required.
type Config struct {
	// Name of this control node.
	Name     string
	Store    *store.Store
	Registry *resource.Registry
	// Servers lists the addresses, host:port, at which agents reach control nodes.
	Servers func() []string
	// Peers lists the other control nodes by name.
	Peers func() []Peer
	// Dial gives a connection to another control node, kept for reuse.
	Dial func(ctx context.Context, name, address string) (grpc.ClientConnInterface, error)
	// Quorum says whether this control node leads or hears a leader. It must
	// answer at once, and often.
	Quorum func() bool
	// Beats is where agents' datagrams come: the UDP port of the same number as the
	// one that they have their sessions with. Nil: they send none. Run closes it.
	Beats *net.UDPConn
	// Owns says whether the machine with this key (transport.Caller.Key) is the
	// one that has the node's name, as far as this replica knows. It must answer
	// at once.
	Owns func(node string, key [sha256.Size]byte) bool
	// Tokens issues service accounts' tokens for pods.
	Tokens Tokens
	Gossip Gossip
	Logger *slog.Logger
}

// Gossip is the second opinion on who is alive.
type Gossip interface {
	Alive(node string) bool
	// Changed is closed when what Alive answers for any node may have changed.
	Changed() <-chan struct{}
}

// Peer is another control node.
type Peer struct{ Name, Address string }

// Dispatcher serves agents on one control node.
type Dispatcher struct {
	agentv1.UnimplementedAgentServer
	clusterv1.UnimplementedSessionsServer

	cfg      Config
	log      *slog.Logger
	sessions *sessions
	beats    *beats
	desired  *desired
	nodes    *store.Cache[*corev1.Node]
	routes   *routes
	streams  *streams
	contents []*contents
	reclaims *reclaims
	// opening and storing are the turns of sessions that open, and that store.
	opening, storing turns
	events           chan agentEvent // that wait to be stored
	eventsLost       atomic.Int64    // for which there was no room
}

// New makes a Dispatcher; it serves once Run runs.
func New(cfg Config) *Dispatcher {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Dispatcher{cfg: cfg, log: cfg.Logger, sessions: newSessions(), streams: newStreams(), opening: newTurns(), storing: newTurns(), events: make(chan agentEvent, eventsMost)}
	d.beats = newBeats(cfg.Beats, cfg.Quorum, d.sessions.heard)
	d.desired = newDesired(cfg.Store, d.sessions.podChanged)
	d.nodes = store.NewCache[*corev1.Node](cfg.Store, store.Nodes, nil)
	d.routes = newRoutes(d.sessions.networkChanged)
	d.contents = []*contents{newContents(cfg.Store, store.ConfigMaps, agentv1.Content_CONFIG_MAP), newContents(cfg.Store, store.Secrets, agentv1.Content_SECRET), newAnchors(cfg.Store), newServices(cfg.Store), newClaims(cfg.Store)}
	d.reclaims = newReclaims(cfg.Store, d.sessions.reclaimsChanged)
	d.nodes.OnChange(func(old, new *corev1.Node) {
		d.routes.change(old, new)
		if new != nil {
			d.sessions.nodeChanged(new.Name)
		}
	})
	return d
}

// Register adds the agents' and the peers' service to a gRPC server.
func (d *Dispatcher) Register(r grpc.ServiceRegistrar) {
	agentv1.RegisterAgentServer(r, d)
	clusterv1.RegisterSessionsServer(r, d)
}

// Run follows the local replica until ctx ends; sessions then end too.
func (d *Dispatcher) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.listen(ctx) })
	group.Go(func() error { return d.review(ctx) })
	group.Go(func() error { return d.desired.Run(ctx) })
	group.Go(func() error { return d.nodes.Run(ctx) })
	group.Go(func() error { return d.reclaims.Run(ctx) })
	group.Go(func() error { d.storeEvents(ctx); return nil })
	for _, c := range d.contents {
		group.Go(func() error { return c.Run(ctx) })
	}
	group.Go(func() error {
		<-ctx.Done()
		d.sessions.goAway()
		return nil
	})
	if err := group.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("dispatch: %w", err)
	}
	return nil
}
