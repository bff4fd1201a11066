package control

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/control/operator"
	"github.com/musterhq/muster/control/pki"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func TestConfigErrorsNameTheSetting(t *testing.T) {
	good := func() Config { return Config{Dir: "/d", Name: "c1", Address: "10.0.0.1:6443"} }
	for _, test := range []struct {
		name   string
		change func(*Config)
		want   string // begins the error; "" is no error
	}{
		{"good", func(*Config) {}, ""},
		{"no directory", func(c *Config) { c.Dir = "" }, "dir:"},
		{"init and join", func(c *Config) { c.Init, c.Join = true, []string{"a:1"} }, "init and join:"},
		{"join without token", func(c *Config) { c.Join = []string{"a:1"} }, "token:"},
		{"join without port", func(c *Config) { c.Join, c.Token = []string{"a"}, "t" }, "join:"},
		{"address without port", func(c *Config) { c.Address = "10.0.0.1" }, "address:"},
		{"address that nobody reaches", func(c *Config) { c.Address = "0.0.0.0:6443" }, "address:"},
		{"address with port 0", func(c *Config) { c.Address = "10.0.0.1:0" }, "address:"},
		{"gossip without port", func(c *Config) { c.GossipAddress = "10.0.0.1" }, "gossip-address:"},
		{"pod range", func(c *Config) { c.Settings = &clusterv1.ClusterSettings{PodCidr: "10.42.0.0"} }, "pod-cidr:"},
		{"ranges overlap", func(c *Config) { c.Settings = &clusterv1.ClusterSettings{PodCidr: "10.0.0.0/8"} }, "pod-cidr 10.0.0.0/8 and service-cidr"},
		{"node range as large as all", func(c *Config) { c.Settings = &clusterv1.ClusterSettings{NodeCidrBits: 16} }, "node-cidr-bits:"},
		{"node range without room", func(c *Config) { c.Settings = &clusterv1.ClusterSettings{NodeCidrBits: 31} }, "node-cidr-bits:"},
	} {
		c := good()
		test.change(&c)
		err := c.complete()
		if (err == nil) != (test.want == "") || err != nil && !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: got %v, want an error that begins with %q", test.name, err, test.want)
		}
	}
}

func newTokens(t *testing.T) *tokens {
	t.Helper()
	authority, err := pki.NewAuthority("0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	return &tokens{store: storetest.New(t), authority: authority}
}

func TestJoinTokenAdmitsItsRoleUntilRevoked(t *testing.T) {
	ctx := t.Context()
	tokens := newTokens(t)
	text, err := tokens.Create(ctx, operator.Token{Role: "agent"})
	if err != nil {
		t.Fatal(err)
	}
	token, err := identity.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := tokens.Check(ctx, identity.Agent, token.ID, token.SecretHash()); err != nil {
		t.Errorf("the token is refused: %v", err)
	}
	for name, err := range map[string]error{
		"another role":   tokens.Check(ctx, identity.Server, token.ID, token.SecretHash()),
		"another secret": tokens.Check(ctx, identity.Agent, token.ID, sha256.Sum256([]byte("guess"))),
		"another id":     tokens.Check(ctx, identity.Agent, "00000000", token.SecretHash()),
	} {
		if !errors.Is(err, pki.ErrTokenUnknown) {
			t.Errorf("%s: got %v, want ErrTokenUnknown", name, err)
		}
	}
	list, err := tokens.List(ctx)
	if err != nil || len(list) != 1 || list[0].ID != token.ID || list[0].Role != "agent" {
		t.Fatalf("list is %v, %v, want the one token", list, err)
	}
	for _, item := range tokens.store.System().List("") {
		if strings.Contains(string(item.Value), token.Secret) {
			t.Error("the secret itself is stored")
		}
	}
	if err := tokens.Delete(ctx, token.ID); err != nil {
		t.Fatal(err)
	}
	if err := tokens.Check(ctx, identity.Agent, token.ID, token.SecretHash()); !errors.Is(err, pki.ErrTokenUnknown) {
		t.Errorf("after it was revoked: %v, want ErrTokenUnknown", err)
	}
	if err := tokens.Delete(ctx, token.ID); !errors.Is(err, operator.ErrNoToken) {
		t.Errorf("revoked twice: %v, want ErrNoToken", err)
	}
}

func TestBearerTokenSaysWhoItsBearerIs(t *testing.T) {
	ctx := t.Context()
	tokens := newTokens(t)
	text, err := tokens.Create(ctx, operator.Token{Role: apiRole, User: "alice", Groups: []string{"system:masters"}})
	if err != nil {
		t.Fatal(err)
	}
	who, ok, err := tokens.Lookup(ctx, text)
	if err != nil || !ok || who.GetName() != "alice" || len(who.GetGroups()) != 1 {
		t.Errorf("got %v, %v, %v, want alice", who, ok, err)
	}
	join, err := tokens.Create(ctx, operator.Token{Role: "server"})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := identity.ParseToken(join)
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{
		"", "x", text + "0", text[:len(text)-1], join,
		apiTokenPrefix + parsed.ID + "-" + parsed.Secret, // a join token dressed up
	} {
		if who, ok, err := tokens.Lookup(ctx, other); ok || err != nil {
			t.Errorf("%q passes for %v (%v)", other, who, err)
		}
	}
}

// Two machines with one name would each stop what the other runs.
func TestNameBelongsToOneMachine(t *testing.T) {
	ctx := context.Background()
	members := map[string]bool{}
	names := &names{store: storetest.New(t), member: func(name string) bool { return members[name] }}
	first, second := sha256.Sum256([]byte("1")), sha256.Sum256([]byte("2"))
	claim := func(role identity.Role, name string, key [sha256.Size]byte, want error) {
		t.Helper()
		if err := names.Claim(ctx, role, name, key); !errors.Is(err, want) {
			t.Errorf("claim %s: got %v, want %v", name, err, want)
		}
	}
	claim(identity.Server, "c2", first, nil)
	members["c2"] = true
	claim(identity.Server, "c2", first, nil) // the answer was lost
	claim(identity.Server, "c2", second, pki.ErrNameTaken)
	claim(identity.Agent, "c2", second, pki.ErrNameTaken)
	if err := names.Renew(ctx, identity.Server, "c2", first, second); err != nil {
		t.Errorf("a member may not renew: %v", err)
	}
	members["c2"] = false
	if err := names.Renew(ctx, identity.Server, "c2", first, second); !errors.Is(err, pki.ErrRemoved) {
		t.Errorf("a removed node may renew: %v, want ErrRemoved", err)
	}
	claim(identity.Server, "c2", second, nil)

	claim(identity.Agent, "n1", first, nil)
	if _, err := store.Of[*corev1.Node](names.store, store.Nodes).Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}); err != nil {
		t.Fatal(err)
	}
	claim(identity.Agent, "n1", second, pki.ErrNameTaken)
	if _, err := names.store.Table(store.Nodes).Delete(ctx, "", "n1", 0, ""); err != nil {
		t.Fatal(err)
	}
	claim(identity.Agent, "n1", second, nil)
}

