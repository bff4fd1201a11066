package tokensecret

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func tokenSecret(name, account string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: account}},
		Type:       corev1.SecretTypeServiceAccountToken,
	}
}

func TestTokenSecretsAreFilledAndGoWithTheirAccount(t *testing.T) {
	m := controllertest.Begin(t, storetest.New(t))
	config := Config{Registry: m.Registry, Certificate: []byte("ca"), Logger: m.Logger, Sign: func(_ context.Context, a *corev1.ServiceAccount, s *corev1.Secret) (string, error) {
		return "token of " + a.Name + " in " + s.Name, nil
	}}
	m.Run(New(config).Run)
	account := controllertest.Create(m, resource.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "robot"}})
	controllertest.Create(m, resource.Secrets, tokenSecret("a", "robot"))
	controllertest.Create(m, resource.Secrets, tokenSecret("b", "robot"))
	controllertest.Create(m, resource.Secrets, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "plain", Annotations: map[string]string{corev1.ServiceAccountNameKey: "robot"}}})
	get := func(name string) (*corev1.Secret, bool) {
		return controllertest.Get[*corev1.Secret](m, store.Secrets, "default", name)
	}
	controllertest.Eventually(t, func() string {
		for _, name := range []string{"a", "b"} {
			s, ok := get(name)
			if !ok || string(s.Data["token"]) != "token of robot in "+name || string(s.Data["ca.crt"]) != "ca" || string(s.Data["namespace"]) != "default" ||
				s.Annotations[corev1.ServiceAccountUIDKey] != string(account.UID) {
				return "secret " + name + " is not filled"
			}
		}
		return ""
	})

	// An account does not go on naming a secret that is gone.
	controllertest.Change(m, resource.ServiceAccounts, "default", "robot", "", func(a *corev1.ServiceAccount) {
		a.Secrets = []corev1.ObjectReference{{Name: "b"}, {Name: "other"}}
	})
	m.Delete(resource.Secrets, "default", "b")
	controllertest.Eventually(t, func() string {
		if a, _ := controllertest.Get[*corev1.ServiceAccount](m, store.ServiceAccounts, "default", "robot"); len(a.Secrets) != 1 || a.Secrets[0].Name != "other" {
			return "the account names the secret that is gone"
		}
		return ""
	})

	// Without anything to do nothing is written.
	revision := m.Settled(20 * time.Millisecond)
	m.End()
	m = controllertest.Resume(t, m.Registry.Store())
	config.Registry = m.Registry
	m.Run(New(config).Run)
	if got := m.Settled(50 * time.Millisecond); got != revision {
		t.Errorf("revision %d in the next term, want %d as before", got, revision)
	}

	m.Delete(resource.ServiceAccounts, "default", "robot")
	controllertest.Create(m, resource.Secrets, tokenSecret("late", "robot"))
	controllertest.Eventually(t, func() string {
		for _, name := range []string{"a", "late"} {
			if _, ok := get(name); ok {
				return "secret " + name + " of an account that is gone is there"
			}
		}
		return ""
	})
	if _, ok := get("plain"); !ok {
		t.Error("a secret of another type went with the account")
	}
}
