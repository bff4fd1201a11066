package pki_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/transport"
	"github.com/musterhq/muster/control/pki"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// records are the tokens and names of a cluster, as its store keeps them.
type records struct {
	mu      sync.Mutex
	tokens  map[string][32]byte
	names   map[string][32]byte
	removed map[string]bool
	down    error
}

func newRecords() *records {
	return &records{tokens: map[string][32]byte{}, names: map[string][32]byte{}, removed: map[string]bool{}}
}

func (r *records) keep(token identity.Token) identity.Token {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tokens[string(token.Role)+token.ID] = token.SecretHash()
	return token
}

func (r *records) Check(_ context.Context, role identity.Role, id string, hash [sha256.Size]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down != nil {
		return r.down
	}
	if kept, ok := r.tokens[string(role)+id]; !ok || !identity.SecretMatches(kept, hash) {
		return pki.ErrTokenUnknown
	}
	return nil
}

func (r *records) Claim(_ context.Context, role identity.Role, name string, key [sha256.Size]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if holder, ok := r.names[name]; ok && holder != key {
		return pki.ErrNameTaken
	}
	r.names[name] = key
	return nil
}

func (r *records) Renew(_ context.Context, role identity.Role, name string, key, next [sha256.Size]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.removed[name] {
		return pki.ErrRemoved
	}
	return r.down
}

// control is a control node as a joining machine meets it.
type control struct {
	*records
	authority *pki.Authority
	address   string
}

func serve(t *testing.T) *control {
	t.Helper()
	c := &control{records: newRecords(), authority: newAuthority(t)}
	key := newKey(t)
	chain, err := c.authority.SignServer("c1", pki.Hosts{}, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	gossipKey := make([]byte, identity.GossipKeySize)
	settings := &clusterv1.ClusterSettings{PodCidr: "10.42.0.0/16", NodeCidrBits: 24}
	id, err := identity.New(identity.Params{
		Name: "c1", Role: identity.Server, ClusterID: "c1uster", CACert: c.authority.CertificatePEM(), GossipKey: gossipKey, Settings: settings,
	}, chain, key)
	if err != nil {
		t.Fatal(err)
	}
	mux, err := transport.Listen("127.0.0.1:0", id)
	if err != nil {
		t.Fatal(err)
	}
	c.address = mux.Addr().String()
	server := grpc.NewServer(transport.ServerOptions()...)
	clusterv1.RegisterJoinServer(server, pki.NewService(pki.ServiceConfig{
		Authority: c.authority, Tokens: c.records, Names: c.records, GossipKey: gossipKey, Settings: settings,
		Servers: func() []string { return []string{c.address} },
		Gossip:  func() []string { return []string{"10.0.0.1:7946"} },
		Logger:  slog.New(slog.DiscardHandler),
	}))
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() { server.Serve(mux.GRPC()) })
	wait.Go(func() { mux.Run(ctx) })
	t.Cleanup(func() { server.Stop(); cancel(); wait.Wait() })
	return c
}

func (c *control) options(t testing.TB, role identity.Role, name string) identity.JoinOptions {
	return identity.JoinOptions{
		Address: c.address, Token: c.keep(c.authority.Token(role)), Name: name, Role: role,
		Advertise: "10.0.0.9:6443", Version: "v1", Key: newKey(t),
	}
}

