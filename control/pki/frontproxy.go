package pki

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"
)

// FrontProxyName is the common name of what a control node shows to an
// aggregated API server, which believes who it says a request is from.
const FrontProxyName = "front-proxy-client"

// FrontProxy is a control node's identity towards aggregated API servers.
type FrontProxy struct {
	// CertificatePEM is that of the CA, which aggregated servers trust.
	CertificatePEM []byte
	Client         tls.Certificate
}

// FrontProxy makes the identity. Its CA is not the cluster's: whoever holds any
// certificate of the cluster would otherwise be one step from being believed.
// The CA's key is derived from that of the cluster's CA, and an Ed25519 signature
// is the same each time, so every control node makes the same CA and none keeps
// or hands over anything.
func (a *Authority) FrontProxy() (*FrontProxy, error) {
	secret, err := a.key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("front proxy: %w", err)
	}
	seed, err := hkdf.Key(sha256.New, secret, nil, "muster front-proxy CA", ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("front proxy: %w", err)
	}
	caKey := ed25519.NewKeyFromSeed(seed)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "muster front-proxy CA " + a.ClusterID},
		NotBefore: a.Certificate.NotBefore, NotAfter: a.Certificate.NotAfter,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, caKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("front proxy's CA: %w", err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	// As long as the CA: the key never leaves this process.
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: FrontProxyName},
		NotBefore: time.Now().Add(-backdate), NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca, public, caKey)
	if err != nil {
		return nil, fmt.Errorf("front proxy's certificate: %w", err)
	}
	return &FrontProxy{
		CertificatePEM: encodeCertificate(ca.Raw),
		Client:         tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: key},
	}, nil
}
