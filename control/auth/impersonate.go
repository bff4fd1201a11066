package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"k8s.io/apiserver/pkg/authentication/user"
)

// ErrIncompleteImpersonation means that a request names groups, a uid or extra
// of a user to act as, but no user.
var ErrIncompleteImpersonation = errors.New("requested groups, uid or extra without impersonating a user")

// Forbidden is an impersonation that is not allowed.
type Forbidden struct {
	Request Attributes
	Reason  string
}

func (f *Forbidden) Error() string { return ForbiddenMessage(f.Request, f.Reason) }

const (
	impersonateUser  = "Impersonate-User"
	impersonateUID   = "Impersonate-Uid"
	impersonateGroup = "Impersonate-Group"
	impersonateExtra = "Impersonate-Extra-"
)

// Impersonate is who a request is to be answered as (kubectl --as): u itself, or
// the user that the Impersonate headers name if u may act as them. Ignoring the
// headers would run with u's rights what was meant to run with fewer.
func (a *Authorizer) Impersonate(ctx context.Context, u user.Info, headers http.Header) (user.Info, error) {
	as := &user.DefaultInfo{Name: headers.Get(impersonateUser), UID: headers.Get(impersonateUID), Groups: slices.Clone(headers[impersonateGroup])}
	for key := range headers {
		if len(key) > len(impersonateExtra) && key[:len(impersonateExtra)] == impersonateExtra {
			// Extra is for webhooks and audit, which are not there yet: refusing
			// is better than dropping what a policy could rest on.
			return nil, fmt.Errorf("impersonating extra fields (%s) is not supported: %w", key, ErrBadCredentials)
		}
	}
	if as.Name == "" {
		if as.UID != "" || len(as.Groups) > 0 {
			return nil, ErrIncompleteImpersonation
		}
		return u, nil
	}
	asked := []Attributes{{User: u, Verb: "impersonate", Resource: "users", Name: as.Name}}
	for _, group := range as.Groups {
		asked = append(asked, Attributes{User: u, Verb: "impersonate", Resource: "groups", Name: group})
	}
	if as.UID != "" {
		asked = append(asked, Attributes{User: u, Verb: "impersonate", Group: "authentication.k8s.io", Resource: "uids", Name: as.UID})
	}
	for _, request := range asked {
		if ok, reason := a.Authorize(ctx, request); !ok {
			return nil, &Forbidden{Request: request, Reason: reason}
		}
	}
	if as.Name == user.Anonymous {
		return Anonymous(), nil
	}
	return authenticated(as), nil
}
