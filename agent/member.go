package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/musterhq/muster/consensus/gossip"
	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/transport"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// MemberConfig is what a machine needs to be a compute node of a cluster.
type MemberConfig struct {
	// Config of the agent; Dial and Servers are set here.
	Config
	// Join lists control nodes, host:port, to join through if Dir holds no node
	// yet; Token is the cluster's agent token.
	Join  []string
	Token string
	// GossipAddress, host:port, is where others reach this node's gossip. Its
	// host defaults to NodeIP; port 0 picks one.
	GossipAddress string
	// GossipFast: see gossip.Config.Fast.
	GossipFast bool
}

// joinPause is between attempts to join while no control node answers.
const joinPause = 500 * time.Millisecond

// seedsFile of the node's directory lists gossip addresses to start from.
const seedsFile = "gossip-seeds"

// Member is an agent together with what makes its machine a part of the
// cluster: an identity, kept current, and gossip.
type Member struct {
	agent  *Agent
	id     *identity.Identity
	gossip *gossip.Gossip
	seeds  string // path of seedsFile
	log    *slog.Logger
}

// NewMember joins the cluster unless Dir already holds a node, trying until ctx
// ends as long as trying may help. Run must be called afterwards.
func NewMember(ctx context.Context, cfg MemberConfig) (*Member, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := cfg.locate(); err != nil {
		return nil, err
	}
	id, seeds, err := cfg.identity(ctx)
	if err != nil {
		return nil, err
	}
	cfg.Servers = id.Servers()
	cfg.Dial = func(_ context.Context, address string) (*grpc.ClientConn, error) {
		return transport.DialGRPC(address, id, transport.WithSession())
	}
	a, err := New(cfg.Config)
	if err != nil {
		return nil, err
	}
	g, err := gossip.New(gossip.Config{
		Name: cfg.Name, Role: string(identity.Agent), ClusterID: id.ClusterID, Key: id.GossipKey,
		BindAddr: cfg.GossipAddress, AdvertiseAddr: cfg.GossipAddress,
		Version: cfg.Version, Seeds: func() []string { return seeds }, Fast: cfg.GossipFast,
		Received: a.fence.Receive, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	a.fence.Through(g.Addr(), g.Send, func(name string) (string, bool) {
		m, known := g.Member(name)
		return m.Address, known
	})
	return &Member{agent: a, id: id, gossip: g, seeds: filepath.Join(cfg.Dir, seedsFile), log: cfg.Logger}, nil
}

// locate settles what this machine is called and where others find it.
func (c *MemberConfig) locate() error {
	host, port, err := net.SplitHostPort(c.GossipAddress)
	if err != nil {
		return fmt.Errorf("gossip-address: %q is not host:port: %w", c.GossipAddress, err)
	}
	if c.Dir == "" {
		return errors.New("dir: required: the directory that holds all that this node keeps")
	}
	if c.Name == "" {
		if id, err := identity.Load(c.Dir); err == nil {
			c.Name = id.Name
		} else if c.Name, err = os.Hostname(); err != nil {
			return fmt.Errorf("name: %w", err)
		}
	}
	if c.NodeIP == "" {
		towards := "192.0.2.1:9" // somewhere: the default route
		if len(c.Join) > 0 {
			towards = c.Join[0]
		}
		// No packet is sent: connecting a UDP socket only picks the route.
		conn, err := net.Dial("udp", towards)
		if err != nil {
			return fmt.Errorf("node-ip: not given, and this machine has no route to %s: %w", towards, err)
		}
		defer conn.Close()
		c.NodeIP = conn.LocalAddr().(*net.UDPAddr).IP.String()
	}
	if host == "" {
		host = c.NodeIP
	}
	c.GossipAddress = net.JoinHostPort(host, port)
	return identity.CheckName(c.Name)
}

// identity loads or gets one, and says where gossip starts.
func (c *MemberConfig) identity(ctx context.Context) (*identity.Identity, []string, error) {
	seedsPath := filepath.Join(c.Dir, seedsFile)
	id, err := identity.Load(c.Dir)
	if err == nil {
		if id.Role != identity.Agent {
			return nil, nil, fmt.Errorf("%s holds a control node; give the agent a directory of its own with --dir", c.Dir)
		}
		if id.Name != c.Name {
			return nil, nil, fmt.Errorf("%s holds node %q, not %q: a node keeps its name; give the old name or an empty directory", c.Dir, id.Name, c.Name)
		}
		seeds, err := os.ReadFile(seedsPath)
		if err != nil {
			return nil, nil, err
		}
		return id, strings.Fields(string(seeds)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	if len(c.Join) == 0 {
		return nil, nil, fmt.Errorf("%s holds no node: give --join ADDRESS and --token TOKEN to join a cluster", c.Dir)
	}
	id, response, err := c.join(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := identity.WriteFile(seedsPath, []byte(strings.Join(response.Gossip, "\n")), 0o600); err != nil {
		return nil, nil, err
	}
	return id, response.Gossip, id.Save(c.Dir)
}

func (c *MemberConfig) join(ctx context.Context) (*identity.Identity, *clusterv1.JoinResponse, error) {
	token, err := identity.ParseToken(c.Token)
	if err != nil {
		return nil, nil, fmt.Errorf("token: %w", err)
	}
	if err := token.For(identity.Agent); err != nil {
		return nil, nil, fmt.Errorf("token: %w", err)
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, nil, err
	}
	key, err := identity.KeyFor(c.Dir)
	if err != nil {
		return nil, nil, err
	}
	for attempt := 0; ; attempt++ {
		address := c.Join[attempt%len(c.Join)]
		try, cancel := context.WithTimeout(ctx, 10*time.Second)
		id, response, err := identity.Join(try, identity.JoinOptions{
			Address: address, Token: token, Name: c.Name, Role: identity.Agent,
			Advertise: c.GossipAddress, Version: c.Version, Key: key,
		})
		cancel()
		if err == nil {
			return id, response, nil
		}
		if ctx.Err() != nil || identity.Permanent(err) {
			return nil, nil, fmt.Errorf("join through %s: %w", address, err)
		}
		c.Logger.Warn("not joined yet", "through", address, "error", err)
		select {
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("join through %s: %w", address, err)
		case <-time.After(joinPause):
		}
	}
}

// Run makes the machine a node until ctx ends. Pods go on running afterwards.
func (m *Member) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.gossip.Run(ctx) })
	group.Go(func() error { return m.agent.Run(ctx) })
	group.Go(func() error { m.rememberSeeds(ctx); return nil })
	group.Go(func() error { return m.id.RunRenewal(ctx, m.log, m.renew) })
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// rememberSeeds keeps the gossip addresses of the control nodes that live, so
// that a later start finds the cluster when those it joined through are gone.
func (m *Member) rememberSeeds(ctx context.Context) {
	var kept []string
	for {
		changed := m.gossip.Changed()
		var now []string
		for _, member := range m.gossip.Members() {
			if member.Role == string(identity.Server) && member.State == gossip.Alive {
				now = append(now, member.Address)
			}
		}
		if len(now) > 0 && !slices.Equal(now, kept) {
			if err := identity.WriteFile(m.seeds, []byte(strings.Join(now, "\n")), 0o600); err != nil {
				m.log.Error("gossip addresses of control nodes not kept", "error", err)
			}
			kept = now
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// renew has any control node sign a new certificate.
func (m *Member) renew(ctx context.Context, csr []byte) ([]byte, error) {
	var errs []error
	for _, address := range m.id.Servers() {
		certificate, err := func() ([]byte, error) {
			conn, err := transport.DialGRPC(address, m.id)
			if err != nil {
				return nil, err
			}
			defer conn.Close()
			response, err := clusterv1.NewJoinClient(conn).Renew(ctx, &clusterv1.RenewRequest{CertificateRequest: csr})
			return response.GetCertificate(), err
		}()
		if err == nil {
			return certificate, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", address, err))
	}
	return nil, errors.Join(errs...)
}
