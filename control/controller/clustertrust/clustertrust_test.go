package clustertrust

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWhatToTrustIsPublishedAndKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		m.Run(New(Config{
			Registry: m.Registry, ClientCA: []byte("clients"), FrontProxyCA: []byte("proxies"), FrontProxyName: "front", Logger: m.Logger,
		}).Run)
		get := func() *corev1.ConfigMap {
			t.Helper()
			for _, c := range test.List[*corev1.ConfigMap](m, store.ConfigMaps) {
				if c.Name == name && c.Namespace == "kube-system" {
					return c
				}
			}
			t.Fatal("there is none")
			return nil
		}
		time.Sleep(time.Second)
		if d := get().Data; d["client-ca-file"] != "clients" || d["requestheader-client-ca-file"] != "proxies" || d["requestheader-allowed-names"] != `["front"]` {
			t.Errorf("%v", d)
		}
		_, _, err := m.Registry.Update(t.Context(), resource.ConfigMaps, "kube-system", name, "", func(current store.Object) (store.Object, error) {
			c := current.(*corev1.ConfigMap)
			c.Data = map[string]string{"client-ca-file": "mine", "other": "stays"}
			return c, nil
		}, resource.UpdateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(every + time.Second)
		if d := get().Data; d["client-ca-file"] != "clients" || d["other"] != "stays" {
			t.Errorf("after it was changed: %v", d)
		}
		before := m.Registry.Store().Revision()
		time.Sleep(10 * every)
		if now := m.Registry.Store().Revision(); now != before {
			t.Errorf("revision %d, want %d: nothing changed, and something was written", now, before)
		}
		m.End()
	})
}
