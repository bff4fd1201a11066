package kube

import (
	corev1 "k8s.io/api/core/v1"
	corev1listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/kubernetes/plugin/pkg/auth/authenticator/token/bootstrap"
)

// NewBootstrapAuthenticator accepts bootstrap tokens. secret gives a secret of
// kube-system, or the API's NotFound.
func NewBootstrapAuthenticator(secret func(name string) (*corev1.Secret, error)) TokenAuthenticator {
	return bootstrap.NewTokenAuthenticator(secretsByName{get: secret})
}

// secretsByName is the one call that upstream makes of a lister.
type secretsByName struct {
	corev1listers.SecretNamespaceLister
	get func(name string) (*corev1.Secret, error)
}

func (s secretsByName) Get(name string) (*corev1.Secret, error) { return s.get(name) }