// From a token to a node that renews its certificate, over the real port.
func TestAnAgentJoinsAndRenews(t *testing.T) {
	c := serve(t)
	o := c.options(t, identity.Agent, "n1")
	o.DNSNames = []string{identity.ServerName} // asking for it must not help
	id, response, err := identity.Join(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if id.ClusterID != "c1uster" || !slices.Equal(id.Servers(), []string{c.address}) || id.Settings.PodCidr != "10.42.0.0/16" || !slices.Equal(response.Gossip, []string{"10.0.0.1:7946"}) {
		t.Errorf("got %+v and %v", id, response.Gossip)
	}
	if len(response.CaKey)+len(response.ServiceAccountKey) > 0 {
		t.Error("an agent got the control nodes' keys")
	}
	if names := id.Certificate().Leaf.DNSNames; len(names) > 0 {
		t.Errorf("an agent's certificate has the names %v", names)
	}

	conn, err := transport.DialGRPC(c.address, id)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	key := newKey(t)
	csr, err := identity.NewRequest(key, "muster:server:c1", []string{identity.ServerName}, nil)
	if err != nil {
		t.Fatal(err)
	}
	renewed, err := clusterv1.NewJoinClient(conn).Renew(t.Context(), &clusterv1.RenewRequest{CertificateRequest: csr})
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Install(renewed.Certificate, key); err != nil {
		t.Errorf("the renewed certificate: %v", err)
	}

	_, err = clusterv1.NewJoinClient(conn).Renew(t.Context(), &clusterv1.RenewRequest{CertificateRequest: []byte("x")})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("garbage: got %v, want InvalidArgument", err)
	}
	c.mu.Lock()
	c.removed["n1"] = true
	c.mu.Unlock()
	_, err = clusterv1.NewJoinClient(conn).Renew(t.Context(), &clusterv1.RenewRequest{CertificateRequest: csr})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("removed: got %v, want PermissionDenied", err)
	}
}

