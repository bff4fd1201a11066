package auth

import (
	"context"
	"errors"
	"slices"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
)

// forAudiences are tokens that name who they are for.
type forAudiences struct {
	TokenTable
	good []string
}

func (f forAudiences) Review(ctx context.Context, token string, audiences []string) (user.Info, []string, bool, error) {
	who, ok, err := f.Lookup(ctx, token)
	if ok = ok && slices.ContainsFunc(f.good, func(a string) bool { return slices.Contains(audiences, a) }); !ok {
		return nil, nil, false, err
	}
	return who, f.good, true, nil
}

// broken cannot tell.
type broken struct{}

func (broken) Lookup(context.Context, string) (user.Info, bool, error) {
	return nil, false, errors.New("broken")
}

func TestTokensOfAnyKindAreReviewed(t *testing.T) {
	plain, bound := TokenTable{}, forAudiences{TokenTable{}, []string{"vault"}}
	plain.Add("plain", person("alice"))
	bound.Add("bound", person("robot"))
	a := NewAuthenticator(Union{broken{}, plain, bound}, "api")
	for _, c := range []struct {
		name, token string
		audiences   []string
		who         string
		good        []string
		err         bool
	}{
		{"a plain token", "plain", nil, "alice", []string{"api"}, false},
		{"a plain token, for this API among others", "plain", []string{"vault", "api"}, "alice", []string{"api"}, false},
		{"a plain token, for others", "plain", []string{"vault"}, "", nil, false},
		{"a bound token", "bound", []string{"vault"}, "robot", []string{"vault"}, false},
		{"a bound token, for this API", "bound", nil, "", nil, true},
		{"a token that nobody knows", "x", nil, "", nil, true},
		{"no token", "", nil, "", nil, false},
	} {
		who, good, ok, err := a.Review(t.Context(), c.token, c.audiences)
		if ok != (c.who != "") || (err != nil) != c.err || !slices.Equal(good, c.good) || ok && who.GetName() != c.who {
			t.Errorf("%s: %v, good for %v, %t, %v, want %q, %v", c.name, who, good, ok, err, c.who, c.good)
		}
	}
	if who, ok, err := (Union{broken{}, plain}).Lookup(t.Context(), "plain"); err != nil || !ok || who.GetName() != "alice" {
		t.Errorf("behind one that cannot tell: %v, %t, %v", who, ok, err)
	}
}
