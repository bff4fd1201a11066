// Package identitytest makes throw-away clusters' identities for tests of what
// stands on package identity. The real authority is control/pki.
package identitytest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus/identity"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// Cluster is a CA and what all its nodes share.
type Cluster struct {
	ID   string
	CA   *x509.Certificate
	tb   testing.TB
	key  *ecdsa.PrivateKey
	life time.Duration
}

// New makes a cluster whose certificates live for an hour.
func New(tb testing.TB) *Cluster {
	tb.Helper()
	c := &Cluster{ID: "test-" + rand.Text()[:8], tb: tb, key: newKey(tb), life: time.Hour}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA of " + c.ID},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(10 * c.life),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &c.key.PublicKey, c.key)
	if err != nil {
		tb.Fatal(err)
	}
	if c.CA, err = x509.ParseCertificate(der); err != nil {
		tb.Fatal(err)
	}
	return c
}

// CAPEM is the CA's certificate.
func (c *Cluster) CAPEM() []byte { return encode(c.CA.Raw) }

// Token is a new token of this cluster.
func (c *Cluster) Token(role identity.Role) identity.Token {
	return identity.NewToken(role, identity.CAHash(c.CA))
}

// Server is the identity of a control node.
func (c *Cluster) Server(name string) *identity.Identity { return c.node(identity.Server, name) }

// Agent is the identity of a compute node.
func (c *Cluster) Agent(name string) *identity.Identity { return c.node(identity.Agent, name) }

// Admin is an administrator's certificate.
func (c *Cluster) Admin() tls.Certificate {
	return c.Issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: "admin", Organization: []string{identity.OrgMasters}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// Issue signs a certificate that says what template says, for a new key.
func (c *Cluster) Issue(template *x509.Certificate) tls.Certificate {
	key := newKey(c.tb)
	return tls.Certificate{Certificate: [][]byte{c.sign(template, &key.PublicKey)}, PrivateKey: key}
}

// Roots are the CA as a pool.
func (c *Cluster) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.CA)
	return pool
}

// Sign makes a node's certificate (PEM) for a key.
func (c *Cluster) Sign(role identity.Role, name string, key *ecdsa.PublicKey) []byte {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: identity.CommonName(role, name), Organization: []string{identity.OrgNodes}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if role == identity.Server {
		template.Subject.Organization = []string{identity.OrgServers}
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		template.DNSNames = []string{name, identity.ServerName, "localhost"}
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	}
	return append(encode(c.sign(template, key)), c.CAPEM()...)
}

// SignRequest makes a node's certificate (PEM) for the key in a request (PEM).
func (c *Cluster) SignRequest(csr []byte, role identity.Role, name string) []byte {
	block, _ := pem.Decode(csr)
	if block == nil {
		c.tb.Error("the certificate request is not PEM")
		return nil
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		c.tb.Error(err)
		return nil
	}
	return c.Sign(role, name, request.PublicKey.(*ecdsa.PublicKey))
}

func (c *Cluster) node(role identity.Role, name string) *identity.Identity {
	c.tb.Helper()
	key := newKey(c.tb)
	gossip := sha256.Sum256([]byte(c.ID))
	id, err := identity.New(identity.Params{
		Name: name, Role: role, ClusterID: c.ID, CACert: c.CAPEM(), GossipKey: gossip[:],
		Servers:  []string{"127.0.0.1:6443"},
		Settings: &clusterv1.ClusterSettings{PodCidr: "10.42.0.0/16", NodeCidrBits: 24, ServiceCidr: "10.43.0.0/16"},
	}, c.Sign(role, name, &key.PublicKey), key)
	if err != nil {
		c.tb.Fatal(err)
	}
	return id
}

func (c *Cluster) sign(template *x509.Certificate, key *ecdsa.PublicKey) []byte {
	c.tb.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		c.tb.Fatal(err)
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-time.Minute)
	template.NotAfter = time.Now().Add(c.life)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, c.CA, key, c.key)
	if err != nil {
		c.tb.Fatal(err)
	}
	return der
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	key, err := identity.NewKey()
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