func TestAServerJoinsAndCanSign(t *testing.T) {
	c := serve(t)
	o := c.options(t, identity.Server, "c2")
	o.DNSNames, o.IPs = []string{"api.example.com"}, []net.IP{net.IPv4(192, 0, 2, 1)}
	id, response, err := identity.Join(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{identity.ServerName, "c2", "10.0.0.9", "api.example.com", "192.0.2.1"} {
		if err := id.Certificate().Leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	second, err := pki.FromPEM(response.CaCertificate, response.CaKey, response.ServiceAccountKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.SignAgent("n9", &newKey(t).PublicKey); err != nil {
		t.Error(err)
	}

	// A machine that does not know its address is taken at where it calls from.
	o = c.options(t, identity.Server, "c3")
	o.Advertise = ":6443"
	if id, _, err = identity.Join(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if err := id.Certificate().Leaf.VerifyHostname("127.0.0.1"); err != nil {
		t.Error(err)
	}
}

func TestJoinRefusals(t *testing.T) {
	c := serve(t)
	if _, _, err := identity.Join(t.Context(), c.options(t, identity.Agent, "taken")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		change func(*identity.JoinOptions)
		want   error
		says   string
	}{
		{"unknown token", func(o *identity.JoinOptions) { o.Token = c.authority.Token(identity.Agent) }, identity.ErrToken, "not known"},
		{"wrong secret", func(o *identity.JoinOptions) { o.Token.Secret = strings.Repeat("0", 40) }, identity.ErrToken, "not known"},
		{"an agent's token, passed off as a server's", func(o *identity.JoinOptions) {
			o.Token.Role, o.Role = identity.Server, identity.Server
		}, identity.ErrToken, "not known"},
		{"name taken", func(o *identity.JoinOptions) { o.Name = "taken" }, identity.ErrNameTaken, "remove that node first"},
	} {
		o := c.options(t, identity.Agent, "n1")
		test.change(&o)
		_, _, err := identity.Join(t.Context(), o)
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want %v with %q", test.name, err, test.want, test.says)
		}
	}
	c.mu.Lock()
	c.down = errors.New("no quorum")
	c.mu.Unlock()
	if _, _, err := identity.Join(t.Context(), c.options(t, identity.Agent, "n1")); err == nil || identity.Permanent(err) || !strings.Contains(err.Error(), "no quorum") {
		t.Errorf("no quorum: got %v, want an error that may pass", err)
	}
}

// What a client of ours would not send.
func TestJoinRefusesMalformedRequests(t *testing.T) {
	c := serve(t)
	token := c.keep(c.authority.Token(identity.Server)).String()
	csr, err := identity.NewRequest(newKey(t), "x", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	badHost, err := identity.NewRequest(newKey(t), "x", []string{"not a host"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	good := &clusterv1.JoinRequest{Token: token, Name: "c9", Role: "server", Address: "10.0.0.9:6443", CertificateRequest: csr}
	service := pki.NewService(pki.ServiceConfig{
		Authority: c.authority, Tokens: c.records, Names: c.records, Logger: slog.New(slog.DiscardHandler),
		Servers: func() []string { return nil }, Gossip: func() []string { return nil },
	})
	for _, test := range []struct {
		name   string
		change func(*clusterv1.JoinRequest)
		want   codes.Code
	}{
		{"bad name", func(r *clusterv1.JoinRequest) { r.Name = "../etc" }, codes.InvalidArgument},
		{"unknown role", func(r *clusterv1.JoinRequest) { r.Role = "root" }, codes.InvalidArgument},
		{"a server's token for an agent", func(r *clusterv1.JoinRequest) { r.Role = "agent" }, codes.PermissionDenied},
		{"no token", func(r *clusterv1.JoinRequest) { r.Token = "" }, codes.InvalidArgument},
		{"no address", func(r *clusterv1.JoinRequest) { r.Address = "" }, codes.InvalidArgument},
		{"endless address", func(r *clusterv1.JoinRequest) { r.Address = strings.Repeat("a", 1<<20) }, codes.InvalidArgument},
		{"endless version", func(r *clusterv1.JoinRequest) { r.Version = strings.Repeat("a", 1<<20) }, codes.InvalidArgument},
		{"address of everyone", func(r *clusterv1.JoinRequest) { r.Address = "0.0.0.0:6443" }, codes.InvalidArgument},
		{"no request", func(r *clusterv1.JoinRequest) { r.CertificateRequest = nil }, codes.InvalidArgument},
		{"a host that is none", func(r *clusterv1.JoinRequest) { r.CertificateRequest = badHost }, codes.InvalidArgument},
	} {
		r := proto.CloneOf(good)
		test.change(r)
		answer, err := service.Join(t.Context(), r)
		if status.Code(err) != test.want || answer != nil {
			t.Errorf("%s: got %v, %v, want %v", test.name, answer, err, test.want)
		}
		if len(fmt.Sprint(err)) > 1000 {
			t.Errorf("%s: the answer has %d characters", test.name, len(fmt.Sprint(err)))
		}
	}
	foreign := proto.CloneOf(good)
	foreign.Token = newAuthority(t).Token(identity.Server).String()
	if _, err := service.Join(t.Context(), foreign); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("another cluster's token: got %v", err)
	}
	if len(c.names) != 0 {
		t.Errorf("refused requests claimed %v", c.names)
	}
	if _, err := service.Join(t.Context(), good); err != nil {
		t.Errorf("a good one: %v", err)
	}
	if _, err := service.Renew(t.Context(), &clusterv1.RenewRequest{CertificateRequest: csr}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("Renew by nobody: got %v, want PermissionDenied", err)
	}
}

// The answer to the first attempt may be lost after the name was claimed.
func TestJoiningAgainWithTheSameKeyIsNoConflict(t *testing.T) {
	c := serve(t)
	o := c.options(t, identity.Agent, "n1")
	for range 2 {
		if _, _, err := identity.Join(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	o.Key = newKey(t)
	if _, _, err := identity.Join(t.Context(), o); !errors.Is(err, identity.ErrNameTaken) {
		t.Errorf("with another key: got %v, want ErrNameTaken", err)
	}
}

func TestFailedAttemptsAreSlowedDown(t *testing.T) {
	c := serve(t)
	good := c.options(t, identity.Agent, "n1")
	bad := good
	bad.Token = c.authority.Token(identity.Agent)
	var err error
	tries := 0
	for ; tries < 50; tries++ {
		if _, _, err = identity.Join(t.Context(), bad); !errors.Is(err, identity.ErrToken) {
			break
		}
	}
	if tries < 10 || tries > 20 || err == nil || identity.Permanent(err) || !strings.Contains(err.Error(), "too many failed attempts") {
		t.Fatalf("after %d attempts: %v; want to be slowed down after 10", tries, err)
	}
	time.Sleep(1200 * time.Millisecond)
	if _, _, err := identity.Join(t.Context(), good); err != nil {
		t.Errorf("a good one, a second later: %v", err)
	}
}
