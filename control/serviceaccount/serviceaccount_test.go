package serviceaccount

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const issuer = "https://issuer.example.org"

// cluster is a store with a service account, and its tokens.
type cluster struct {
	*Tokens
	t    testing.TB
	s    *store.Store
	log  *storetest.Log
	keys *Keys
}

func newKeys(t testing.TB, more ...*ecdsa.PublicKey) *Keys {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &Keys{Signing: key, Verifying: append([]*ecdsa.PublicKey{&key.PublicKey}, more...)}
}

func newCluster(t testing.TB, change ...func(*Config)) *cluster {
	t.Helper()
	s, log, _ := storetest.Open(t)
	c := &cluster{t: t, s: s, log: log, keys: newKeys(t)}
	cfg := Config{
		Registry: resource.New(s, resource.AdmitAll{}), Keys: func() (*Keys, error) { return c.keys, nil },
		Issuers: []string{issuer}, KeysURI: "https://192.0.2.1:6443/openid/v1/jwks",
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if c.Tokens, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	c.put(store.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "robot", UID: "robot-1"}})
	c.put(store.Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "n1-1"}})
	c.put(store.Pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "web-1"}, Spec: corev1.PodSpec{ServiceAccountName: "robot", NodeName: "n1"}})
	c.put(store.Secrets, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "lease", UID: "lease-1"}})
	return c
}

func (c *cluster) put(spec *store.Spec, obj store.Object) {
	c.t.Helper()
	if _, err := c.s.Table(spec).Create(c.t.Context(), obj); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) remove(spec *store.Spec, namespace, name string) {
	c.t.Helper()
	if _, err := c.s.Table(spec).Delete(c.t.Context(), namespace, name, 0, ""); err != nil {
		c.t.Fatal(err)
	}
}

func ask(kind, name, uid string, change ...func(*authenticationv1.TokenRequest)) *authenticationv1.TokenRequest {
	r := &authenticationv1.TokenRequest{}
	if kind != "" {
		r.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name, UID: types.UID(uid)}
	}
	for _, f := range change {
		f(r)
	}
	return r
}

func (c *cluster) token(r *authenticationv1.TokenRequest) string {
	c.t.Helper()
	issued, err := c.Request(c.t.Context(), "default", "robot", r)
	if err != nil {
		c.t.Fatal(err)
	}
	return issued.Status.Token
}

func (c *cluster) good(token string) bool {
	c.t.Helper()
	who, ok, err := c.Lookup(c.t.Context(), token)
	if err != nil {
		c.t.Errorf("lookup: %v", err)
	}
	if ok && who.GetName() != "system:serviceaccount:default:robot" {
		c.t.Errorf("the token is %s's", who.GetName())
	}
	return ok
}

func TestTokensSayWhoAndWhere(t *testing.T) {
	c := newCluster(t)
	who, ok, err := c.Lookup(t.Context(), c.token(ask("Pod", "web", "web-1")))
	if err != nil || !ok {
		t.Fatalf("lookup: %t, %v", ok, err)
	}
	if groups := []string{"system:serviceaccounts", "system:serviceaccounts:default"}; who.GetUID() != "robot-1" || !slices.Equal(who.GetGroups(), groups) {
		t.Errorf("got %+v, want uid robot-1, groups %v", who, groups)
	}
	extra := who.GetExtra()
	for key, want := range map[string]string{
		"authentication.kubernetes.io/pod-name": "web", "authentication.kubernetes.io/pod-uid": "web-1",
		"authentication.kubernetes.io/node-name": "n1", "authentication.kubernetes.io/node-uid": "n1-1",
	} {
		if got := extra[key]; len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %v, want %s", key, got, want)
		}
	}
	if id := extra["authentication.kubernetes.io/credential-id"]; len(id) != 1 || !strings.HasPrefix(id[0], "JTI=") {
		t.Errorf("credential-id: got %v, want JTI=...", id)
	}
}