// A machine whose name was given to another one still has a certificate. It
// must not be let in by it: both would run the pods of the node.
func TestReplacedMachineLosesItsName(t *testing.T) {
	ctx := context.Background()
	names := &names{store: storetest.New(t)}
	key := func(s string) [sha256.Size]byte { return sha256.Sum256([]byte(s)) }
	owns := func(text string, want bool) {
		t.Helper()
		if got := names.Owns("n1", key(text)); got != want {
			t.Errorf("the machine with key %s owns the name: %t, want %t", text, got, want)
		}
	}
	owns("a", false)
	if err := names.Claim(ctx, identity.Agent, "n1", key("a")); err != nil {
		t.Fatal(err)
	}
	owns("a", true)
	for _, next := range []string{"lost", "b"} { // the first answer did not arrive
		if err := names.Renew(ctx, identity.Agent, "n1", key("a"), key(next)); err != nil {
			t.Fatal(err)
		}
		owns("a", true)
		owns(next, true)
	}
	owns("lost", false)
	if err := names.Renew(ctx, identity.Agent, "n1", key("b"), key("c")); err != nil {
		t.Fatal(err)
	}
	owns("a", false)
	owns("b", true)
	owns("c", true)
	if err := names.Claim(ctx, identity.Agent, "n1", key("other")); err != nil { // there is no such Node
		t.Fatal(err)
	}
	owns("b", false)
	owns("c", false)
	owns("other", true)
	if err := names.Renew(ctx, identity.Agent, "n1", key("c"), key("d")); !errors.Is(err, pki.ErrRemoved) {
		t.Errorf("a replaced machine may renew: %v, want ErrRemoved", err)
	}
}

func TestStartRecallsTheLastOne(t *testing.T) {
	dir := t.TempDir()
	if err := remember(started{Name: "c1", Address: "10.0.0.1:6443", TLSSANs: []string{"lb.example"}}, dir); err != nil {
		t.Fatal(err)
	}
	again := Config{Dir: dir, Address: "10.0.0.9:6443"}
	if err := again.recall(); err != nil {
		t.Fatal(err)
	}
	if again.Name != "c1" || again.Address != "10.0.0.9:6443" || len(again.TLSSANs) != 1 {
		t.Errorf("got %q %q %q, want the last name and SANs, the new address", again.Name, again.Address, again.TLSSANs)
	}
}
