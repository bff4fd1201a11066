package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/authentication/user"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type podTable map[string]string

func (p podTable) NodeOf(namespace, name string) (string, bool) {
	node, ok := p[namespace+"/"+name]
	return node, ok
}

func person(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: groups}
}

func selector(s string) fields.Selector { return fields.ParseSelectorOrDie(s) }

func TestAuthorizeTellsNodesFromAdmins(t *testing.T) {
	pods := podTable{"default/mine": "n1", "default/theirs": "n2", "default/pending": ""}
	authorizer := NewAuthorizer(pods)
	n1 := person("system:node:n1", "system:nodes", "system:authenticated")
	admin := person("root", "system:masters")
	server := person("c1", ServersGroup)
	nobody := person("alice", "system:authenticated")

	for _, c := range []struct {
		name    string
		request Attributes
		want    bool
	}{
		{"an admin deletes a node", Attributes{User: admin, Verb: "delete", Resource: "nodes", Name: "n1"}, true},
		{"an admin reads metrics", Attributes{User: admin, Verb: "get", Path: "/metrics"}, true},
		{"a control node lists pods", Attributes{User: server, Verb: "list", Resource: "pods"}, true},
		{"no user", Attributes{Verb: "get", Resource: "pods", Name: "mine"}, false},
		{"a stranger reads discovery", Attributes{User: nobody, Verb: "get", Path: "/apis"}, true},
		{"a stranger reads OpenAPI", Attributes{User: nobody, Verb: "get", Path: "/openapi/v3/api/v1"}, true},
		{"a stranger reads metrics", Attributes{User: nobody, Verb: "get", Path: "/metrics"}, false},
		{"a path that only begins like discovery", Attributes{User: nobody, Verb: "get", Path: "/apisecret"}, false},
		{"a stranger lists pods", Attributes{User: nobody, Verb: "list", Resource: "pods"}, false},

		{"its own node", Attributes{User: n1, Verb: "get", Resource: "nodes", Name: "n1"}, true},
		{"another node", Attributes{User: n1, Verb: "get", Resource: "nodes", Name: "n2"}, false},
		{"all nodes", Attributes{User: n1, Verb: "list", Resource: "nodes"}, false},
		{"watches itself", Attributes{User: n1, Verb: "watch", Resource: "nodes", Name: "n1", Fields: selector("metadata.name=n1")}, true},
		{"watches another", Attributes{User: n1, Verb: "watch", Resource: "nodes", Name: "n2", Fields: selector("metadata.name=n2")}, false},
		{"its own node's status", Attributes{User: n1, Verb: "patch", Resource: "nodes", Subresource: "status", Name: "n1"}, true},
		{"another node's status", Attributes{User: n1, Verb: "update", Resource: "nodes", Subresource: "status", Name: "n2"}, false},
		{"its own node's spec", Attributes{User: n1, Verb: "patch", Resource: "nodes", Name: "n1"}, false},
		{"deletes its own node", Attributes{User: n1, Verb: "delete", Resource: "nodes", Name: "n1"}, false},

		{"its own pod", Attributes{User: n1, Verb: "get", Resource: "pods", Namespace: "default", Name: "mine"}, true},
		{"another node's pod", Attributes{User: n1, Verb: "get", Resource: "pods", Namespace: "default", Name: "theirs"}, false},
		{"a pod bound to nobody", Attributes{User: n1, Verb: "get", Resource: "pods", Namespace: "default", Name: "pending"}, false},
		{"a pod that does not exist", Attributes{User: n1, Verb: "get", Resource: "pods", Namespace: "default", Name: "none"}, false},
		{"its own pods", Attributes{User: n1, Verb: "list", Resource: "pods", Fields: selector("spec.nodeName=n1,status.phase!=Failed")}, true},
		{"all but its own pods", Attributes{User: n1, Verb: "watch", Resource: "pods", Fields: selector("spec.nodeName!=n1")}, false},
		{"all pods", Attributes{User: n1, Verb: "list", Resource: "pods"}, false},
		{"its own pod's status", Attributes{User: n1, Verb: "patch", Resource: "pods", Subresource: "status", Namespace: "default", Name: "mine"}, true},
		{"another node's pod's status", Attributes{User: n1, Verb: "update", Resource: "pods", Subresource: "status", Namespace: "default", Name: "theirs"}, false},
		{"exec into its own pod", Attributes{User: n1, Verb: "create", Resource: "pods", Subresource: "exec", Namespace: "default", Name: "mine"}, false},
		{"deletes its own pods", Attributes{User: n1, Verb: "deletecollection", Resource: "pods", Namespace: "default", Fields: selector("spec.nodeName=n1")}, false},
		{"an event", Attributes{User: n1, Verb: "create", Resource: "events", Namespace: "default"}, true},
		{"reads events", Attributes{User: n1, Verb: "list", Resource: "events"}, false},
		{"pods of another group", Attributes{User: n1, Verb: "get", Group: "metrics.k8s.io", Resource: "pods", Namespace: "default", Name: "mine"}, false},
		{"a node's name without the group", Attributes{User: person("system:node:n1"), Verb: "get", Resource: "nodes", Name: "n1"}, false},
		{"the group without a node's name", Attributes{User: person("n1", "system:nodes"), Verb: "get", Resource: "nodes", Name: "n1"}, false},
		{"a node of no name", Attributes{User: person("system:node:", "system:nodes"), Verb: "get", Resource: "nodes", Name: ""}, false},
	} {
		if got, reason := authorizer.Authorize(context.Background(), c.request); got != c.want {
			t.Errorf("%s: allowed %t (%s), want %t", c.name, got, reason, c.want)
		}
	}
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

func TestOnlyAdminsActAsOthers(t *testing.T) {
	authorizer := NewAuthorizer(podTable{})
	admin := person("root", "system:masters")
	node := person("system:node:n1", "system:nodes")
	headers := func(kv ...string) http.Header { return request(t, kv...).Header }

	got, err := authorizer.Impersonate(context.Background(), admin, headers("Impersonate-User", "alice", "Impersonate-Group", "dev"))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"dev", "system:authenticated"}; got.GetName() != "alice" || !slices.Equal(got.GetGroups(), want) {
		t.Errorf("got %s %v, want alice %v", got.GetName(), got.GetGroups(), want)
	}
	if got, err := authorizer.Impersonate(context.Background(), node, headers()); err != nil || got != node {
		t.Errorf("without the headers: got %v, %v, want the user itself", got, err)
	}
	var forbidden *Forbidden
	if _, err := authorizer.Impersonate(context.Background(), node, headers("Impersonate-User", "root", "Impersonate-Group", "system:masters")); !errors.As(err, &forbidden) {
		t.Errorf("a node acting as root: got %v, want Forbidden", err)
	}
	if _, err := authorizer.Impersonate(context.Background(), admin, headers("Impersonate-Group", "dev")); !errors.Is(err, ErrIncompleteImpersonation) {
		t.Errorf("a group without a user: got %v, want %v", err, ErrIncompleteImpersonation)
	}
	if _, err := authorizer.Impersonate(context.Background(), admin, headers("Impersonate-User", "alice", "Impersonate-Extra-Scopes", "none")); !errors.Is(err, ErrBadCredentials) {
		t.Errorf("extra: got %v, want %v", err, ErrBadCredentials)
	}
}
