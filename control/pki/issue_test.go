package pki_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/musterhq/muster/control/pki"
)

func requestFor(t *testing.T, key crypto.Signer, subject pkix.Name, hosts ...string) *x509.CertificateRequest {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject, DNSNames: hosts}, key)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

func TestIssueSaysWhatWasAskedFor(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048) // which nodes' own requests may not be for
	if err != nil {
		t.Fatal(err)
	}
	request := requestFor(t, key, pkix.Name{CommonName: "jane", Organization: []string{"team"}}, "jane.example.com")
	synctest.Test(t, func(t *testing.T) {
		a, err := pki.NewAuthority("c1uster")
		if err != nil {
			t.Fatal(err)
		}
		for lifetime, want := range map[time.Duration]time.Duration{
			time.Hour: time.Hour, 24 * time.Hour: 24*time.Hour - 5*time.Minute, 100 * 365 * 24 * time.Hour: time.Until(a.Certificate.NotAfter),
		} {
			text, err := a.Issue(request, []certificatesv1.KeyUsage{certificatesv1.UsageKeyEncipherment, certificatesv1.UsageClientAuth}, lifetime)
			if err != nil {
				t.Fatal(err)
			}
			block, rest := pem.Decode(text)
			if len(rest) > 0 {
				t.Errorf("%d bytes follow the certificate, want it alone", len(rest))
			}
			leaf, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			if err := verifies(a, leaf, "jane.example.com", x509.ExtKeyUsageClientAuth); err != nil {
				t.Error(err)
			}
			if err := verifies(a, leaf, "", x509.ExtKeyUsageServerAuth); err == nil {
				t.Error("it is good for serving, which was not asked for")
			}
			if got := time.Until(leaf.NotAfter).Round(time.Minute); got != want.Round(time.Minute) {
				t.Errorf("it is good for %v, want %v", got, want)
			}
			if leaf.Subject.CommonName != "jane" || leaf.KeyUsage != x509.KeyUsageKeyEncipherment || leaf.IsCA {
				t.Errorf("subject %v, usage %v, CA %v; want jane, key encipherment, no CA", leaf.Subject, leaf.KeyUsage, leaf.IsCA)
			}
		}
		if _, err := a.Issue(request, []certificatesv1.KeyUsage{certificatesv1.UsageCertSign}, time.Hour); err == nil {
			t.Error("a certificate that signs others was issued")
		}
	})
}

func TestNobodyBecomesAControlNodeByRequest(t *testing.T) {
	a, err := pki.NewAuthority("c1uster")
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	torn := requestFor(t, key, pkix.Name{CommonName: "jane"})
	torn.Signature[0] ^= 1
	for name, request := range map[string]*x509.CertificateRequest{
		"their organization":  requestFor(t, key, pkix.Name{CommonName: "muster:server:x", Organization: []string{"team", "muster:servers"}}),
		"their name":          requestFor(t, key, pkix.Name{CommonName: "x"}, "x", "Muster-Server"),
		"somebody else's key": torn,
	} {
		if err := a.Refuse(request); err == nil {
			t.Errorf("%s: not refused", name)
		}
		if _, err := a.Issue(request, nil, time.Hour); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
	if err := a.Refuse(requestFor(t, key, pkix.Name{CommonName: "system:node:a", Organization: []string{"system:nodes"}}, "a")); err != nil {
		t.Errorf("a node is refused: %v", err)
	}
}
