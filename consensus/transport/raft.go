package transport

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"github.com/hashicorp/raft"
	"github.com/musterhq/muster/consensus/identity"
)

// Layer is raft's share of the port. Both ends of a connection have proved to
// be control nodes of the cluster.
type Layer struct {
	*queue
	advertise advertised
	config    *tls.Config
}

var _ raft.StreamLayer = (*Layer)(nil)

// Layer gives raft's connections. advertise is the host:port at which the
// other control nodes reach this port.
func (m *Mux) Layer(advertise string) *Layer {
	config := m.id.ClientTLS(identity.ServerName)
	config.NextProtos = []string{ALPNRaft}
	config.VerifyConnection = requireServer
	return &Layer{queue: m.raft, advertise: advertised(advertise), config: config}
}

// Addr is the advertised address.
func (l *Layer) Addr() net.Addr { return l.advertise }

// Dial connects to another control node's port.
func (l *Layer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	raw, err := dialTCP(ctx, string(address))
	if err != nil {
		return nil, err
	}
	conn, err := handshake(ctx, raw, l.config)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }
