package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
)

// ErrNoCredentials means that a request says nothing about who sends it.
var ErrNoCredentials = errors.New("no credentials")

// ErrBadCredentials means that a request claims to be someone and is not.
var ErrBadCredentials = errors.New("credentials are not valid")

// Tokens finds who a bearer token belongs to.
type Tokens interface {
	Lookup(ctx context.Context, token string) (user.Info, bool, error)
}

// TokenTable is a fixed set of bearer tokens. It keeps their hashes only, so a
// lookup's time says nothing about a token and a memory dump holds none.
type TokenTable map[[sha256.Size]byte]user.Info

// Add makes token stand for u.
func (t TokenTable) Add(token string, u user.Info) {
	t[sha256.Sum256([]byte(token))] = u
}

// Lookup implements Tokens.
func (t TokenTable) Lookup(_ context.Context, token string) (user.Info, bool, error) {
	u, ok := t[sha256.Sum256([]byte(token))]
	return u, ok, nil
}

// Authenticator finds out who sends a request.
type Authenticator struct {
	tokens    Tokens
	audiences []string
	now       func() time.Time
}

// NewAuthenticator returns an authenticator for client certificates and, unless
// tokens is nil, bearer tokens. The audiences are this API's, for Review.
func NewAuthenticator(tokens Tokens, audiences ...string) *Authenticator {
	return &Authenticator{tokens: tokens, audiences: audiences, now: time.Now}
}

// Authenticate says who sends r: ErrNoCredentials when r does not say,
// ErrBadCredentials when it says so falsely, another error when it could not be
// found out. The TLS listener has verified the certificate against the
// cluster's CA; one that has expired since is refused here, because a
// connection may live for long.
func (a *Authenticator) Authenticate(r *http.Request) (user.Info, error) {
	if token, ok := bearerToken(r); ok {
		if a.tokens == nil || token == "" {
			return nil, fmt.Errorf("bearer token: %w", ErrBadCredentials)
		}
		u, ok, err := a.tokens.Lookup(r.Context(), token)
		if err != nil {
			return nil, fmt.Errorf("look up bearer token: %w", err)
		}
		if !ok {
			return nil, fmt.Errorf("bearer token: %w", ErrBadCredentials)
		}
		return authenticated(u), nil
	}
	if r.Header.Get("Authorization") != "" {
		return nil, fmt.Errorf("only bearer tokens and client certificates are accepted: %w", ErrBadCredentials)
	}
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return nil, ErrNoCredentials
	}
	leaf := r.TLS.VerifiedChains[0][0]
	if now := a.now(); now.After(leaf.NotAfter) {
		return nil, fmt.Errorf("client certificate expired at %s: %w", leaf.NotAfter.UTC().Format(time.RFC3339), ErrBadCredentials)
	}
	if leaf.Subject.CommonName == "" {
		return nil, fmt.Errorf("client certificate without a common name: %w", ErrBadCredentials)
	}
	id := sha256.Sum256(leaf.Raw)
	return authenticated(&user.DefaultInfo{
		Name:   leaf.Subject.CommonName,
		Groups: slices.Clone(leaf.Subject.Organization),
		Extra:  map[string][]string{user.CredentialIDKey: {"X509SHA256=" + hex.EncodeToString(id[:])}},
	}), nil
}

func bearerToken(r *http.Request) (string, bool) {
	scheme, token, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	return strings.TrimSpace(token), true
}

// Anonymous is who sends a request without credentials.
func Anonymous() user.Info {
	return &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}
}

// authenticated adds the group that holds everyone who is known.
func authenticated(u user.Info) user.Info {
	if slices.Contains(u.GetGroups(), user.AllAuthenticated) {
		return u
	}
	return &user.DefaultInfo{
		Name:   u.GetName(),
		UID:    u.GetUID(),
		Groups: append(slices.Clone(u.GetGroups()), user.AllAuthenticated),
		Extra:  u.GetExtra(),
	}
}
