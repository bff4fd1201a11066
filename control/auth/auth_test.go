package auth

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/apiserver/pkg/authentication/user"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func person(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: groups}
}

func TestForbiddenMessageIsUpstreams(t *testing.T) {
	u := person("y")
	for _, c := range []struct {
		request Attributes
		reason  string
		want    string
	}{
		{Attributes{User: u, Verb: "get", Resource: "nodes", Name: "x"}, "", `User "y" cannot get resource "nodes" in API group "" at the cluster scope`},
		{Attributes{User: u, Verb: "create", Resource: "pods", Subresource: "exec", Namespace: "default"}, "why", `User "y" cannot create resource "pods/exec" in API group "" in the namespace "default": why`},
		{Attributes{User: u, Verb: "get", Path: "/metrics"}, "", `User "y" cannot get path "/metrics"`},
	} {
		if got := ForbiddenMessage(c.request, c.reason); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func request(t *testing.T, headers ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequest("GET", "https://muster/api", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func withCertificate(r *http.Request, notAfter time.Time, name string, organizations ...string) *http.Request {
	r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{
		Subject: pkix.Name{CommonName: name, Organization: organizations}, NotAfter: notAfter,
	}}}}
	return r
}

// Audit logs and certificate requests tell by it which certificate was used.
func TestCertificatesHaveAnIdentifier(t *testing.T) {
	r := withCertificate(request(t), time.Now().Add(time.Hour), "alice")
	r.TLS.VerifiedChains[0][0].Raw = []byte("a certificate")
	u, err := NewAuthenticator(nil).Authenticate(r)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"X509SHA256=81acd762140fa692a142822d2fbe4dc6f54bcaa501f68ab37e5aeed0bafe4d99"}
	if got := u.GetExtra()[user.CredentialIDKey]; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAuthenticateByCertificateOrToken(t *testing.T) {
	tokens := TokenTable{}
	tokens.Add("s3cret", person("root", "system:masters"))
	authenticator := NewAuthenticator(tokens)
	later := time.Now().Add(time.Hour)
	unverified := request(t)
	unverified.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Subject: pkix.Name{CommonName: "root", Organization: []string{"system:masters"}}}}}

	for _, c := range []struct {
		name    string
		request *http.Request
		user    string
		groups  []string
		err     error
	}{
		{"a certificate", withCertificate(request(t), later, "system:node:n1", "system:nodes"), "system:node:n1", []string{"system:nodes", "system:authenticated"}, nil},
		{"a token", request(t, "Authorization", "Bearer s3cret"), "root", []string{"system:masters", "system:authenticated"}, nil},
		{"a token wins over a certificate", withCertificate(request(t, "Authorization", "bearer s3cret"), later, "n1"), "root", []string{"system:masters", "system:authenticated"}, nil},
		{"a wrong token is not saved by a certificate", withCertificate(request(t, "Authorization", "Bearer wrong"), later, "n1"), "", nil, ErrBadCredentials},
		{"an empty token", request(t, "Authorization", "Bearer "), "", nil, ErrBadCredentials},
		{"basic authentication", request(t, "Authorization", "Basic cm9vdDpyb290"), "", nil, ErrBadCredentials},
		{"nothing", request(t), "", nil, ErrNoCredentials},
		{"a certificate that nobody verified", unverified, "", nil, ErrNoCredentials},
		{"an expired certificate on an old connection", withCertificate(request(t), time.Now().Add(-time.Second), "root", "system:masters"), "", nil, ErrBadCredentials},
		{"a certificate without a name", withCertificate(request(t), later, "", "system:masters"), "", nil, ErrBadCredentials},
	} {
		got, err := authenticator.Authenticate(c.request)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.err)
			continue
		}
		if err == nil && (got.GetName() != c.user || !slices.Equal(got.GetGroups(), c.groups)) {
			t.Errorf("%s: got %s %v, want %s %v", c.name, got.GetName(), got.GetGroups(), c.user, c.groups)
		}
	}
}
