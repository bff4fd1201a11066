// Package control is a control node: it opens the node's directory, joins the
// parts (consensus, state machine, API server, dispatch, operator service,
// gossip) to one another, and lists what the leader does (duties.go). The work
// is done in the parts; nothing is decided here but their order.
package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/consensus/gossip"
	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/transport"
	"github.com/musterhq/muster/control/admission"
	"github.com/musterhq/muster/control/aggregate"
	"github.com/musterhq/muster/control/apiserver"
	"github.com/musterhq/muster/control/audit"
	"github.com/musterhq/muster/control/auth"
	"github.com/musterhq/muster/control/autopilot"
	"github.com/musterhq/muster/control/bootstraptoken"
	"github.com/musterhq/muster/control/custom"
	"github.com/musterhq/muster/control/dispatch"
	"github.com/musterhq/muster/control/oidc"
	"github.com/musterhq/muster/control/operator"
	"github.com/musterhq/muster/control/pki"
	"github.com/musterhq/muster/control/reach"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/scheduler"
	"github.com/musterhq/muster/control/serviceaccount"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/keyring"
	"github.com/musterhq/muster/fsm"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// drainTimeout bounds how long requests under way may take once the node stops.
const drainTimeout = 2 * time.Second

// transferTimeout bounds how long a leader that stops tries to hand over.
const transferTimeout = time.Second

// ErrRefused ends a control node that its cluster does not let in, such as one
// that was removed; the message says why, and what to do.
var ErrRefused = consensus.ErrRefused

// Server is a control node.
type Server struct {
	cfg       Config
	id        *identity.Identity
	authority *pki.Authority
	founder   bool
	bootstrap bool

	mux             *transport.Mux
	beats           *net.UDPConn // nil if the port is taken
	connections     *connections
	machine         *fsm.Machine
	node            *consensus.Node
	store           *store.Store
	registry        *resource.Registry
	custom          *custom.Follower
	authorizer      *auth.Authorizer
	audit           *audit.Log // nil when nothing is written down
	autopilot       *autopilot.Autopilot
	gossip          *gossip.Gossip
	dispatch        *dispatch.Dispatcher
	reach           *reach.Dialer
	frontProxy      *pki.FrontProxy
	aggregate       *aggregate.Proxy
	tokens          *tokens
	serviceAccounts *serviceaccount.Tokens
	people          *oidc.Tokens
	scheduled       *scheduled
	scheduler       atomic.Pointer[scheduler.Scheduler] // while this node leads
	metrics         *prometheus.Registry                // what /metrics shows
	api             *apiserver.Server
	grpc            *grpc.Server

	ready     chan struct{}
	readyOnce sync.Once
	// stopping says so from when the node is told to stop.
	stopping atomic.Bool
}

// New opens the node's directory, making or joining a cluster if it is told to
// and the directory holds no node yet; it tries to join until ctx ends as long
// as trying may help. Run must be called afterwards, if only with a context
// that has ended, to release what New took.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.recall(); err != nil {
		return nil, err
	}
	asked := started{Name: cfg.Name, Address: cfg.Address, Listen: cfg.Listen, GossipAddress: cfg.GossipAddress, TLSSANs: cfg.TLSSANs}
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	place, err := openPlace(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	asked.Name, asked.Address = cfg.Name, cfg.Address
	if err := remember(asked, cfg.Dir); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, id: place.id, authority: place.authority, founder: place.founder, bootstrap: place.bootstrap,
		connections: newConnections(place.id),
		machine:     fsm.New(fsm.Config{Logger: cfg.Logger.With("part", "fsm")}),
		ready:       make(chan struct{}),
		metrics:     prometheus.NewRegistry(),
	}
	s.scheduled = newScheduled(s)
	if err := s.open(place); err != nil {
		s.release()
		return nil, err
	}
	return s, nil
}