// Each token is shown twice before, so that it is remembered, and must be
// refused all the same at the first look after what it is bound to went.
func TestTokensEndWithWhatTheyAreBoundTo(t *testing.T) {
	for _, what := range []struct {
		name    string
		request *authenticationv1.TokenRequest
		end     func(*cluster)
	}{
		{"the pod is deleted", ask("Pod", "web", ""), func(c *cluster) { c.remove(store.Pods, "default", "web") }},
		{"another pod has the name", ask("Pod", "web", ""), func(c *cluster) {
			c.remove(store.Pods, "default", "web")
			c.put(store.Pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "web-2"}})
		}},
		{"the secret is deleted", ask("Secret", "lease", ""), func(c *cluster) { c.remove(store.Secrets, "default", "lease") }},
		{"the node is deleted", ask("Node", "n1", ""), func(c *cluster) { c.remove(store.Nodes, "", "n1") }},
		{"the service account is deleted", ask("", "", ""), func(c *cluster) { c.remove(store.ServiceAccounts, "default", "robot") }},
		{"another service account has the name", ask("", "", ""), func(c *cluster) {
			c.remove(store.ServiceAccounts, "default", "robot")
			c.put(store.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "robot", UID: "robot-2"}})
		}},
		{"the keys are others", ask("", "", ""), func(c *cluster) { c.keys = newKeys(c.t) }},
	} {
		c := newCluster(t)
		token := c.token(what.request)
		for range 2 {
			if !c.good(token) {
				t.Errorf("%s: refused before", what.name)
			}
		}
		what.end(c)
		if c.good(token) {
			t.Errorf("%s: accepted, want refused", what.name)
		}
	}
}

func TestRememberedTokensSurviveChangesOfTheirPod(t *testing.T) {
	c := newCluster(t)
	token := c.token(ask("Pod", "web", ""))
	if !c.good(token) {
		t.Fatal("refused")
	}
	pods := store.Of[*corev1.Pod](c.s, store.Pods)
	pod, err := pods.Get(t.Context(), "default", "web")
	if err != nil {
		t.Fatal(err)
	}
	pod.Status.Phase = corev1.PodRunning
	if _, err := pods.Update(t.Context(), pod, 0); err != nil {
		t.Fatal(err)
	}
	if !c.good(token) {
		t.Error("refused after the pod's status changed")
	}
	// The pod that a token is bound to is on the node; the node may go.
	c.remove(store.Nodes, "", "n1")
	if !c.good(token) {
		t.Error("refused after the node was deleted")
	}
	barriers := c.log.Barriers()
	if c.good(token); c.log.Barriers() != barriers {
		t.Error("a good token cost a read barrier")
	}
}

func TestTokensExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		token := c.token(ask("", "", "", func(r *authenticationv1.TokenRequest) { r.Spec.ExpirationSeconds = ptr.To[int64](600) }))
		time.Sleep(10*time.Minute - time.Second)
		if !c.good(token) {
			t.Error("refused before its time")
		}
		time.Sleep(time.Minute + 2*time.Second) // upstream allows for clocks that differ by a minute
		if c.good(token) {
			t.Error("accepted after its time")
		}
		// What admission mounts is good for longer than it says.
		issued, err := c.Request(t.Context(), "default", "robot", ask("Pod", "web", "", func(r *authenticationv1.TokenRequest) { r.Spec.ExpirationSeconds = ptr.To[int64](3607) }))
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(issued.Status.ExpirationTimestamp.Time); left > 3607*time.Second || left < 3606*time.Second {
			t.Errorf("says that it is good for %s, want 3607s", left)
		}
		time.Sleep(300 * 24 * time.Hour)
		if !c.good(issued.Status.Token) {
			t.Error("the token of a client that reads it once is refused within a year")
		}
	})
}

