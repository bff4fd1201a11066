// Package serviceaccount issues and verifies the tokens with which programs are
// known as service accounts: JWTs, as upstream's, bound to objects that must
// still exist when they are shown. The objects are read from this node's
// replica; what a service account may do is package auth's business.
package serviceaccount

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
)

// Keys are what tokens are signed and verified with. They do not change; who
// changes keys gives others.
type Keys struct {
	Signing   *ecdsa.PrivateKey
	Verifying []*ecdsa.PublicKey // Signing's own among them
}

// Config is what Tokens need.
type Config struct {
	Registry *resource.Registry
	// Keys are asked for at each use and must answer from memory, with the same
	// pointer until they change.
	Keys func() (*Keys, error)
	// Issuers: the first is in new tokens, all are accepted.
	Issuers []string
	// Audiences of this API; default the issuers.
	Audiences []string
	// KeysURI is where relying parties find the keys.
	KeysURI string
	// MaxSeconds bounds how long a token is good; 0: as long as it is asked for.
	MaxSeconds int64
}

const (
	// knownMax is how many tokens are remembered as verified.
	knownMax = 4096
	// knownFor is for how long. What a token is bound to is looked at each time.
	knownFor = time.Minute
)

// Tokens issues and verifies tokens. It may be used from any goroutine.
type Tokens struct {
	cfg   Config
	known *cache.LRUExpireCache // of *verified, by the token's hash
	made  atomic.Pointer[machinery]
	now   func() time.Time
}

// machinery is what is made of one set of keys.
type machinery struct {
	keys                   *Keys
	signer                 *kube.ServiceAccountSigner
	authenticator          kube.TokenAuthenticator
	configuration, keysDoc []byte
	maxAge                 int
}

// New returns the tokens of a cluster. It says what is wrong with cfg.
func New(cfg Config) (*Tokens, error) {
	if len(cfg.Issuers) == 0 {
		return nil, errors.New("service account issuer: required")
	}
	if len(cfg.Audiences) == 0 {
		cfg.Audiences = slices.Clone(cfg.Issuers)
	}
	t := &Tokens{cfg: cfg, known: cache.NewLRUExpireCache(knownMax), now: time.Now}
	_, err := t.machinery()
	return t, err
}

// Audiences are those of this API.
func (t *Tokens) Audiences() []string { return t.cfg.Audiences }

func (t *Tokens) machinery() (*machinery, error) {
	keys, err := t.cfg.Keys()
	if err != nil {
		return nil, fmt.Errorf("service accounts' keys: %w", err)
	}
	if m := t.made.Load(); m != nil && m.keys == keys {
		return m, nil
	}
	m := &machinery{keys: keys}
	if m.signer, err = kube.NewServiceAccountSigner(t.cfg.Issuers[0], keys.Signing); err != nil {
		return nil, err
	}
	m.authenticator, err = kube.NewServiceAccountAuthenticator(kube.ServiceAccountVerifier{
		Issuers: t.cfg.Issuers, Keys: keys.Verifying, Audiences: t.cfg.Audiences,
		Objects: objects{t.cfg.Registry.Store()}, UsedLegacy: t.labelUsed,
	})
	if err != nil {
		return nil, err
	}
	if m.configuration, m.keysDoc, m.maxAge, err = kube.OpenIDDocuments(t.cfg.Issuers[0], t.cfg.KeysURI, keys.Verifying); err != nil {
		return nil, fmt.Errorf("service account issuer: %w", err)
	}
	t.made.Store(m)
	return m, nil
}

// Documents are the issuer's OpenID configuration and its keys, JSON, and for
// how many seconds they may be kept.
func (t *Tokens) Documents() (configuration, keys []byte, maxAge int, err error) {
	m, err := t.machinery()
	if err != nil {
		return nil, nil, 0, err
	}
	return m.configuration, m.keysDoc, m.maxAge, nil
}

// verified is a token that was found good.
type verified struct {
	user user.Info
	keys *Keys
	// bound is what it was bound to, as it was. The token is good while nothing
	// of it has changed.
	bound []seen
}

// Lookup says who the bearer of a token is. It is false for tokens that are not
// good for this API, and those of other kinds.
func (t *Tokens) Lookup(ctx context.Context, token string) (user.Info, bool, error) {
	hash := sha256.Sum256([]byte(token))
	if found, ok := t.known.Get(hash); ok {
		if v := found.(*verified); t.holds(v) {
			return v.user, true, nil
		}
	}
	response, record, err := t.authenticate(ctx, token)
	if err != nil || response == nil {
		return nil, false, err
	}
	if until, ok := goodUntil(token, t.now()); ok && !record.ending {
		t.known.Add(hash, &verified{user: response.User, keys: record.keys, bound: record.seen}, min(knownFor, until))
	}
	return response.User, true, nil
}

// Review says who the bearer of a token is to a service that is one of the
// audiences, and for which of them the token is good.
func (t *Tokens) Review(ctx context.Context, token string, audiences []string) (user.Info, []string, bool, error) {
	response, _, err := t.authenticate(authenticator.WithAudiences(ctx, audiences), token)
	if err != nil || response == nil {
		return nil, nil, false, err
	}
	return response.User, response.Audiences, true, nil
}

// authenticate answers nil for a token that is refused. What a replica that
// lags behind refuses is looked at again behind a barrier: the pod that a token
// is bound to may have been made a moment ago through another control node.
func (t *Tokens) authenticate(ctx context.Context, token string) (*authenticator.Response, *record, error) {
	m, err := t.machinery()
	if err != nil {
		return nil, nil, err
	}
	for fresh := false; ; fresh = true {
		r := &record{keys: m.keys}
		response, ok, err := m.authenticator.AuthenticateToken(withRecord(ctx, r), token)
		switch {
		case err == nil && ok:
			return response, r, nil
		case r.asked && !fresh: // by a token that is signed
			if err := t.cfg.Registry.Store().ReadBarrier(ctx); err != nil {
				return nil, nil, err
			}
		default:
			return nil, nil, r.failure
		}
	}
}
