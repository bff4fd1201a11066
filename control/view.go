package control

import (
	"net"
	"net/netip"
	"time"

	"github.com/musterhq/muster/consensus/gossip"
	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/control/dispatch"
	"github.com/musterhq/muster/control/operator"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// view is what muster members and muster operator raft show.
func (s *Server) view() operator.View {
	status := s.node.Status()
	view := operator.View{
		ClusterID: s.id.ClusterID, Name: s.cfg.Name,
		Leader: status.Leader, LeaderAddress: status.LeaderAddress, HasQuorum: status.HasQuorum,
		Term: status.Term, LastIndex: status.LastIndex, AppliedIndex: status.AppliedIndex,
	}
	for _, server := range status.Servers {
		view.Servers = append(view.Servers, operator.Server{Name: server.Name, Address: server.Address, Voter: server.Voter})
	}
	for _, m := range s.gossip.Members() {
		address := m.APIAddress
		if address == "" {
			address, _, _ = net.SplitHostPort(m.Address)
		}
		view.Gossip = append(view.Gossip, operator.Member{Name: m.Name, Role: m.Role, Address: address, State: m.State, Version: m.Version})
	}
	return view
}

// clusterIdentity is what a saved cluster needs beside its state.
func (s *Server) clusterIdentity() (*clusterv1.ClusterIdentity, error) {
	caKey, serviceAccountKey, err := s.authority.Keys()
	return &clusterv1.ClusterIdentity{
		ClusterId: s.id.ClusterID, CaCertificate: s.authority.CertificatePEM(), CaKey: caKey,
		ServiceAccountKey: serviceAccountKey, GossipKey: s.id.GossipKey, Settings: s.id.Settings,
		SavedBy: s.cfg.Name, Version: s.cfg.Version, Saved: time.Now().Unix(),
	}, err
}

// gossipState is what gossip says of a node, and since when.
func (s *Server) gossipState(name string) (string, time.Time) {
	if m, known := s.gossip.Member(name); known {
		return m.State, m.Since
	}
	return "unknown", time.Time{}
}

func (s *Server) configured(name string) bool {
	for _, server := range s.node.Status().Servers {
		if server.Name == name {
			return true
		}
	}
	return false
}

// serverAddresses lists all control nodes, as configured; before there is a
// configuration, those known from joining.
func (s *Server) serverAddresses() []string {
	var addresses []string
	for _, server := range s.node.Status().Servers {
		addresses = append(addresses, server.Address)
	}
	if len(addresses) == 0 {
		return s.id.Servers()
	}
	return addresses
}

// apiServers are the control nodes that serve the API now, as far as gossip
// knows, and those whose address is a number: others can't be endpoints.
func (s *Server) apiServers() []netip.AddrPort {
	var servers []netip.AddrPort
	for _, server := range s.node.Status().Servers {
		address, err := netip.ParseAddrPort(server.Address)
		m, known := s.gossip.Member(server.Name)
		if err == nil && (server.Name == s.cfg.Name || !known || m.State == gossip.Alive) {
			servers = append(servers, address)
		}
	}
	return servers
}

func (s *Server) peers() []dispatch.Peer {
	var peers []dispatch.Peer
	for _, server := range s.node.Status().Servers {
		if server.Name != s.cfg.Name {
			peers = append(peers, dispatch.Peer{Name: server.Name, Address: server.Address})
		}
	}
	return peers
}

// gossipAddresses are where a machine that joins starts to gossip: control
// nodes, which are the ones that stay.
func (s *Server) gossipAddresses() []string {
	var addresses []string
	for _, m := range s.gossip.Members() {
		if m.Role == string(identity.Server) && m.State == gossip.Alive {
			addresses = append(addresses, m.Address)
		}
	}
	return addresses
}
