package auth

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
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

// Impersonate is who a request is to be answered as (kubectl --as): u itself, or
// the user that the Impersonate headers name if u may act as each of: that user
// or service account, every group, the uid, every value of extra. Ignoring the
// headers would run with u's rights what was meant to run with fewer.
//
// This is upstream's impersonation by the verb "impersonate". The narrower one
// of later verbs is beta and not here.
func (a *Authorizer) Impersonate(ctx context.Context, u user.Info, headers http.Header) (user.Info, error) {
	as, asked, err := impersonated(u, headers)
	if err != nil || as == nil {
		return u, err
	}
	for _, request := range asked {
		decision, err := a.Authorize(ctx, request)
		if err != nil {
			return nil, err
		}
		if !decision.Allowed {
			return nil, &Forbidden{Request: request, Reason: decision.Reason()}
		}
	}
	return as, nil
}

// impersonated is who the headers name, nil if nobody, and what u must be allowed
// for it.
func impersonated(u user.Info, headers http.Header) (*user.DefaultInfo, []Attributes, error) {
	as := &user.DefaultInfo{
		Name:   headers.Get(authenticationv1.ImpersonateUserHeader),
		UID:    headers.Get(authenticationv1.ImpersonateUIDHeader),
		Groups: slices.Clone(headers[authenticationv1.ImpersonateGroupHeader]),
		Extra:  map[string][]string{},
	}
	for header, values := range headers {
		if key, ok := strings.CutPrefix(header, authenticationv1.ImpersonateUserExtraHeaderPrefix); ok {
			key = extraKey(key)
			as.Extra[key] = append(as.Extra[key], values...)
		}
	}
	if as.Name == "" {
		if as.UID != "" || len(as.Groups) > 0 || len(as.Extra) > 0 {
			return nil, nil, ErrIncompleteImpersonation
		}
		return nil, nil, nil
	}

	ask := Attributes{User: u, Verb: "impersonate", Version: "v1"}
	var asked []Attributes
	of := func(group, resource, subresource, namespace, name string) {
		ask.Group, ask.Resource, ask.Subresource, ask.Namespace, ask.Name = group, resource, subresource, namespace, name
		asked = append(asked, ask)
	}
	namespace, name, notServiceAccount := serviceaccount.SplitUsername(as.Name)
	if notServiceAccount == nil {
		of("", "serviceaccounts", "", namespace, name)
	} else {
		of("", "users", "", "", as.Name)
	}
	for _, group := range as.Groups {
		of("", "groups", "", "", group)
	}
	for key, values := range as.Extra {
		for _, value := range values {
			of(authenticationv1.GroupName, "userextras", key, "", value)
		}
	}
	if as.UID != "" {
		of(authenticationv1.GroupName, "uids", "", "", as.UID)
	}

	if notServiceAccount == nil && len(as.Groups) == 0 {
		as.Groups = serviceaccount.MakeGroupNames(namespace)
	}
	switch {
	case as.Name == user.Anonymous:
		if !slices.Contains(as.Groups, user.AllUnauthenticated) {
			as.Groups = append(as.Groups, user.AllUnauthenticated)
		}
	case !slices.Contains(as.Groups, user.AllAuthenticated) && !slices.Contains(as.Groups, user.AllUnauthenticated):
		as.Groups = append(as.Groups, user.AllAuthenticated)
	}
	return as, asked, nil
}

// extraKey reads a key of extra from the rest of a header's name, where it is
// escaped; one that is not keeps its form.
func extraKey(encoded string) string {
	encoded = strings.ToLower(encoded)
	if key, err := url.PathUnescape(encoded); err == nil {
		return key
	}
	return encoded
}