// open makes the parts and joins them to one another. On an error some may be
// open: see release.
func (s *Server) open(place *place) (err error) {
	cfg := s.cfg
	if err := s.scheduled.register(s.metrics); err != nil {
		return err
	}
	if s.mux, err = transport.Listen(cfg.Listen, s.id); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	s.mux.Log = cfg.Logger
	if s.beats, err = listenForBeats(s.mux.Addr()); err != nil {
		cfg.Logger.Warn("agents' heartbeats come by TCP, which costs several times as much: the UDP port of the same number can't be opened", "error", err)
	}
	s.node, err = consensus.Open(consensus.Config{
		Name: cfg.Name, ClusterID: s.id.ClusterID, Dir: cfg.Dir, Address: cfg.Address,
		StateMachine: s.machine, Layer: s.mux.Layer(cfg.Address), Dial: s.connections.Dial,
		Bootstrap: place.bootstrap, Disk: cfg.Disk, SnapshotBytes: cfg.SnapshotLogBytes, Registerer: s.metrics,
		Version: cfg.Version, Format: fsm.Format, Seeds: s.id.Servers,
		// Nobody asks before the services are registered below.
		Admit:       func(ctx context.Context, c consensus.Candidate) error { return s.autopilot.Admit(ctx, c) },
		StableAfter: func(voters int) time.Duration { return s.autopilot.StableAfter(voters) },
		Heartbeat:   cfg.Heartbeat, Election: cfg.Election, LeaderLease: cfg.LeaderLease, Multiplier: cfg.RaftMultiplier,
		Logger: cfg.Logger.With("part", "consensus"),
	})
	if err != nil {
		return err
	}
	s.gossip, err = gossip.New(gossip.Config{
		Name: cfg.Name, Role: string(identity.Server), ClusterID: s.id.ClusterID, Key: s.id.GossipKey,
		BindAddr: cfg.GossipAddress, AdvertiseAddr: cfg.GossipAddress,
		APIAddress: cfg.Address, Version: cfg.Version,
		Seeds: s.gossipSeeds(place.gossip), Fast: cfg.GossipFast, Logger: cfg.Logger.With("part", "gossip"),
	})
	if err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	root, err := sealingRoot(s.authority.SealingSecret())
	if err != nil {
		return err
	}
	s.store = store.New(s.node, s.machine).Sealing(root)
	s.authorizer = auth.NewAuthorizer(s.store)
	s.registry = resource.New(s.store, admission.New(s.store, admission.Settings{
		NotReadyToleration: cfg.NotReadyToleration, UnreachableToleration: cfg.UnreachableToleration,
		Services: services{s}, Rights: s.authorizer,
		// Asked once requests come: the registry is made with admission.
		Kinds: func() []*resource.Kind { return s.registry.Catalog().Served() },
	}))
	s.custom, err = custom.NewFollower(custom.Config{
		Store: s.store, Registry: s.registry, Logger: cfg.Logger.With("part", "custom"),
		Dial: func(ctx context.Context, namespace, name string, port int32) (net.Conn, error) {
			return reach.New(s.store, s.dispatch).Service(ctx, namespace, name, port)
		},
	})
	if err != nil {
		return err
	}
	s.tokens = &tokens{store: s.store, authority: s.authority}
	signing := &signingKeys{store: s.store, root: root, founding: s.authority.ServiceAccountKey, now: time.Now}
	s.serviceAccounts, err = serviceaccount.New(serviceaccount.Config{
		Registry: s.registry, Keys: signing.Keys,
		Issuers: cfg.ServiceAccounts.Issuers, Audiences: cfg.ServiceAccounts.Audiences, KeysURI: cfg.ServiceAccounts.KeysURI,
		MaxSeconds: int64(cfg.ServiceAccounts.MaxExpiration / time.Second),
	})
	if err != nil {
		return err
	}
	names := &names{store: s.store, member: s.configured}
	people := cfg.OIDC
	people.Reserved, people.Logger = cfg.ServiceAccounts.Issuers, cfg.Logger.With("part", "oidc")
	if s.people, err = oidc.New(people); err != nil {
		return err
	}
	s.autopilot = autopilot.New(autopilot.Config{
		Store: s.store, Node: s.node, State: s.gossipState, Keys: names.Keys, Logger: cfg.Logger.With("part", "autopilot"),
	})
	s.dispatch = dispatch.New(dispatch.Config{
		Name: cfg.Name, Store: s.store, Registry: s.registry, Tokens: s.serviceAccounts,
		Servers: s.serverAddresses, Peers: s.peers, Dial: s.connections.Dial,
		Quorum: s.node.HasQuorum,
		Owns:   names.Owns,
		Beats:  s.beats,
		Gossip: liveness{s.gossip}, Logger: cfg.Logger.With("part", "dispatch"),
	})
	s.reach = reach.New(s.store, s.dispatch)
	if s.frontProxy, err = s.authority.FrontProxy(); err != nil {
		return err
	}
	s.aggregate = aggregate.New(aggregate.Config{
		Store: s.store, Dial: s.reach.Service, Client: s.frontProxy.Client, Logger: cfg.Logger.With("part", "aggregate"),
	})
	if cfg.Audit.Enabled() {
		cfg.Audit.Logger, cfg.Audit.Registerer = cfg.Logger.With("part", "audit"), s.metrics
		if s.audit, err = audit.Open(cfg.Audit); err != nil {
			return err
		}
	}
	s.api, err = apiserver.New(apiserver.Config{
		Audit:    s.audit,
		Registry: s.registry, Store: s.store, Authorizer: s.authorizer, Aggregate: s.aggregate,
		Tokens:          auth.Union{s.tokens, s.serviceAccounts, bootstraptoken.New(s.store), s.people},
		Audiences:       s.serviceAccounts.Audiences(),
		ServiceAccounts: s.serviceAccounts,
		Streams:         s.dispatch, Ready: s.healthy, Checks: s.checks(), Failures: failures,
		Version: kubernetesVersion(cfg.Version),
		Logger:  cfg.Logger.With("part", "apiserver"),

		Registerer: s.metrics, Gatherer: prometheus.Gatherers{s.metrics, prometheus.GathererFunc(admissionMetrics)},
	})
	if err != nil {
		return err
	}
	s.grpc = grpc.NewServer(append(transport.ServerOptions(),
		grpc.ChainUnaryInterceptor(cfg.Interceptors...), grpc.ChainStreamInterceptor(cfg.StreamInterceptors...))...)
	s.node.Register(s.grpc)
	s.dispatch.Register(s.grpc)
	operator.New(s.view, s.tokens).Register(s.grpc)
	operator.NewKV(s.store, refusals).Register(s.grpc)
	operator.NewRaft(s.view, s.node, s.autopilot, refusals).Register(s.grpc)
	operator.NewScheduler(scheduling{s}, s.view, refusals).Register(s.grpc)
	operator.NewKeyring(s.store.Keyring(), signing, refusals).Register(s.grpc)
	operator.NewSnapshot(operator.SnapshotConfig{
		Store: s.store, Cluster: s.clusterIdentity, View: s.view, Failures: refusals,
		Root:     func(caKey []byte) (keyring.Root, error) { return sealingRoot(pki.SealingSecretOf(caKey)) },
		Restored: func(ctx context.Context) error { return ensureFirstObjects(ctx, s.registry) },
		Logger:   cfg.Logger.With("part", "operator"),
	}).Register(s.grpc)
	clusterv1.RegisterJoinServer(s.grpc, pki.NewService(pki.ServiceConfig{
		Authority: s.authority, Tokens: s.tokens, Names: names,
		GossipKey: s.id.GossipKey, Settings: s.id.Settings,
		Servers: s.serverAddresses, Gossip: s.gossipAddresses, Logger: cfg.Logger.With("part", "join"),
	}))
	return nil
}

