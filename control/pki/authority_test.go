package pki_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/control/pki"
	"go.uber.org/goleak"
	"k8s.io/client-go/tools/clientcmd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newAuthority(t testing.TB) *pki.Authority {
	t.Helper()
	a, err := pki.NewAuthority("c1uster")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func leafOf(t *testing.T, chain []byte) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(chain)
	if block == nil {
		t.Fatal("no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if ca, _ := pem.Decode(rest); ca == nil {
		t.Error("the CA's certificate does not follow the leaf")
	}
	return leaf
}

// verifies says whether a certificate is good for a use under a name.
func verifies(a *pki.Authority, leaf *x509.Certificate, name string, use x509.ExtKeyUsage) error {
	roots := x509.NewCertPool()
	roots.AddCert(a.Certificate)
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, KeyUsages: []x509.ExtKeyUsage{use}})
	return err
}

func TestSignServer(t *testing.T) {
	a := newAuthority(t)
	hosts := pki.Hosts{DNSNames: []string{"api.example.com", "*.muster.example.com"}}
	hosts.Add("10.0.0.7")
	hosts.Add("c1.example.com")
	chain, err := a.SignServer("c1", hosts, &newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf := leafOf(t, chain)
	for _, name := range []string{
		"c1", identity.ServerName, "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local", "localhost", "127.0.0.1", "::1",
		"10.0.0.7", "c1.example.com", "api.example.com", "x.muster.example.com",
	} {
		if net.ParseIP(name) != nil {
			name = "[" + name + "]"
		}
		if err := verifies(a, leaf, name, x509.ExtKeyUsageServerAuth); err != nil {
			t.Errorf("as the server %s: %v", name, err)
		}
	}
	if err := verifies(a, leaf, "", x509.ExtKeyUsageClientAuth); err != nil {
		t.Errorf("as a client: %v", err)
	}
	if role, name, ok := identity.NodeOf(leaf); !ok || role != identity.Server || name != "c1" {
		t.Errorf("it names %s %s (%v), want the control node c1", role, name, ok)
	}
	if life := time.Until(leaf.NotAfter); life < 364*24*time.Hour || life > 366*24*time.Hour {
		t.Errorf("valid for %v, want a year", life)
	}
}

func TestSignAgentIsGoodForDialingOnly(t *testing.T) {
	a := newAuthority(t)
	chain, err := a.SignAgent("n1", &newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf := leafOf(t, chain)
	if leaf.Subject.CommonName != "system:node:n1" || !slices.Equal(leaf.Subject.Organization, []string{"system:nodes"}) {
		t.Errorf("it is for %s", leaf.Subject)
	}
	if err := verifies(a, leaf, "", x509.ExtKeyUsageClientAuth); err != nil {
		t.Errorf("as a client: %v", err)
	}
	if verifies(a, leaf, "", x509.ExtKeyUsageServerAuth) == nil {
		t.Error("an agent can serve")
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses) > 0 {
		t.Errorf("it has names: %v %v", leaf.DNSNames, leaf.IPAddresses)
	}
}

func TestSignClientGivesOutNoNodes(t *testing.T) {
	a, key := newAuthority(t), newKey(t)
	for _, c := range []struct {
		user   string
		groups []string
	}{
		{"", nil},
		{"system:node:n1", nil},
		{"muster:server:c1", []string{"developers"}},
		{"jane", []string{identity.OrgServers}},
		{"jane", []string{"developers", identity.OrgNodes}},
	} {
		if _, err := a.SignClient(c.user, c.groups, time.Hour, &key.PublicKey); err == nil {
			t.Errorf("%q in %q was signed", c.user, c.groups)
		}
	}
	chain, err := a.SignClient("jane", []string{"developers"}, time.Hour, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if leaf := leafOf(t, chain); leaf.Subject.CommonName != "jane" || time.Until(leaf.NotAfter) > time.Hour {
		t.Errorf("got %s until %v", leaf.Subject, leaf.NotAfter)
	}
}

func TestNoCertificateOutlivesTheCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		time.Sleep(time.Until(a.Certificate.NotAfter) - time.Hour)
		chain, err := a.SignAgent("n1", &newKey(t).PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		if leaf := leafOf(t, chain); leaf.NotAfter.After(a.Certificate.NotAfter) {
			t.Errorf("it is valid until %v, the CA until %v", leaf.NotAfter, a.Certificate.NotAfter)
		}
	})
}

func TestTheCASignsNoOtherCA(t *testing.T) {
	a := newAuthority(t)
	if c := a.Certificate; !c.IsCA || !c.MaxPathLenZero || !strings.Contains(c.Subject.CommonName, "c1uster") {
		t.Errorf("CA %v, path length zero %v, name %s", c.IsCA, c.MaxPathLenZero, c.Subject)
	}
	if years := time.Until(a.Certificate.NotAfter).Hours() / 24 / 365; years < 9.9 || years > 10.1 {
		t.Errorf("valid for %v years, want 10", years)
	}
	one, err := a.SignAgent("n1", &newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	two, err := a.SignAgent("n1", &newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if leafOf(t, one).SerialNumber.Cmp(leafOf(t, two).SerialNumber) == 0 {
		t.Error("two certificates have one serial number")
	}
}

func TestLoadGivesBackTheAuthority(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := pki.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := got.SignAgent("n1", &newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := verifies(a, leafOf(t, chain), "", x509.ExtKeyUsageClientAuth); err != nil {
		t.Errorf("what the loaded one signs: %v", err)
	}
	if got.ClusterID != "c1uster" || !got.ServiceAccountKey.Equal(a.ServiceAccountKey) {
		t.Errorf("got %+v", got)
	}
	for _, name := range []string{"ca.key", "sa.key"} {
		if info, err := os.Stat(filepath.Join(dir, "pki", name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v (%v), want 0600", name, info.Mode(), err)
		}
	}
}

func TestLoadSaysWhatIsDamaged(t *testing.T) {
	other := t.TempDir()
	if err := newAuthority(t).Save(other); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Load(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty directory: got %v, want ErrNotExist", err)
	}
	for _, c := range []struct {
		name   string
		damage func(pki string)
		want   string
	}{
		{"no key", func(p string) { os.Remove(filepath.Join(p, "ca.key")) }, "ca.key"},
		{"empty key", func(p string) { os.WriteFile(filepath.Join(p, "ca.key"), nil, 0o600) }, "the CA's key: not PEM"},
		{"another's key", func(p string) {
			text, _ := os.ReadFile(filepath.Join(other, "pki", "ca.key"))
			os.WriteFile(filepath.Join(p, "ca.key"), text, 0o600)
		}, "does not belong"},
		{"garbage certificate", func(p string) { os.WriteFile(filepath.Join(p, "ca.crt"), []byte("x"), 0o600) }, "certificate"},
		{"no service accounts' key", func(p string) { os.Remove(filepath.Join(p, "sa.key")) }, "sa.key"},
	} {
		dir := t.TempDir()
		if err := newAuthority(t).Save(dir); err != nil {
			t.Fatal(err)
		}
		c.damage(filepath.Join(dir, "pki"))
		_, err := pki.Load(dir)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "another control node") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want one line with %q and what to do", c.name, err, c.want)
		}
	}
}

func TestAdminKubeconfigIsComplete(t *testing.T) {
	a := newAuthority(t)
	text, err := a.AdminKubeconfig("muster", "https://10.0.0.1:6443")
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(text)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://10.0.0.1:6443" || !bytes.Equal(config.CAData, a.CertificatePEM()) {
		t.Errorf("host %s", config.Host)
	}
	leaf := leafOf(t, config.CertData)
	if leaf.Subject.CommonName != "admin" || !slices.Equal(leaf.Subject.Organization, []string{"system:masters"}) {
		t.Errorf("it is for %s", leaf.Subject)
	}
	if key, err := identity.ParseKey(config.KeyData); err != nil || !key.PublicKey.Equal(leaf.PublicKey) {
		t.Errorf("the key does not belong to the certificate (%v)", err)
	}
}

func TestRenewSaysWhatTheOldCertificateSaid(t *testing.T) {
	a, key := newAuthority(t), newKey(t)
	// Whatever the request claims, only its key counts.
	request := func(cn string) []byte {
		csr, err := identity.NewRequest(key, cn, []string{"evil.example.com"}, []net.IP{net.IPv4(6, 6, 6, 6)})
		if err != nil {
			t.Fatal(err)
		}
		return csr
	}
	server, err := a.SignServer("c1", pki.Hosts{DNSNames: []string{"api.example.com"}, IPs: []net.IP{net.IPv4(10, 0, 0, 1)}}, &newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	old := leafOf(t, server)
	chain, err := a.Renew(old, request("muster:server:c2"))
	if err != nil {
		t.Fatal(err)
	}
	renewed := leafOf(t, chain)
	if renewed.Subject.String() != old.Subject.String() || !slices.Equal(renewed.DNSNames, old.DNSNames) ||
		!slices.EqualFunc(renewed.IPAddresses, old.IPAddresses, net.IP.Equal) || !key.PublicKey.Equal(renewed.PublicKey) {
		t.Errorf("got %s %v %v, want %s %v %v", renewed.Subject, renewed.DNSNames, renewed.IPAddresses, old.Subject, old.DNSNames, old.IPAddresses)
	}

	agent, err := a.SignAgent("n1", &newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if chain, err = a.Renew(leafOf(t, agent), request("muster:server:c1")); err != nil {
		t.Fatal(err)
	}
	if renewed = leafOf(t, chain); renewed.Subject.CommonName != "system:node:n1" || len(renewed.DNSNames) > 0 || verifies(a, renewed, "", x509.ExtKeyUsageServerAuth) == nil {
		t.Errorf("an agent got %s %v", renewed.Subject, renewed.DNSNames)
	}

	admin, err := a.SignClient("admin", []string{identity.OrgMasters}, time.Hour, &newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Renew(leafOf(t, admin), request("admin")); err == nil {
		t.Error("an administrator's certificate was renewed")
	}
	if _, err := newAuthority(t).Renew(old, request("x")); err == nil {
		t.Error("another cluster's certificate was renewed")
	}
}

func TestRequestsAreCheckedBeforeTheyAreSigned(t *testing.T) {
	a := newAuthority(t)
	agent, err := a.SignAgent("n1", &newKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	current := leafOf(t, agent)
	good, err := identity.NewRequest(newKey(t), "x", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(good)
	torn := bytes.Clone(block.Bytes)
	torn[len(torn)-1] ^= 1 // in the signature
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other := func(key any) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	}
	for name, request := range map[string][]byte{
		"empty":           nil,
		"not PEM":         []byte("hello"),
		"a certificate":   agent,
		"two":             append(bytes.Clone(good), good...),
		"torn signature":  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: torn}),
		"an Ed25519 key":  other(edwards),
		"another curve":   other(p384),
		"far too long":    append(bytes.Clone(good), bytes.Repeat([]byte("\n"), 20<<10)...),
		"cut in the half": good[:len(good)/2],
	} {
		if _, err := a.Renew(current, request); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	if _, err := a.Renew(current, good); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

func FuzzRequest(f *testing.F) {
	a := newAuthority(f)
	key := newKey(f)
	chain, err := a.SignAgent("n1", &key.PublicKey)
	if err != nil {
		f.Fatal(err)
	}
	block, _ := pem.Decode(chain)
	current, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		f.Fatal(err)
	}
	good, err := identity.NewRequest(key, "x", []string{"a.b"}, []net.IP{net.IPv6loopback})
	if err != nil {
		f.Fatal(err)
	}
	der, _ := pem.Decode(good)
	f.Add(der.Bytes, true)
	f.Add(good, false)
	f.Add([]byte{0x30, 0x80}, true)
	f.Fuzz(func(t *testing.T, request []byte, wrap bool) {
		if wrap { // past the PEM, where the structure is
			request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})
		}
		chain, err := a.Renew(current, request)
		if err != nil {
			return
		}
		block, _ := pem.Decode(chain)
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil || leaf.Subject.CommonName != "system:node:n1" {
			t.Errorf("signed %v (%v)", leaf, err)
		}
	})
}
