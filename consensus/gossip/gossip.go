// Package gossip knows which nodes are alive. Every node, control or compute,
// tells a few others at random what it has heard (SWIM, by
// hashicorp/memberlist), encrypted with the cluster's gossip key. It decides
// nothing: a node that gossip calls dead may only be cut off, and what follows
// from that is the node lifecycle controller's business.
package gossip

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/musterhq/muster/consensus/rhythm"
)

// KeySize is the length of a gossip key: AES-256.
const KeySize = 32

// leaveTimeout is how long Run waits, twice, for the word of its leaving to go
// out. Whoever misses it finds out as if the process had been killed.
const leaveTimeout = 500 * time.Millisecond

// Config is how a node takes part.
type Config struct {
	Name      string
	Role      string
	ClusterID string // members of another cluster are not heard
	Key       []byte // KeySize bytes, the same on all nodes
	// BindAddr is the host:port of both the UDP and the TCP socket. Port 0 picks
	// one; an empty host is every interface.
	BindAddr string
	// AdvertiseAddr is what others are told. Empty: BindAddr, or with every
	// interface the first private address of this machine. Port 0: the bound one.
	AdvertiseAddr string
	// APIAddress and Version are passed on to whoever lists the members.
	APIAddress string
	Version    string
	// Seeds gives the gossip addresses, host:port, by which the cluster is found,
	// and found again after a partition. Called often; must not block.
	Seeds func() []string
	// Fast notices a death in well under a second. For clusters within one
	// machine; on a network it takes any hiccup for a death.
	Fast bool
	// Received is called with what another member has sent (Send), from gossip's
	// own goroutine: it must not block. Nil ignores it.
	Received func(message []byte)
	Logger   *slog.Logger // nil is silent
}

// Gossip is one node's part in it.
type Gossip struct {
	config    Config
	log       *slog.Logger
	gate      *gate
	transport *transport
	list      *memberlist.Memberlist
	members   *members
	self      *self
	addr      string
}

// New opens the sockets and starts to answer others. Whoever calls it must
// call Run, with a context that has ended if need be: Run is what ends it.
func New(c Config) (*Gossip, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	gate := &gate{}
	c.Logger = slog.New(gated{c.Logger.Handler(), gate})
	if c.Name == "" {
		return nil, errors.New("the node has no name")
	}
	if len(c.Key) != KeySize {
		return nil, fmt.Errorf("the key has %d bytes, not %d", len(c.Key), KeySize)
	}
	if c.Seeds == nil {
		c.Seeds = func() []string { return nil }
	}
	self := &self{received: c.Received, about: about{Role: c.Role, API: c.APIAddress, Version: c.Version}}
	if err := self.fits(); err != nil {
		return nil, err
	}
	advertiseHost, advertisePort, err := advertised(c.AdvertiseAddr)
	if err != nil {
		return nil, err
	}
	logger := log.New(&logWriter{c.Logger}, "", 0)
	transport, err := listen(c.BindAddr, logger)
	if err != nil {
		return nil, err
	}
	if advertisePort == 0 {
		advertisePort = transport.GetAutoBindPort()
	}

	label := sha256.Sum256([]byte(c.ClusterID))
	g := &Gossip{config: c, log: c.Logger, gate: gate, transport: transport, members: newMembers(c.Name, c.Logger), self: self}
	m := timers(c.Fast)
	m.Name = c.Name
	m.Transport = transport
	m.Label = hex.EncodeToString(label[:8])
	m.SecretKey = c.Key
	m.BindPort = transport.GetAutoBindPort()
	m.AdvertiseAddr, m.AdvertisePort = advertiseHost, advertisePort
	m.Delegate = self
	m.Events = g.members
	m.EnableCompression = false // each ping would cost tables of its own, and be no shorter
	m.Conflict = g.members
	m.Logger = logger
	// A name whose node is dead may be taken over from another address at once:
	// the same node on a new machine. While it lives the newcomer is refused.
	m.DeadNodeReclaimTime = time.Millisecond
	<-rhythm.After(m.GossipInterval) // its tickers begin now
	if g.list, err = memberlist.Create(m); err != nil {
		transport.Shutdown()
		return nil, err
	}
	g.addr = g.list.LocalNode().Address()
	return g, nil
}

// Addr is the advertised address, host:port.
func (g *Gossip) Addr() string { return g.addr }

// Send sends a few hundred bytes to the member of that name at that gossip
// address, encrypted, by one UDP packet: it may be lost. The member may be one
// that gossip calls dead, or has not heard of yet.
func (g *Gossip) Send(address, name string, message []byte) error {
	return g.list.SendToAddress(memberlist.Address{Addr: address, Name: name}, message)
}

// Member is a node as this one knows it; false if it was never heard of.
func (g *Gossip) Member(name string) (Member, bool) { return g.members.get(name) }

// Members lists every node heard of, this one included, by name. Dead ones and
// those that left stay listed for a day.
func (g *Gossip) Members() []Member { return g.members.list(time.Now()) }

// Changed gives a channel that is closed at the next change of Members. Take
// the channel before the members, and no change is missed.
func (g *Gossip) Changed() <-chan struct{} { return g.members.changed() }

// Run joins the cluster through the seeds and keeps at it for as long as some
// seed is not a living member. When ctx ends it says goodbye and closes the
// sockets.
func (g *Gossip) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, g.transport.cancelDials)
	defer stop()
	defer g.gate.close()
	g.keepJoined(ctx)

	// The word that this node is leaving goes ahead of the leaving, for memberlist
	// does not tell others whether a node left or died.
	g.self.leave()
	if err := errors.Join(g.list.UpdateNode(leaveTimeout), g.list.Leave(leaveTimeout)); err != nil {
		g.log.Debug("left without a goodbye", "error", err)
	}
	return g.list.Shutdown()
}

func advertised(addr string) (host string, port int, err error) {
	if addr == "" {
		return "", 0, nil
	}
	host, port, err = splitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("advertised address: %w", err)
	}
	ip, err := net.ResolveIPAddr("ip", host)
	if err != nil {
		return "", 0, fmt.Errorf("advertised address: %w", err)
	}
	if ip.IP == nil || ip.IP.IsUnspecified() {
		return "", 0, fmt.Errorf("advertised address %q names no host", addr)
	}
	return ip.IP.String(), port, nil
}

func splitHostPort(addr string) (string, int, error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%q: the port is not a number up to 65535", addr)
	}
	return host, int(port), nil
}