func sealingRoot(secret []byte, err error) (keyring.Root, error) {
	if err != nil {
		return keyring.Root{}, err
	}
	return keyring.NewRoot(secret)
}

// release closes what open opened before it failed: whoever opens must run to
// close, so what is open is run into a context that has ended.
func (s *Server) release() {
	ended, end := context.WithCancel(context.Background())
	end()
	if s.gossip != nil {
		_ = s.gossip.Run(ended)
	}
	if s.node != nil {
		_ = s.node.Run(ended)
	}
	if s.mux != nil {
		_ = s.mux.Run(ended)
	}
	if s.beats != nil {
		_ = s.beats.Close()
	}
	_ = s.connections.Close()
	_ = s.closeAudit()
}

func (s *Server) closeAudit() error {
	if s.audit == nil {
		return nil
	}
	return s.audit.Close()
}

// Run serves until ctx ends or the node cannot go on. What others need to see
// us leave in order is closed last: first leadership is handed on, then agents
// and clients are sent away, then the port closes.
func (s *Server) Run(ctx context.Context) error {
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var port, node errgroup.Group
	portCtx, closePort := context.WithCancel(base)
	defer closePort()
	nodeCtx, stopNode := context.WithCancel(base)
	defer stopNode()

	group, ctx := errgroup.WithContext(ctx)
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	port.Go(func() error { return failWith(fail, "port", s.mux.Run(portCtx)) })
	node.Go(func() error {
		err := s.node.Run(nodeCtx) // says itself what it is
		if err != nil {
			fail(err)
		}
		return err
	})

	web := apiserver.HTTP(s.api, quiet(s.cfg.Logger))
	web.BaseContext = func(net.Listener) context.Context { return base }
	group.Go(func() error { return ignoreClosed(web.Serve(s.mux.HTTP())) })
	group.Go(func() error { return ignoreClosed(s.grpc.Serve(s.mux.GRPC())) })
	group.Go(func() error {
		<-ctx.Done()
		s.stopping.Store(true)
		s.giveUpLeadership(base)
		s.drain(web)
		return nil
	})
	group.Go(func() error { return s.gossip.Run(ctx) })
	group.Go(func() error { return s.machine.Run(ctx) })
	group.Go(func() error { return s.custom.Run(ctx) })
	group.Go(func() error { return s.dispatch.Run(ctx) })
	group.Go(func() error { return s.aggregate.Run(ctx) })
	group.Go(func() error { return s.authorizer.Run(ctx) })
	group.Go(func() error { return s.node.WhileLeader(ctx, s.duties()...) })
	group.Go(func() error { return s.becomeMember(ctx) })
	group.Go(func() error { return s.store.WatchFormat(ctx) })
	group.Go(func() error { return s.rememberServers(ctx) })
	group.Go(func() error { return s.watchReady(ctx) })
	group.Go(func() error { return s.scheduled.Run(ctx) })
	group.Go(func() error { return s.people.Run(ctx) })
	group.Go(func() error {
		return s.id.RunRenewal(ctx, s.cfg.Logger, func(_ context.Context, request []byte) ([]byte, error) {
			return s.authority.Renew(s.id.Certificate().Leaf, request)
		})
	})
	err := group.Wait()
	cause := context.Cause(ctx)
	stopNode()
	nodeErr := node.Wait()
	if errors.Is(cause, consensus.ErrStopped) && nodeErr != nil {
		cause = nodeErr // who waits for the node hears that it has ended before it says why
	}
	closePort()
	portErr := port.Wait()
	closeErr := errors.Join(s.connections.Close(), s.closeAudit())
	if cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return errors.Join(err, nodeErr, portErr, closeErr)
}

