package control

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/control/pki"
)

// Further files of a control node's directory.
const (
	// founderFile exists from before the identity of a node that made its
	// cluster: a crash in between must not keep it from going on.
	founderFile = "founder"
	// gossipFile lists gossip addresses to start from.
	gossipFile = "gossip-seeds"
	// serverFile keeps what the node was last started with, so that a later
	// start needs the directory only.
	serverFile = "server.json"
)

// started is serverFile.
type started struct {
	Name          string   `json:"name"`
	Address       string   `json:"address"`
	Listen        string   `json:"listen,omitempty"`
	GossipAddress string   `json:"gossipAddress,omitempty"`
	TLSSANs       []string `json:"tlsSANs,omitempty"`
}

// recall fills in what cfg does not say from the last start, if there was one.
func (c *Config) recall() error {
	path := filepath.Join(c.Dir, serverFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read what the node was last started with: %w", err)
	}
	var last started
	if err := json.Unmarshal(text, &last); err != nil {
		return fmt.Errorf("%s: %w (remove the file and give --name and --address)", path, err)
	}
	for _, setting := range []struct {
		now  *string
		then string
	}{
		{&c.Name, last.Name}, {&c.Address, last.Address}, {&c.Listen, last.Listen}, {&c.GossipAddress, last.GossipAddress},
	} {
		if *setting.now == "" {
			*setting.now = setting.then
		}
	}
	if c.TLSSANs == nil {
		c.TLSSANs = last.TLSSANs
	}
	return nil
}

// remember is recall's other half; asked is cfg before defaults.
func remember(asked started, dir string) error {
	text, err := json.MarshalIndent(asked, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, serverFile)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, text) {
		return nil
	}
	return identity.WriteFile(path, text, 0o600)
}

// joinPause is between attempts to join while no control node answers.
const joinPause = 250 * time.Millisecond

// place is what a node's directory says the node is.
type place struct {
	id        *identity.Identity
	authority *pki.Authority
	// founder: this node made the cluster.
	founder bool
	// bootstrap: there is no cluster yet but in this directory. A founder whose
	// log is gone must not make one again: with the same name, keys and cluster ID
	// its log would pass for the cluster's.
	bootstrap bool
	gossip    []string
}

// openPlace reads the node's directory, or makes it what cfg asks for.
func openPlace(ctx context.Context, cfg *Config) (*place, error) {
	if err := identity.CheckName(cfg.Name); err != nil {
		return nil, fmt.Errorf("name: %w", err)
	}
	if cfg.Restore != "" {
		p, err := restorePlace(cfg)
		if err != nil {
			return nil, err
		}
		return p, p.writeAdmin(cfg)
	}
	if err := checkRestored(cfg.Dir); err != nil {
		return nil, err
	}
	p, err := loadPlace(cfg)
	switch {
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case cfg.Init:
		p, err = foundPlace(cfg)
	case len(cfg.Join) > 0:
		p, err = joinPlace(ctx, cfg)
	default:
		return nil, fmt.Errorf("%s holds no node: give --init to make a new cluster, or --join ADDRESS and --token TOKEN to join one", cfg.Dir)
	}
	if err != nil {
		return nil, err
	}
	return p, p.writeAdmin(cfg)
}

