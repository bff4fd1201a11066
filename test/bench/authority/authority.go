// Package authority makes certificates for servers that bring no authority of
// their own.
package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Authority issues certificates, with keys of the kind that Muster's are.
type Authority struct {
	// File is its own certificate.
	File string

	dir         string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	issued      int64
}

// Pair is the files of a certificate and its key.
type Pair struct{ Certificate, Key string }

// New makes an authority whose files go to dir.
func New(dir string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	from, until := validity()
	a := &Authority{File: filepath.Join(dir, "ca.crt"), dir: dir, key: key, issued: 1}
	a.certificate = &x509.Certificate{
		SerialNumber: big.NewInt(a.issued), Subject: pkix.Name{CommonName: "bench CA"}, NotBefore: from, NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, a.certificate, a.certificate, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return a, write(a.File, "CERTIFICATE", der)
}

func validity() (from, until time.Time) {
	return time.Now().Add(-time.Minute), time.Now().Add(7 * 24 * time.Hour)
}

// Issue makes a certificate for a server on loopback that is a client, too.
func (a *Authority) Issue(name string, subject pkix.Name) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	a.issued++
	from, until := validity()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(a.issued), Subject: subject, NotBefore: from, NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.certificate, key.Public(), a.key)
	if err != nil {
		return Pair{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, err
	}
	p := Pair{filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")}
	return p, errors.Join(write(p.Certificate, "CERTIFICATE", der), write(p.Key, "PRIVATE KEY", keyDER))
}

func write(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// Client is how a client with a certificate speaks to what the authority vouches
// for.
func (a *Authority) Client(p Pair, protocols ...string) (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(p.Certificate, p.Key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.certificate)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{certificate},
		ServerName: "127.0.0.1", NextProtos: protocols,
	}, nil
}
