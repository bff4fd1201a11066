package auth

import (
	"context"
	"errors"
	"slices"

	"k8s.io/apiserver/pkg/authentication/user"
)

// Union asks one kind of token after the other.
type Union []Tokens

// Lookup implements Tokens. An error of one counts only if no other knows the
// token.
func (u Union) Lookup(ctx context.Context, token string) (user.Info, bool, error) {
	var errs []error
	for _, tokens := range u {
		who, ok, err := tokens.Lookup(ctx, token)
		if ok {
			return who, true, nil
		}
		errs = append(errs, err)
	}
	return nil, false, errors.Join(errs...)
}

// Reviewer is Tokens that are good for some audiences and not for others.
type Reviewer interface {
	Tokens
	// Review says whose token it is to a service that is one of the audiences,
	// and for which of them it is good.
	Review(ctx context.Context, token string, audiences []string) (who user.Info, good []string, ok bool, err error)
}

// Review says who the bearer of a token is to a service that is one of
// audiences, and for which of them the token is good. Without audiences it is
// this API that asks; tokens that know no audiences are good for it alone.
func (a *Authenticator) Review(ctx context.Context, token string, audiences []string) (who user.Info, good []string, ok bool, err error) {
	if token == "" {
		return nil, nil, false, nil
	}
	if len(audiences) == 0 {
		audiences = a.audiences
	}
	who, good, ok, err = review(ctx, a.tokens, token, a.audiences, audiences)
	if ok {
		who = authenticated(who)
	}
	return who, good, ok, err
}

func review(ctx context.Context, tokens Tokens, token string, own, audiences []string) (user.Info, []string, bool, error) {
	switch t := tokens.(type) {
	case nil:
		return nil, nil, false, nil
	case Union:
		var errs []error
		for _, one := range t {
			who, good, ok, err := review(ctx, one, token, own, audiences)
			if ok {
				return who, good, true, nil
			}
			errs = append(errs, err)
		}
		return nil, nil, false, errors.Join(errs...)
	case Reviewer:
		return t.Review(ctx, token, audiences)
	}
	var good []string
	for _, a := range own {
		if slices.Contains(audiences, a) {
			good = append(good, a)
		}
	}
	if len(good) == 0 {
		return nil, nil, false, nil
	}
	who, ok, err := tokens.Lookup(ctx, token)
	return who, good, ok, err
}
