package resource

import (
	"context"
	"crypto/tls"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// Secrets keep their type: an update that leaves it out means the old one.
var Secrets = &Kind{
	Spec:     store.Secrets,
	Singular: "secret",
	Strategy: strategy(store.Secrets, "", Rules[*corev1.Secret]{
		Validate:         kube.ValidateSecret,
		WarningsOnCreate: func(_ context.Context, secret *corev1.Secret) []string { return secretWarnings(secret) },
		PrepareForUpdate: func(_ context.Context, secret, old *corev1.Secret) {
			if secret.Type == "" {
				secret.Type = old.Type
			}
		},
		ValidateUpdate:   kube.ValidateSecretUpdate,
		WarningsOnUpdate: func(_ context.Context, secret, _ *corev1.Secret) []string { return secretWarnings(secret) },
	}),
}

// secretWarnings tells whose key and certificate do not belong together.
func secretWarnings(secret *corev1.Secret) []string {
	if secret.Type != corev1.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}
