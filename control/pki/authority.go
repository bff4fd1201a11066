// Package pki is the cluster's certificate authority. Control nodes hold its
// key: they make it when the cluster is made, sign nodes' and administrators'
// certificates with it and what is asked for by CertificateSigningRequests, and
// let machines join that show a token (Service).
// What a node does with its certificate is consensus/identity's business.
package pki

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/musterhq/muster/consensus/identity"
)

const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	leafLifetime = 365 * 24 * time.Hour
	// Certificates are valid from a little earlier on, for clocks that are behind.
	backdate = 10 * time.Minute
)

// Files in a control node's directory, beside those of package identity.
const (
	caFile             = "pki/ca.crt"
	caKeyFile          = "pki/ca.key"
	serviceAccountFile = "pki/sa.key"
)

const caNamePrefix = "muster CA "

// Authority is the CA and the other key that all control nodes share. It does
// not change and is safe for concurrent use.
type Authority struct {
	ClusterID   string
	Certificate *x509.Certificate
	// ServiceAccountKey signs service accounts' tokens.
	ServiceAccountKey *ecdsa.PrivateKey

	key *ecdsa.PrivateKey
}

// NewAuthority makes the keys of a new cluster.
func NewAuthority(clusterID string) (*Authority, error) {
	if clusterID == "" {
		return nil, errors.New("make the cluster's CA: the cluster ID is empty")
	}
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	serviceAccountKey, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: caNamePrefix + clusterID},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true, // it signs no other CAs
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's CA: %w", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{ClusterID: clusterID, Certificate: certificate, ServiceAccountKey: serviceAccountKey, key: key}, nil
}

// FromPEM is the authority as a joining control node gets it: the
// certificate and the two keys, PEM.
func FromPEM(caCertificate, caKey, serviceAccountKey []byte) (*Authority, error) {
	block, rest := pem.Decode(caCertificate)
	if block == nil || block.Type != "CERTIFICATE" || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("the CA's certificate is not one certificate in PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the CA's certificate: %w", err)
	}
	clusterID, ok := strings.CutPrefix(certificate.Subject.CommonName, caNamePrefix)
	if !ok || clusterID == "" || !certificate.IsCA {
		return nil, fmt.Errorf("%q is not a muster CA's certificate", certificate.Subject)
	}
	key, err := identity.ParseKey(caKey)
	if err != nil {
		return nil, fmt.Errorf("the CA's key: %w", err)
	}
	if !key.PublicKey.Equal(certificate.PublicKey) {
		return nil, errors.New("the CA's key does not belong to its certificate")
	}
	service, err := identity.ParseKey(serviceAccountKey)
	if err != nil {
		return nil, fmt.Errorf("the service accounts' key: %w", err)
	}
	return &Authority{ClusterID: clusterID, Certificate: certificate, ServiceAccountKey: service, key: key}, nil
}

// Load reads the authority from a control node's directory. The error is
// fs.ErrNotExist when a file is missing, and says which.
func Load(dir string) (*Authority, error) {
	var files [3][]byte
	for i, name := range []string{caFile, caKeyFile, serviceAccountFile} {
		var err error
		if files[i], err = os.ReadFile(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: %w (a control node needs it: copy it from another control node)", filepath.Join(dir, name), fs.ErrNotExist)
		} else if err != nil {
			return nil, fmt.Errorf("read the cluster's CA: %w", err)
		}
	}
	a, err := FromPEM(files[0], files[1], files[2])
	if err != nil {
		return nil, fmt.Errorf("%s: %w (copy ca.crt, ca.key and sa.key from another control node)", filepath.Join(dir, "pki"), err)
	}
	return a, nil
}

// Save writes the authority to a control node's directory.
func (a *Authority) Save(dir string) error {
	caKey, serviceAccountKey, err := a.Keys()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "pki"), 0o700); err != nil {
		return err
	}
	if err := identity.WriteFile(filepath.Join(dir, caKeyFile), caKey, 0o600); err != nil {
		return err
	}
	if err := identity.WriteFile(filepath.Join(dir, serviceAccountFile), serviceAccountKey, 0o600); err != nil {
		return err
	}
	return identity.WriteFile(filepath.Join(dir, caFile), a.CertificatePEM(), 0o644)
}

// CertificatePEM is the CA's certificate.
func (a *Authority) CertificatePEM() []byte { return encodeCertificate(a.Certificate.Raw) }

// Token makes a token for this cluster. The whole of it is known only now: the
// cluster keeps its ID and SecretHash.
func (a *Authority) Token(role identity.Role) identity.Token {
	return identity.NewToken(role, identity.CAHash(a.Certificate))
}

// Keys are the CA's key and that of service accounts, in PEM.
func (a *Authority) Keys() (caKey, serviceAccountKey []byte, err error) {
	if caKey, err = identity.EncodeKey(a.key); err != nil {
		return nil, nil, err
	}
	serviceAccountKey, err = identity.EncodeKey(a.ServiceAccountKey)
	return caKey, serviceAccountKey, err
}

// SealingSecret is what the cluster's keyring is wrapped with. It is the CA's
// key, and not one more secret to hand over and to lose: who has the CA's key
// can be anybody in the cluster, and so read everything, anyway.
func (a *Authority) SealingSecret() ([]byte, error) { return a.key.Bytes() }

// SealingSecretOf is that of the cluster whose CA has this key (PEM).
func SealingSecretOf(caKey []byte) ([]byte, error) {
	key, err := identity.ParseKey(caKey)
	if err != nil {
		return nil, fmt.Errorf("the CA's key: %w", err)
	}
	return key.Bytes()
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// serial is random so that no two control nodes need to agree on a counter.
func serial() *big.Int {
	bytes := make([]byte, 16)
	rand.Read(bytes) // never fails
	bytes[0] = bytes[0]&0x7f | 0x40
	return new(big.Int).SetBytes(bytes)
}