func TestTokensAreForTheirAudience(t *testing.T) {
	c := newCluster(t)
	token := c.token(ask("", "", "", func(r *authenticationv1.TokenRequest) { r.Spec.Audiences = []string{"vault", "etc"} }))
	if c.good(token) {
		t.Error("a token for others is accepted by this API")
	}
	who, good, ok, err := c.Review(t.Context(), token, []string{"vault", issuer})
	if err != nil || !ok || who.GetName() != "system:serviceaccount:default:robot" || !slices.Equal(good, []string{"vault"}) {
		t.Errorf("review for vault: %v, good for %v, %t, %v", who, good, ok, err)
	}
	if _, _, ok, err := c.Review(t.Context(), token, []string{"bank"}); ok || err != nil {
		t.Errorf("review for somebody else: %t, %v, want refused", ok, err)
	}
	if _, _, ok, _ := c.Review(t.Context(), c.token(ask("", "", "")), []string{"vault"}); ok {
		t.Error("a token for this API is accepted for vault")
	}
}

// forge makes a token of the claims of another.
func forge(header map[string]any, token string, sign func(text string) []byte) string {
	encoded, _ := json.Marshal(header)
	text := base64.RawURLEncoding.EncodeToString(encoded) + "." + strings.Split(token, ".")[1]
	return text + "." + base64.RawURLEncoding.EncodeToString(sign(text))
}

func TestForgedTokensAreRefused(t *testing.T) {
	c := newCluster(t)
	token := c.token(ask("Pod", "web", ""))
	parts := strings.Split(token, ".")
	header, _ := base64.RawURLEncoding.DecodeString(parts[0])
	var said map[string]any
	if err := json.Unmarshal(header, &said); err != nil {
		t.Fatal(err)
	}
	kid := said["kid"]
	public, err := x509.MarshalPKIXPublicKey(&c.keys.Signing.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	with := func(secret []byte) func(string) []byte {
		return func(text string) []byte {
			mac := hmac.New(sha256.New, secret)
			mac.Write([]byte(text))
			return mac.Sum(nil)
		}
	}
	nothing := func(string) []byte { return nil }
	foreign := newKeys(t).Signing
	es256 := func(key *ecdsa.PrivateKey) func(string) []byte {
		return func(text string) []byte {
			sum := sha256.Sum256([]byte(text))
			r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
			if err != nil {
				t.Fatal(err)
			}
			return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		}
	}
	jwk := map[string]any{
		"kty": "EC", "crv": "P-256",
		"x": base64.RawURLEncoding.EncodeToString(foreign.X.FillBytes(make([]byte, 32))), //nolint:staticcheck // as a forger would
		"y": base64.RawURLEncoding.EncodeToString(foreign.Y.FillBytes(make([]byte, 32))), //nolint:staticcheck // as a forger would
	}
	changed, _ := base64.RawURLEncoding.DecodeString(parts[1])
	changed = []byte(strings.Replace(string(changed), `"robot"`, `"admin"`, 1))
	if good := forge(map[string]any{"alg": "ES256", "kid": kid}, token, es256(c.keys.Signing)); !c.good(good) {
		t.Fatal("the forger does not know how to sign: nothing below would mean anything")
	}
	for name, forged := range map[string]string{
		"alg none":                     forge(map[string]any{"alg": "none", "kid": kid}, token, nothing),
		"alg none, without a kid":      forge(map[string]any{"alg": "none"}, token, nothing),
		"no alg":                       forge(map[string]any{"kid": kid}, token, nothing),
		"HS256 with the public key":    forge(map[string]any{"alg": "HS256", "kid": kid}, token, with(public)),
		"HS256 with it as PEM":         forge(map[string]any{"alg": "HS256", "kid": kid}, token, with(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))),
		"HS256 with nothing":           forge(map[string]any{"alg": "HS256", "kid": kid}, token, with(nil)),
		"another key":                  forge(map[string]any{"alg": "ES256", "kid": kid}, token, es256(foreign)),
		"another key, without a kid":   forge(map[string]any{"alg": "ES256"}, token, es256(foreign)),
		"a kid that nobody has":        forge(map[string]any{"alg": "ES256", "kid": "x"}, token, es256(foreign)),
		"a kid that is a path":         forge(map[string]any{"alg": "HS256", "kid": "../../../../dev/null"}, token, with(nil)),
		"a kid that is a query":        forge(map[string]any{"alg": "HS256", "kid": "' OR 1=1 --"}, token, with(nil)),
		"its own key along":            forge(map[string]any{"alg": "ES256", "jwk": jwk}, token, es256(foreign)),
		"its own key along, and a kid": forge(map[string]any{"alg": "ES256", "jwk": jwk, "kid": kid}, token, es256(foreign)),
		"other claims":                 parts[0] + "." + base64.RawURLEncoding.EncodeToString(changed) + "." + parts[2],
		"no signature":                 parts[0] + "." + parts[1] + ".",
		"two parts":                    parts[0] + "." + parts[1],
		"a signature of zeros":         parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)),
		"JSON serialization":           fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, parts[0], parts[1], parts[2]),
	} {
		if who, ok, err := c.Lookup(t.Context(), forged); ok || err != nil {
			t.Errorf("%s: accepted as %v, %v, want refused", name, who, err)
		}
	}
}