func loadPlace(cfg *Config) (*place, error) {
	id, err := identity.Load(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if id.Role != identity.Server {
		return nil, fmt.Errorf("%s holds a compute node; give the control node a directory of its own with --dir", cfg.Dir)
	}
	if id.Name != cfg.Name {
		return nil, fmt.Errorf("%s holds node %q, not %q: a node keeps its name; give the old name or an empty directory", cfg.Dir, id.Name, cfg.Name)
	}
	authority, err := pki.Load(cfg.Dir)
	if err != nil {
		// Not wrapped: that one of its files is missing must not look like a
		// directory without a node, which may be made one.
		return nil, fmt.Errorf("the cluster's keys: %v", err)
	}
	p := &place{id: id, authority: authority}
	_, err = os.Stat(filepath.Join(cfg.Dir, founderFile))
	p.founder = err == nil
	_, err = os.Stat(filepath.Join(cfg.Dir, foundedFile))
	p.bootstrap = p.founder && errors.Is(err, fs.ErrNotExist) && !slices.ContainsFunc(id.Servers(), func(address string) bool { return address != cfg.Address })
	if seeds, err := os.ReadFile(filepath.Join(cfg.Dir, gossipFile)); err == nil {
		p.gossip = strings.Fields(string(seeds))
	}
	return p, p.certify(cfg)
}

// certify renews a certificate that has expired while the node was down, or
// that lacks a host it is asked to serve as.
func (p *place) certify(cfg *Config) error {
	leaf := p.id.Certificate().Leaf
	valid := time.Now().Before(leaf.NotAfter)
	for _, host := range append([]string{addressHost(cfg.Address)}, cfg.TLSSANs...) {
		valid = valid && leaf.VerifyHostname(host) == nil
	}
	if valid {
		return nil
	}
	key, err := identity.NewKey()
	if err != nil {
		return err
	}
	certificate, err := p.authority.SignServer(cfg.Name, cfg.hosts(), key.Public())
	if err != nil {
		return err
	}
	return p.id.Install(certificate, key)
}

func foundPlace(cfg *Config) (*place, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("dir: %w", err)
	}
	random := make([]byte, 16+identity.GossipKeySize)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	authority, err := pki.NewAuthority(hex.EncodeToString(random[:16]))
	if err != nil {
		return nil, err
	}
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	certificate, err := authority.SignServer(cfg.Name, cfg.hosts(), key.Public())
	if err != nil {
		return nil, err
	}
	id, err := identity.New(identity.Params{
		Name: cfg.Name, Role: identity.Server, ClusterID: authority.ClusterID, CACert: authority.CertificatePEM(),
		GossipKey: random[16:], Servers: []string{cfg.Address}, Settings: cfg.Settings,
	}, certificate, key)
	if err != nil {
		return nil, err
	}
	if err := identity.WriteFile(filepath.Join(cfg.Dir, founderFile), []byte(authority.ClusterID+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("dir: %w", err)
	}
	if err := authority.Save(cfg.Dir); err != nil {
		return nil, err
	}
	return &place{id: id, authority: authority, founder: true, bootstrap: true}, id.Save(cfg.Dir)
}

func joinPlace(ctx context.Context, cfg *Config) (*place, error) {
	token, err := identity.ParseToken(cfg.Token)
	if err == nil {
		err = token.For(identity.Server)
	}
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("dir: %w", err)
	}
	key, err := identity.KeyFor(cfg.Dir)
	if err != nil {
		return nil, err
	}
	hosts := cfg.hosts()
	for attempt := 0; ; attempt++ {
		address := cfg.Join[attempt%len(cfg.Join)]
		try, cancel := context.WithTimeout(ctx, 10*time.Second)
		id, response, err := identity.Join(try, identity.JoinOptions{
			Address: address, Token: token, Name: cfg.Name, Role: identity.Server, Advertise: cfg.Address,
			Version: cfg.Version, DNSNames: hosts.DNSNames, IPs: hosts.IPs, Key: key,
		})
		cancel()
		if err == nil {
			authority, err := pki.FromPEM(response.CaCertificate, response.CaKey, response.ServiceAccountKey)
			if err != nil {
				return nil, fmt.Errorf("the keys that %s gave: %w", address, err)
			}
			if err := authority.Save(cfg.Dir); err != nil {
				return nil, err
			}
			if err := identity.WriteFile(filepath.Join(cfg.Dir, gossipFile), []byte(strings.Join(response.Gossip, "\n")), 0o600); err != nil {
				return nil, err
			}
			return &place{id: id, authority: authority, gossip: response.Gossip}, id.Save(cfg.Dir)
		}
		if ctx.Err() != nil || identity.Permanent(err) {
			return nil, fmt.Errorf("join through %s: %w", address, err)
		}
		cfg.Logger.Warn("not joined yet", "through", address, "error", err)
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("join through %s: %w", address, err)
		case <-time.After(joinPause):
		}
	}
}

// writeAdmin leaves an administrator's kubeconfig in the directory: who can
// read a control node's directory holds the CA's key anyway.
func (p *place) writeAdmin(cfg *Config) error {
	path := filepath.Join(cfg.Dir, adminKubeconfig)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	config, err := p.authority.AdminKubeconfig(adminConfigCluster, "https://"+cfg.Address)
	if err != nil {
		return err
	}
	return identity.WriteFile(path, config, 0o600)
}

// hosts is what the node's certificate must be good for.
func (c *Config) hosts() pki.Hosts {
	var hosts pki.Hosts
	hosts.Add(addressHost(c.Address))
	for _, san := range c.TLSSANs {
		hosts.Add(san)
	}
	return hosts
}

func addressHost(address string) string {
	host, _, _ := net.SplitHostPort(address)
	return host
}

// gossipSeeds lists where gossip finds the cluster: where it did at first, and
// every control node met since, as far as they use the same port.
func (s *Server) gossipSeeds(first []string) func() []string {
	return func() []string {
		seeds := append([]string(nil), first...)
		for _, m := range s.gossip.Members() {
			if m.Role == string(identity.Server) {
				seeds = append(seeds, m.Address)
			}
		}
		return seeds
	}
}
