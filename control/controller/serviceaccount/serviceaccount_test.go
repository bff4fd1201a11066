package serviceaccount

import (
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

func TestEveryNamespaceHasItsDefaultAccount(t *testing.T) {
	m := controllertest.Begin(t, storetest.New(t))
	c := New(Config{Registry: m.Registry, Caches: m.Caches, Logger: m.Logger})
	m.Run(c.Run)
	has := func(namespace string) {
		t.Helper()
		controllertest.Eventually(t, func() string {
			if _, ok := controllertest.Get[*corev1.ServiceAccount](m, store.ServiceAccounts, namespace, "default"); !ok {
				return "no default account in " + namespace
			}
			return ""
		})
	}
	has("default")
	has("kube-system")
	controllertest.Create(m, resource.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}})
	has("team")
	before, _ := controllertest.Get[*corev1.ServiceAccount](m, store.ServiceAccounts, "team", "default")
	m.Delete(resource.ServiceAccounts, "team", "default")
	controllertest.Eventually(t, func() string {
		if now, ok := controllertest.Get[*corev1.ServiceAccount](m, store.ServiceAccounts, "team", "default"); !ok || now.UID == before.UID {
			return "the account that was deleted is not made again"
		}
		return ""
	})

	// The next leader finds all there, and writes nothing.
	revision := m.Settled(20 * time.Millisecond)
	m.End()
	next := controllertest.Resume(t, m.Registry.Store())
	again := New(Config{Registry: next.Registry, Caches: next.Caches, Logger: next.Logger})
	next.Run(again.Run)
	if got := next.Settled(50 * time.Millisecond); got != revision {
		t.Errorf("revision %d in the next term, want %d as before", got, revision)
	}
}