func TestRotatedKeysVerifyTheTokensOfThoseBefore(t *testing.T) {
	c := newCluster(t)
	old := c.token(ask("", "", ""))
	c.keys = newKeys(t, &c.keys.Signing.PublicKey)
	if !c.good(old) || !c.good(c.token(ask("", "", ""))) {
		t.Error("a token is refused after the rotation")
	}
	_, keys, _, err := c.Documents()
	if err != nil || strings.Count(string(keys), `"kid"`) != 2 {
		t.Errorf("keys published: %s, %v, want both", keys, err)
	}
	c.keys = &Keys{Signing: c.keys.Signing, Verifying: []*ecdsa.PublicKey{&c.keys.Signing.PublicKey}}
	if c.good(old) {
		t.Error("the token of a key that was taken away is accepted")
	}
}

func TestRequestsAreAnsweredAsUpstreamDoes(t *testing.T) {
	c := newCluster(t, func(cfg *Config) { cfg.MaxSeconds = 7200 })
	seconds := func(n int64) func(*authenticationv1.TokenRequest) {
		return func(r *authenticationv1.TokenRequest) { r.Spec.ExpirationSeconds = &n }
	}
	for _, what := range []struct {
		name    string
		account string
		request *authenticationv1.TokenRequest
		is      func(error) bool
	}{
		{"no such account", "nobody", ask("", "", ""), apierrors.IsNotFound},
		{"too short", "robot", ask("", "", "", seconds(599)), apierrors.IsInvalid},
		{"too long", "robot", ask("", "", "", seconds(1<<32+1)), apierrors.IsInvalid},
		{"no such pod", "robot", ask("Pod", "none", ""), apierrors.IsNotFound},
		{"another pod's uid", "robot", ask("Pod", "web", "web-9"), apierrors.IsConflict},
		{"another account's uid", "robot", ask("", "", "", func(r *authenticationv1.TokenRequest) { r.UID = "robot-9" }), apierrors.IsConflict},
		{"another name", "robot", ask("", "", "", func(r *authenticationv1.TokenRequest) { r.Name = "other" }), apierrors.IsInvalid},
		{"bound to what cannot be", "robot", ask("ConfigMap", "c", ""), apierrors.IsBadRequest},
		{"attested without a webhook", "robot", ask("", "", "", func(r *authenticationv1.TokenRequest) {
			r.Spec.Attestations = map[string]authenticationv1.AttestationValue{"x": {"y"}}
		}), apierrors.IsInvalid},
	} {
		if _, err := c.Request(t.Context(), "default", what.account, what.request); !what.is(err) {
			t.Errorf("%s: %v", what.name, err)
		}
	}
	c.put(store.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "other", UID: "other-1"}})
	if _, err := c.Request(t.Context(), "default", "other", ask("Pod", "web", "")); !apierrors.IsBadRequest(err) {
		t.Errorf("the pod of another account: %v, want a bad request", err)
	}
	issued, err := c.Request(t.Context(), "default", "robot", ask("", "", "", seconds(100000)))
	if err != nil || *issued.Spec.ExpirationSeconds != 7200 || !slices.Equal(issued.Spec.Audiences, []string{issuer}) || issued.Name != "robot" || issued.UID != "robot-1" {
		t.Errorf("got %+v, %v, want 7200 s for %s", issued, err, issuer)
	}
}

