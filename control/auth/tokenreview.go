package auth

import (
	"context"
	"fmt"

	"k8s.io/apiserver/pkg/authentication/user"
)

// AudienceTokens are Tokens that know whom a token is for.
type AudienceTokens interface {
	// LookupFor finds who a token belongs to that is good for one of audiences,
	// and answers which of them. No audiences stand for the API server's own.
	LookupFor(ctx context.Context, token string, audiences []string) (user.Info, []string, bool, error)
}

// Token says whose a bearer token is, and for which of audiences it is good, as
// TokenReview asks: ErrBadCredentials if it is nobody's. Tokens that do not know
// whom they are for are for the API server alone, which no audience names.
func (a *Authenticator) Token(ctx context.Context, token string, audiences []string) (u user.Info, good []string, err error) {
	var ok bool
	switch tokens := a.tokens.(type) {
	case nil:
	case AudienceTokens:
		u, good, ok, err = tokens.LookupFor(ctx, token, audiences)
	default:
		if len(audiences) == 0 {
			u, ok, err = tokens.Lookup(ctx, token)
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("look up bearer token: %w", err)
	}
	if !ok {
		return nil, nil, fmt.Errorf("bearer token: %w", ErrBadCredentials)
	}
	return authenticated(u), good, nil
}
