package control

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/consensus/wal"
	"github.com/musterhq/muster/control/admission"
	"github.com/musterhq/muster/control/audit"
	"github.com/musterhq/muster/control/oidc"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// What a cluster gets when nothing else is said.
const (
	DefaultPodCIDR      = "10.42.0.0/16"
	DefaultNodeCIDRBits = 24
	DefaultServiceCIDR  = "10.43.0.0/16"
	DefaultPort         = "6443"
	DefaultGossipPort   = "7946"
	// DefaultServiceAccountIssuer is a name, and an address only in the cluster.
	DefaultServiceAccountIssuer = "https://kubernetes.default.svc.cluster.local"
	// How long a pod stays on a lost node, and on one that is heard but not ready,
	// unless it says itself; Kubernetes waits 300 s.
	DefaultUnreachableToleration = admission.DefaultUnreachableToleration
	DefaultNotReadyToleration    = admission.DefaultNotReadyToleration
)

// Config is what a control node needs. Only Dir is always required: the name,
// the addresses and TLSSANs of the last start are kept there.
type Config struct {
	// Dir holds all that the node keeps; one process at a time may use it.
	Dir string
	// Name of the node; default the machine's.
	Name string

	// Init makes a new cluster if Dir holds no node yet.
	Init bool
	// Restore, with Init, is a file of a saved cluster that the new one is made
	// of, and RestorePassphrase what it is encrypted with. Dir must be empty.
	Restore           string
	RestorePassphrase []byte
	// Join lists control nodes, host:port, to join through if Dir holds no node
	// yet; Token is the cluster's server token.
	Join  []string
	Token string
	// Settings of the cluster that Init makes; those who join are told them.
	Settings *clusterv1.ClusterSettings

	// Address, host:port, is where others reach this node; default the address
	// of this machine that has the default route, port 6443.
	Address string
	// Listen is where it listens; default every address at Address's port.
	Listen string
	// GossipAddress, host:port, is where others reach this node's gossip; default
	// Address's host and port 7946. Port 0 picks one.
	GossipAddress string
	// GossipFast has gossip notice deaths sooner than a real network allows.
	GossipFast bool
	// TLSSANs are further names and addresses in the node's certificate.
	TLSSANs []string

	// ServiceAccounts says how their tokens are issued; the zero value will do. Give
	// all control nodes the same.
	ServiceAccounts ServiceAccounts
	// OIDC names the identity providers whose tokens admit people.
	OIDC oidc.Config

	// NotReadyToleration and UnreachableToleration are given to pods that do not
	// say themselves how long they stay on a lost node.
	NotReadyToleration, UnreachableToleration time.Duration
	// LostAfter is how long a node may be silent in every way before it counts
	// as lost; 0 for the default.
	LostAfter time.Duration

	// Raft's timers; 0 for consensus' defaults.
	Heartbeat, Election, LeaderLease time.Duration
	// RaftMultiplier makes all of them as many times as long, for machines that
	// are slow or far from each other; 0: 1.
	RaftMultiplier int

	// Disk is what raft's log is kept on; nil: the machine's own. Tests put
	// failing ones here.
	Disk wal.Disk

	// Interceptors and StreamInterceptors see every gRPC call that this node
	// serves, after it has been authorized. They are for tests, which make a node
	// misbehave on purpose.
	Interceptors       []grpc.UnaryServerInterceptor
	StreamInterceptors []grpc.StreamServerInterceptor

	// SnapshotLogBytes is by how much raft's log grows before it is replaced by a
	// snapshot; 0 for consensus' default.
	SnapshotLogBytes int64
	// Snapshots of the cluster that this node saves by itself.
	Snapshots Schedule

	// Audit says which requests this node writes down, and where; empty: none.
	Audit audit.Config

	Version string
	Logger  *slog.Logger
}

// ServiceAccounts is what a cluster's tokens say.
type ServiceAccounts struct {
	// Issuers: the first is named in new tokens, all are accepted; default
	// DefaultServiceAccountIssuer.
	Issuers []string
	// Audiences of this API, for which a token is good that names none; default
	// the issuers.
	Audiences []string
	// KeysURI is where the keys are read that verify tokens; default this node's.
	KeysURI string
	// MaxExpiration bounds how long a token is good; 0: as long as is asked for.
	MaxExpiration time.Duration
}