// A replica that lags refuses what it does not know yet only behind a barrier.
func TestWhatALaggingReplicaDoesNotKnowIsLookedAtAgain(t *testing.T) {
	c := newCluster(t)
	token := c.token(ask("Pod", "web", ""))
	pods := store.Of[*corev1.Pod](c.s, store.Pods)
	pod, err := pods.Delete(t.Context(), "default", "web", 0, "")
	if err != nil {
		t.Fatal(err)
	}
	pod.ResourceVersion = ""
	behind := c.s.WithLog(&catchingUp{Log: c.log, catchUp: func() { c.put(store.Pods, pod) }})
	c.cfg.Registry = c.cfg.Registry.With(behind)
	if !c.good(token) {
		t.Error("refused, although the pod is in the log")
	}
	if _, err := pods.Delete(t.Context(), "default", "web", 0, ""); err != nil {
		t.Fatal(err)
	}
	c.log.Refuse(errors.New("no quorum"))
	if _, ok, err := c.Lookup(t.Context(), token); ok || err == nil {
		t.Errorf("without a quorum: %t, %v, want an error", ok, err)
	}
}

// catchingUp applies what is missing at the first barrier.
type catchingUp struct {
	store.Log
	catchUp func()
}

func (l *catchingUp) ReadBarrier(ctx context.Context) error {
	if f := l.catchUp; f != nil {
		l.catchUp = nil
		f()
	}
	return l.Log.ReadBarrier(ctx)
}

func TestTokensInSecrets(t *testing.T) {
	c := newCluster(t)
	ctx := t.Context()
	secrets := store.Of[*corev1.Secret](c.s, store.Secrets)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "old", UID: "old-1", Annotations: map[string]string{corev1.ServiceAccountNameKey: "robot", corev1.ServiceAccountUIDKey: "robot-1"}},
		Type:       corev1.SecretTypeServiceAccountToken,
	}
	token, err := c.SignLegacy(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "robot", UID: "robot-1"}}, secret)
	if err != nil {
		t.Fatal(err)
	}
	if c.good(token) {
		t.Error("accepted before the secret holds it")
	}
	secret.Data = map[string][]byte{corev1.ServiceAccountTokenKey: []byte(token)}
	c.put(store.Secrets, secret)
	if !c.good(token) {
		t.Error("refused")
	}
	stored, err := secrets.Get(ctx, "default", "old")
	if err != nil || stored.Labels[kube.LegacyTokenLastUsedLabel] == "" {
		t.Errorf("labels %v, %v, want the day of its use", stored.GetLabels(), err)
	}
	proposals := c.log.Proposals()
	for range 3 {
		if !c.good(token) {
			t.Error("refused at a later use")
		}
	}
	if c.log.Proposals() != proposals {
		t.Error("a second use on the same day wrote something")
	}
	stored.Data[corev1.ServiceAccountTokenKey] = []byte("another")
	if _, err := secrets.Update(ctx, stored, 0); err != nil {
		t.Fatal(err)
	}
	if c.good(token) {
		t.Error("accepted although the secret holds another")
	}
}

func BenchmarkLookup(b *testing.B) {
	c := newCluster(b)
	token := c.token(ask("Pod", "web", ""))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok, err := c.Lookup(b.Context(), token); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
