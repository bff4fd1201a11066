// Package identity is what a node is: its name and role, its key and
// certificate, and the cluster whose CA signed it. It also holds how a machine
// becomes a node: the join token, and the conversation that trades one for a
// certificate. Signing is the authority's business (control/pki), and carrying
// bytes is consensus/transport's. DESIGN.md says what is checked when.
package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// Role says what a node is for.
type Role string

const (
	Server Role = "server" // a control node
	Agent  Role = "agent"  // a compute node
)

// Organizations (O) in certificates; Kubernetes reads them as groups.
const (
	OrgServers = "muster:servers"
	OrgNodes   = "system:nodes"
	OrgMasters = "system:masters"
)

// Common names (CN) of nodes are one of these and the node's name.
const (
	serverPrefix = "muster:server:"
	nodePrefix   = "system:node:"
)

// ServerName is a DNS name in every control node's certificate and in no
// other. Peers verify it instead of an address: an agent's certificate, though
// signed by the same CA, can never pass for a control node.
const ServerName = "muster-server"

// GossipKeySize is the length of a gossip key in bytes.
const GossipKeySize = 32

// Identity is shared by everything in the process and safe for concurrent use.
// The fields do not change; the certificate and the servers do, behind methods.
type Identity struct {
	Name      string
	Role      Role
	ClusterID string
	CACert    []byte // PEM, one certificate
	GossipKey []byte
	Settings  *clusterv1.ClusterSettings

	ca          *x509.Certificate
	roots       *x509.CertPool
	certificate atomic.Pointer[tls.Certificate]

	mu      sync.Mutex // guards what follows, and writing to dir
	dir     string     // where it was loaded from or saved to last; empty before
	servers []string
}

// Params are the parts of an Identity beside its certificate.
type Params struct {
	Name      string
	Role      Role
	ClusterID string
	CACert    []byte // PEM
	GossipKey []byte
	Servers   []string // host:port of the control nodes
	Settings  *clusterv1.ClusterSettings
}

// New checks that the parts fit each other: the certificate (PEM, leaf first)
// belongs to key, is signed by the CA, and names this node in this role. It
// does not look at the clock.
func New(p Params, certificate []byte, key *ecdsa.PrivateKey) (*Identity, error) {
	if err := CheckName(p.Name); err != nil {
		return nil, err
	}
	if p.Role != Server && p.Role != Agent {
		return nil, fmt.Errorf("role %q is neither %q nor %q", p.Role, Server, Agent)
	}
	if p.ClusterID == "" {
		return nil, errors.New("the cluster ID is missing")
	}
	if len(p.GossipKey) != GossipKeySize {
		return nil, fmt.Errorf("the gossip key has %d bytes, not %d", len(p.GossipKey), GossipKeySize)
	}
	ca, err := parseCA(p.CACert)
	if err != nil {
		return nil, err
	}
	id := &Identity{
		Name: p.Name, Role: p.Role, ClusterID: p.ClusterID,
		CACert: p.CACert, GossipKey: p.GossipKey, Settings: p.Settings,
		ca: ca, roots: x509.NewCertPool(), servers: slices.Clone(p.Servers),
	}
	id.roots.AddCert(ca)
	checked, err := id.check(certificate, key)
	if err != nil {
		return nil, err
	}
	id.certificate.Store(checked)
	return id, nil
}

// Certificate is the current one, with its key, its Leaf parsed and the CA's
// certificate behind the leaf.
func (id *Identity) Certificate() *tls.Certificate { return id.certificate.Load() }

// CA is the cluster's CA certificate.
func (id *Identity) CA() *x509.Certificate { return id.ca }

// Servers lists the control nodes this node knew last, host:port.
func (id *Identity) Servers() []string {
	id.mu.Lock()
	defer id.mu.Unlock()
	return slices.Clone(id.servers)
}

// SetServers remembers the control nodes, on disk too once the identity has
// been saved, so that the node finds them after a restart.
func (id *Identity) SetServers(servers []string) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	if slices.Equal(id.servers, servers) {
		return nil
	}
	id.servers = slices.Clone(servers)
	if id.dir == "" {
		return nil
	}
	return id.writeDescription(id.dir)
}

// CommonName is the certificate subject's CN of a node.
func CommonName(role Role, name string) string {
	if role == Server {
		return serverPrefix + name
	}
	return nodePrefix + name
}

// NodeOf reads back which node a certificate names. ok is false for any other
// certificate, an administrator's for instance. It proves nothing: the
// caller has verified the certificate.
func NodeOf(cert *x509.Certificate) (role Role, name string, ok bool) {
	for _, kind := range []struct {
		role        Role
		org, prefix string
	}{{Server, OrgServers, serverPrefix}, {Agent, OrgNodes, nodePrefix}} {
		cn := cert.Subject.CommonName
		if !slices.Contains(cert.Subject.Organization, kind.org) || len(cn) <= len(kind.prefix) {
			continue
		}
		if cn[:len(kind.prefix)] == kind.prefix {
			return kind.role, cn[len(kind.prefix):], true
		}
	}
	return "", "", false
}

// CAHash is what a token carries: the SHA-256 of the CA certificate's DER.
func CAHash(ca *x509.Certificate) [sha256.Size]byte { return sha256.Sum256(ca.Raw) }

// check makes a certificate ready for use by this node, or says why it cannot be.
func (id *Identity) check(certificate []byte, key *ecdsa.PrivateKey) (*tls.Certificate, error) {
	chain, err := parseCertificates(certificate)
	if err != nil {
		return nil, fmt.Errorf("the node's certificate: %w", err)
	}
	leaf := chain[0]
	if key == nil || !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("the node's certificate belongs to another key")
	}
	if err := leaf.CheckSignatureFrom(id.ca); err != nil {
		return nil, fmt.Errorf("the node's certificate is not signed by the cluster's CA: %w", err)
	}
	role, name, ok := NodeOf(leaf)
	if !ok || role != id.Role || name != id.Name {
		return nil, fmt.Errorf("the node's certificate is for %q, not for %q", leaf.Subject.CommonName, CommonName(id.Role, id.Name))
	}
	if id.Role == Server && !slices.Contains(leaf.DNSNames, ServerName) {
		return nil, fmt.Errorf("the node's certificate lacks the name %q that peers look for", ServerName)
	}
	// The CA's certificate goes along: who joins compares its hash with the token.
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, id.ca.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

func parseCA(text []byte) (*x509.Certificate, error) {
	certs, err := parseCertificates(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the CA's certificate: %w", err)
	case len(certs) != 1:
		return nil, fmt.Errorf("the CA's certificate: %d certificates where there should be one", len(certs))
	case !certs[0].IsCA:
		return nil, errors.New("the CA's certificate is not one of a CA")
	}
	return certs[0], nil
}

func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := text; len(bytes.TrimSpace(rest)) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("not PEM")
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s where there should be a certificate", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("empty")
	}
	return certs, nil
}