func (c *Config) complete() error {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Dir == "" {
		return errors.New("dir: required: the directory that holds all that this node keeps")
	}
	if c.Init && len(c.Join) > 0 {
		return errors.New("init and join: give one of them: a node makes a cluster or joins one")
	}
	if c.Restore != "" && !c.Init {
		return errors.New("restore: give --init as well: a saved cluster is restored into a new one; for a running cluster there is muster operator snapshot restore")
	}
	if err := c.Snapshots.complete(); err != nil {
		return err
	}
	if len(c.Join) > 0 && c.Token == "" {
		return errors.New("token: joining needs the cluster's server token; the first node's directory holds it as server-token")
	}
	for _, address := range c.Join {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return fmt.Errorf("join: %q is not host:port: %w", address, err)
		}
	}
	if err := c.locate(); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(c.Address)
	if err != nil {
		return fmt.Errorf("address: %q is not host:port: %w", c.Address, err)
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		return fmt.Errorf("address: %s is no address that others can reach; use listen to listen on every address", host)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("address: %q is not a port", port)
	}
	if c.Listen == "" {
		c.Listen = net.JoinHostPort("", port)
	}
	if c.GossipAddress == "" {
		c.GossipAddress = net.JoinHostPort(host, DefaultGossipPort)
	}
	if _, _, err := net.SplitHostPort(c.GossipAddress); err != nil {
		return fmt.Errorf("gossip-address: %q is not host:port: %w", c.GossipAddress, err)
	}
	if c.RaftMultiplier < 0 || c.RaftMultiplier > consensus.MultiplierMax {
		return fmt.Errorf("raft-multiplier: %d: want 1 to %d", c.RaftMultiplier, consensus.MultiplierMax)
	}
	if len(c.ServiceAccounts.Issuers) == 0 {
		c.ServiceAccounts.Issuers = []string{DefaultServiceAccountIssuer}
	}
	if c.ServiceAccounts.KeysURI == "" {
		c.ServiceAccounts.KeysURI = "https://" + c.Address + "/openid/v1/jwks"
	}
	if d := c.ServiceAccounts.MaxExpiration; d != 0 && (d < time.Hour || d > 1<<32*time.Second) {
		return fmt.Errorf("service-account-max-token-expiration: %s is not between 1h and 2^32s", d)
	}
	if c.NotReadyToleration == 0 {
		c.NotReadyToleration = DefaultNotReadyToleration
	}
	if c.UnreachableToleration == 0 {
		c.UnreachableToleration = DefaultUnreachableToleration
	}
	if c.Settings == nil {
		c.Settings = &clusterv1.ClusterSettings{}
	}
	return completeSettings(c.Settings)
}

// locate finds out what this machine is called and where it is.
func (c *Config) locate() (err error) {
	if c.Name == "" {
		if c.Name, err = os.Hostname(); err != nil {
			return fmt.Errorf("name: %w", err)
		}
	}
	if c.Address == "" {
		// No packet is sent: connecting a UDP socket only picks the route.
		conn, err := net.Dial("udp", "192.0.2.1:9")
		if err != nil {
			return fmt.Errorf("address: not given, and this machine has no default route: %w", err)
		}
		defer conn.Close()
		c.Address = net.JoinHostPort(conn.LocalAddr().(*net.UDPAddr).IP.String(), DefaultPort)
	}
	return nil
}

func completeSettings(s *clusterv1.ClusterSettings) error {
	if s.PodCidr == "" {
		s.PodCidr = DefaultPodCIDR
	}
	if s.NodeCidrBits == 0 {
		s.NodeCidrBits = DefaultNodeCIDRBits
	}
	if s.ServiceCidr == "" {
		s.ServiceCidr = DefaultServiceCIDR
	}
	pods, err := netip.ParsePrefix(s.PodCidr)
	if err != nil {
		return fmt.Errorf("pod-cidr: %w", err)
	}
	services, err := netip.ParsePrefix(s.ServiceCidr)
	if err != nil {
		return fmt.Errorf("service-cidr: %w", err)
	}
	if pods.Overlaps(services) {
		return fmt.Errorf("pod-cidr %s and service-cidr %s overlap", pods, services)
	}
	if bits := int(s.NodeCidrBits); bits <= pods.Bits() || bits > pods.Addr().BitLen()-2 {
		return fmt.Errorf("node-cidr-bits: %d must be more than pod-cidr's %d and leave each node at least 4 addresses", bits, pods.Bits())
	}
	return nil
}
