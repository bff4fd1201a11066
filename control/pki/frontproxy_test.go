package pki

import (
	"bytes"
	"crypto/x509"
	"testing"
)

func TestEveryControlNodeMakesTheSameFrontProxyCA(t *testing.T) {
	a, err := NewAuthority("c1")
	if err != nil {
		t.Fatal(err)
	}
	caKey, serviceAccountKey, err := a.Keys()
	if err != nil {
		t.Fatal(err)
	}
	joined, err := FromPEM(a.CertificatePEM(), caKey, serviceAccountKey)
	if err != nil {
		t.Fatal(err)
	}
	first, err := a.FrontProxy()
	if err != nil {
		t.Fatal(err)
	}
	second, err := joined.FrontProxy()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.CertificatePEM, second.CertificatePEM) {
		t.Error("two control nodes have two CAs")
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(first.CertificatePEM)
	leaf, err := x509.ParseCertificate(second.Client.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil || leaf.Subject.CommonName != FrontProxyName {
		t.Errorf("%s by the other's CA: %v", leaf.Subject, err)
	}
	cluster := x509.NewCertPool()
	cluster.AddCert(a.Certificate)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: cluster, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("the cluster's CA vouches for a front proxy: so might any certificate of the cluster")
	}
	other, err := NewAuthority("c1")
	if err != nil {
		t.Fatal(err)
	}
	if third, err := other.FrontProxy(); err != nil || bytes.Equal(third.CertificatePEM, first.CertificatePEM) {
		t.Errorf("another cluster has the same CA (%v)", err)
	}
}
