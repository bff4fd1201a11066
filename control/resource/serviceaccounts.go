package resource

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// mountableSecretsAnnotation once limited which secrets an account's pods mount.
const mountableSecretsAnnotation = "kubernetes.io/enforce-mountable-secrets"

// ServiceAccounts refer to their secrets by name alone.
var ServiceAccounts = &Kind{
	Spec:                store.ServiceAccounts,
	Singular:            "serviceaccount",
	ShortNames:          []string{"sa"},
	ReturnDeletedObject: true,
	Subresources: []*Subresource{
		{Name: "token", Kind: schema.GroupVersionKind{Group: "authentication.k8s.io", Version: "v1", Kind: "TokenRequest"}, Verbs: []string{"create"}},
	},
	Strategy: strategy(store.ServiceAccounts, "", Rules[*corev1.ServiceAccount]{
		PrepareForCreate: func(_ context.Context, account *corev1.ServiceAccount) { cleanSecretReferences(account) },
		Validate:         kube.ValidateServiceAccount,
		WarningsOnCreate: func(_ context.Context, account *corev1.ServiceAccount) []string {
			return mountableSecretsWarnings(account, nil)
		},
		PrepareForUpdate: func(_ context.Context, account, _ *corev1.ServiceAccount) { cleanSecretReferences(account) },
		ValidateUpdate:   kube.ValidateServiceAccountUpdate,
		WarningsOnUpdate: func(_ context.Context, account, old *corev1.ServiceAccount) []string {
			return mountableSecretsWarnings(account, old)
		},
	}),
}

func cleanSecretReferences(account *corev1.ServiceAccount) {
	for i, secret := range account.Secrets {
		account.Secrets[i] = corev1.ObjectReference{Name: secret.Name}
	}
}

// mountableSecretsWarnings is for who newly sets the annotation. old is nil for
// a new account.
func mountableSecretsWarnings(account, old *corev1.ServiceAccount) []string {
	if old != nil {
		if _, had := old.Annotations[mountableSecretsAnnotation]; had {
			return nil
		}
	}
	if _, has := account.Annotations[mountableSecretsAnnotation]; !has {
		return nil
	}
	return []string{fmt.Sprintf("metadata.annotations[%s]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets", mountableSecretsAnnotation)}
}
