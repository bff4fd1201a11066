// Package bootstraptoken admits bearers of bootstrap tokens, with which a
// machine is known before it has a certificate: each is a secret in
// kube-system, with upstream's form and meaning (type
// bootstrap.kubernetes.io/token). What such a machine may do is package auth's
// business. Muster's own machines join with tokens of another kind
// (consensus/identity).
package bootstraptoken

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// Tokens are the bootstrap tokens of a cluster.
type Tokens struct {
	authenticator kube.TokenAuthenticator
}

// New returns the tokens that are among the secrets of s, as this replica has
// them.
func New(s *store.Store) *Tokens {
	secrets := store.Of[*corev1.Secret](s, store.Secrets)
	return &Tokens{kube.NewBootstrapAuthenticator(func(name string) (*corev1.Secret, error) {
		secret, err := secrets.Get(context.Background(), metav1.NamespaceSystem, name)
		if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrInvalid) {
			return nil, apierrors.NewNotFound(store.Secrets.Resource, name)
		}
		return secret, err
	})}
}

// Lookup says who the bearer is.
func (t *Tokens) Lookup(ctx context.Context, token string) (user.Info, bool, error) {
	response, ok, err := t.authenticator.AuthenticateToken(ctx, token)
	if err != nil || !ok {
		return nil, false, err
	}
	return response.User, true, nil
}
