package oidc

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// provider is an identity provider on the loopback.
type provider struct {
	*httptest.Server
	t   *testing.T
	key *rsa.PrivateKey
	ca  string // file
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{t: t, key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": p.URL, "jwks_uri": p.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256"},
			"authorization_endpoint": p.URL + "/auth", "token_endpoint": p.URL + "/token", "response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
		})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]any{
			"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "k1", "n": base64.RawURLEncoding.EncodeToString(key.N.Bytes()), "e": "AQAB",
		}}})
	})
	p.Server = httptest.NewTLSServer(mux)
	t.Cleanup(p.Close)
	p.ca = filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(p.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// token signs claims, with those that every token has.
func (p *provider) token(key *rsa.PrivateKey, claims map[string]any) string {
	p.t.Helper()
	all := map[string]any{"iss": p.URL, "aud": "muster", "sub": "1234", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}
	for name, value := range claims {
		all[name] = value
	}
	part := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			p.t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	text := part(map[string]any{"alg": "RS256", "kid": "k1"}) + "." + part(all)
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
	if err != nil {
		p.t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// start runs tokens, and waits until they know the provider's keys.
func (p *provider) start(cfg Config) *Tokens {
	p.t.Helper()
	cfg.Logger = slog.New(slog.NewTextHandler(p.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	tokens, err := New(cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- tokens.Run(p.t.Context()) }()
	p.t.Cleanup(func() {
		if err := <-ended; err != nil {
			p.t.Errorf("ended with %v", err)
		}
	})
	good := p.token(p.key, map[string]any{"email": "jane@example.org", "email_verified": true, "groups": []string{"dev"}, "hd": "example.org"})
	for deadline := time.Now().Add(20 * time.Second); ; {
		if _, ok, err := tokens.Lookup(p.t.Context(), good); ok {
			return tokens
		} else if time.Now().After(deadline) {
			p.t.Fatalf("a good token is refused: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestPeopleAreKnownByTheirProvidersTokens(t *testing.T) {
	p := newProvider(t)
	tokens := p.start(Config{
		Issuer: p.URL, ClientID: "muster", UsernameClaim: "email", GroupsClaim: "groups", GroupsPrefix: "oidc:", CAFile: p.ca,
		RequiredClaims: map[string]string{"hd": "example.org"}, Reserved: []string{"https://kubernetes.default.svc.cluster.local"},
	})
	good := map[string]any{"email": "jane@example.org", "email_verified": true, "groups": []string{"dev", "ops"}, "hd": "example.org"}
	who, ok, err := tokens.Lookup(t.Context(), p.token(p.key, good))
	if err != nil || !ok || who.GetName() != "jane@example.org" || !slices.Equal(who.GetGroups(), []string{"oidc:dev", "oidc:ops"}) {
		t.Fatalf("got %v, %t, %v, want jane in oidc:dev and oidc:ops", who, ok, err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	with := func(name string, value any) map[string]any {
		claims := map[string]any{}
		for k, v := range good {
			claims[k] = v
		}
		claims[name] = value
		return claims
	}
	valid := p.token(p.key, good)
	for name, token := range map[string]string{
		"another key":         p.token(other, good),
		"another client":      p.token(p.key, with("aud", "other")),
		"another issuer":      p.token(p.key, with("iss", "https://evil.example.org")),
		"expired":             p.token(p.key, with("exp", time.Now().Add(-time.Minute).Unix())),
		"an unverified email": p.token(p.key, with("email_verified", false)),
		"without a claim":     p.token(p.key, with("hd", "example.com")),
		"without a signature": valid[:strings.LastIndex(valid, ".")+1],
		"of another kind":     "muster-api-1-2",
		"nothing":             "",
	} {
		if who, ok, err := tokens.Lookup(t.Context(), token); ok || err != nil {
			t.Errorf("%s: %v, %t, %v, want refused", name, who, ok, err)
		}
	}
}

func TestClaimsAreMappedAsTheFileSays(t *testing.T) {
	p := newProvider(t)
	ca, err := os.ReadFile(p.ca)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "authentication.yaml")
	text := `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: ` + p.URL + `
    audiences: [muster]
    certificateAuthority: |
` + indent(string(ca)) + `
  claimMappings:
    username: {expression: '"people:" + claims.sub'}
    groups: {expression: 'claims.groups'}
    uid: {claim: sub}
  userValidationRules:
  - {expression: "!user.username.startsWith('system:')", message: "names of the system's are not people's"}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens := p.start(Config{File: file})
	who, ok, err := tokens.Lookup(t.Context(), p.token(p.key, map[string]any{"groups": []string{"a", "b"}}))
	if err != nil || !ok || who.GetName() != "people:1234" || who.GetUID() != "1234" || !slices.Equal(who.GetGroups(), []string{"a", "b"}) {
		t.Errorf("got %v, %t, %v, want people:1234 in a and b", who, ok, err)
	}
}

func indent(text string) string {
	return "      " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n      ")
}

func TestWrongConfigurationsAreRefused(t *testing.T) {
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "f.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"
	for want, cfg := range map[string]Config{
		"go together":            {Issuer: "https://i.example.org"},
		"exclude each other":     {File: "f", Issuer: "https://i.example.org", ClientID: "c"},
		"https":                  {Issuer: "http://i.example.org", ClientID: "c"},
		"no such file":           {File: "/nowhere"},
		"oidc-ca-file":           {Issuer: "https://i.example.org", ClientID: "c", CAFile: "/nowhere"},
		"HS256":                  {Issuer: "https://i.example.org", ClientID: "c", SigningAlgorithms: []string{"HS256"}},
		"must not overlap":       {Issuer: "https://i.example.org", ClientID: "c", Reserved: []string{"https://i.example.org"}},
		"unknown field":          {File: file(head + "jtw: []\n")},
		"anonymous":              {File: file(head + "anonymous: {enabled: true}\njwt: []\n")},
		"claimMappings.username": {File: file(head + "jwt: [{issuer: {url: https://i.example.org, audiences: [a]}}]\n")},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error about %q", err, want)
		}
	}
	if tokens, err := New(Config{}); err != nil || len(tokens.providers) != 0 {
		t.Errorf("nothing configured: %v", err)
	}
}