// failWith ends everything when a part ends on its own.
func failWith(fail context.CancelCauseFunc, part string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s: %w", part, err)
		fail(err)
	}
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// giveUpLeadership comes first when a node stops: what clients ask meanwhile is
// then decided by the next leader, and nobody waits for this one's last seconds.
func (s *Server) giveUpLeadership(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, transferTimeout)
	defer cancel()
	err := s.node.TransferLeadership(ctx)
	if err != nil && !errors.Is(err, consensus.ErrNotLeader) {
		s.cfg.Logger.Info("leadership was not handed over before stopping", "reason", err)
	}
}

// drain lets requests under way finish, for a while. Watches and sessions have
// no end of their own.
func (s *Server) drain(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	var both errgroup.Group
	both.Go(func() error {
		if server.Shutdown(ctx) != nil {
			return server.Close()
		}
		return nil
	})
	both.Go(func() error {
		done := make(chan struct{})
		go func() { s.grpc.GracefulStop(); close(done) }()
		select {
		case <-done:
		case <-ctx.Done():
			s.grpc.Stop()
			<-done
		}
		return nil
	})
	_ = both.Wait()
}

// becomeMember has a node that joined made a voter, if it is not one yet.
func (s *Server) becomeMember(ctx context.Context) error {
	for _, server := range s.node.Status().Servers {
		if server.Name == s.cfg.Name && server.Voter {
			return nil
		}
	}
	if s.bootstrap {
		return nil
	}
	seeds, said := s.joinSeeds(), false
	for len(seeds) == 0 {
		if !said {
			said = true
			s.cfg.Logger.Warn("this node is no member, and knows no other control node: start another one; if there is none and the log is lost, restore a snapshot")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
		seeds = s.joinSeeds()
	}
	err := s.node.Join(ctx, seeds)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// joinSeeds are the other control nodes, as this one kept them and as gossip
// knows them: a founder that has lost its log may have kept nobody.
func (s *Server) joinSeeds() []string {
	var seeds []string
	for _, address := range s.id.Servers() {
		if address != s.cfg.Address {
			seeds = append(seeds, address)
		}
	}
	for _, m := range s.gossip.Members() {
		if m.Role == string(identity.Server) && m.Name != s.cfg.Name && m.APIAddress != "" && !slices.Contains(seeds, m.APIAddress) {
			seeds = append(seeds, m.APIAddress)
		}
	}
	return seeds
}

// rememberServers keeps the other control nodes' addresses on disk, so that
// the node finds them whatever has changed since it joined.
func (s *Server) rememberServers(ctx context.Context) error {
	ticker := time.NewTicker(5 * time.Second)
	defer ticker.Stop()
	var seeds []string
	for {
		if addresses := s.serverAddresses(); len(addresses) > 0 {
			if err := s.id.SetServers(addresses); err != nil {
				s.cfg.Logger.Error("addresses of control nodes not kept", "error", err)
			}
		}
		if now := s.gossipAddresses(); len(now) > 1 && !slices.Equal(now, seeds) {
			if err := identity.WriteFile(filepath.Join(s.cfg.Dir, gossipFile), []byte(strings.Join(now, "\n")), 0o600); err != nil {
				s.cfg.Logger.Error("gossip addresses of control nodes not kept", "error", err)
			} else {
				seeds = now
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Ready is closed once the node serves: it hears a leader and the cluster's
// first objects exist here.
func (s *Server) Ready() <-chan struct{} { return s.ready }

func (s *Server) watchReady(ctx context.Context) error {
	for s.healthy() != nil || !s.bootstrapped() {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(10 * time.Millisecond):
		}
	}
	select {
	case <-ctx.Done():
		return nil
	case <-s.custom.Synced(): // or discovery would lack kinds that there are
	}
	s.readyOnce.Do(func() { close(s.ready) })
	s.cfg.Logger.Info("control node ready", "name", s.cfg.Name, "address", s.cfg.Address)
	<-ctx.Done()
	return nil
}

// healthy is what /readyz says.
func (s *Server) healthy() error {
	status := s.node.Status()
	if !status.HasQuorum {
		return errors.New("no leader with a quorum is heard")
	}
	for _, server := range status.Servers {
		if server.Name == s.cfg.Name {
			return nil
		}
	}
	return errors.New("this node is not a member of the cluster yet")
}

func (s *Server) bootstrapped() bool {
	_, _, err := s.store.Table(store.Namespaces).GetItem("", "kube-system")
	if err != nil {
		return false
	}
	if !s.founder {
		return true
	}
	_, err = os.Stat(filepath.Join(s.cfg.Dir, foundedFile))
	return err == nil
}
