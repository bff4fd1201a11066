package rootca

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

func TestTheCertificateIsInEveryNamespace(t *testing.T) {
	m := controllertest.Begin(t, storetest.New(t))
	c := New(Config{Registry: m.Registry, Caches: m.Caches, Certificate: []byte("the certificate"), Logger: m.Logger})
	m.Run(c.Run)
	has := func(namespace string) {
		t.Helper()
		controllertest.Eventually(t, func() string {
			got, ok := controllertest.Get[*corev1.ConfigMap](m, store.ConfigMaps, namespace, "kube-root-ca.crt")
			if !ok || got.Data["ca.crt"] != "the certificate" || len(got.Data) != 1 {
				return "no certificate in " + namespace
			}
			return ""
		})
	}
	has("default")
	controllertest.Create(m, resource.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}})
	has("team")
	controllertest.Change(m, resource.ConfigMaps, "team", name, "", func(c *corev1.ConfigMap) { c.Data = map[string]string{"ca.crt": "another", "more": ""} })
	has("team")
	m.Delete(resource.ConfigMaps, "team", name)
	has("team")

	revision := m.Settled(20 * time.Millisecond)
	m.End()
	next := controllertest.Resume(t, m.Registry.Store())
	again := New(Config{Registry: next.Registry, Caches: next.Caches, Certificate: []byte("the certificate"), Logger: next.Logger})
	next.Run(again.Run)
	if got := next.Settled(50 * time.Millisecond); got != revision {
		t.Errorf("revision %d in the next term, want %d as before", got, revision)
	}
}
