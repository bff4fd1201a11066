package servicecidr

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestARangeStaysAsLongAsAServiceNeedsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		m.Run(New(Config{Registry: m.Registry, Logger: m.Logger}).Run)
		cidr(t, m, "kubernetes", "10.43.0.0/28")
		cidr(t, m, "unused", "10.44.0.0/28")
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
		if _, err := m.Registry.Create(t.Context(), resource.Services, "default", service, resource.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		want(t, m, "kubernetes", "True "+isReady)
		want(t, m, "unused", "True "+isReady)
		before := m.Registry.Store().Revision()
		time.Sleep(time.Hour)
		if now := m.Registry.Store().Revision(); now != before {
			t.Errorf("%d writes in an hour without change, want none", now-before)
		}

		remove(t, m, "unused")
		remove(t, m, "kubernetes")
		time.Sleep(time.Second)
		want(t, m, "unused", "")
		want(t, m, "kubernetes", "False "+isNeeded)
		other := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: service.Spec}
		other.Spec.ClusterIP, other.Spec.ClusterIPs = "", nil
		if _, err := m.Registry.Create(t.Context(), resource.Services, "default", other, resource.CreateOptions{}); err == nil {
			t.Error("a service was given an address of a range that is going")
		}
		cidr(t, m, "larger", "10.43.0.0/24")
		time.Sleep(2 * lookAgain)
		want(t, m, "kubernetes", "")
		remove(t, m, "larger")
		time.Sleep(2 * lookAgain)
		want(t, m, "larger", "False "+isNeeded)
		if _, _, err := m.Registry.Delete(t.Context(), resource.Services, "default", "web", nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * lookAgain)
		want(t, m, "larger", "")
		m.End()
	})
}

func cidr(t *testing.T, m *test.Term, name, prefix string) {
	t.Helper()
	obj := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{prefix}}}
	if _, err := m.Registry.Create(t.Context(), resource.ServiceCIDRs, "", obj, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, m *test.Term, name string) {
	t.Helper()
	if _, _, err := m.Registry.Delete(t.Context(), resource.ServiceCIDRs, "", name, nil); err != nil {
		t.Fatal(err)
	}
}

// want is the status and message of a range's condition, empty for one that is gone.
func want(t *testing.T, m *test.Term, name, want string) {
	t.Helper()
	got := ""
	if obj, err := m.Registry.Store().Table(resource.ServiceCIDRs.Spec).Get(t.Context(), "", name); err == nil {
		got = "no condition"
		for _, c := range obj.(*networkingv1.ServiceCIDR).Status.Conditions {
			got = fmt.Sprint(c.Status, " ", c.Message)
		}
	}
	if got != want {
		t.Errorf("range %s: %q, want %q", name, got, want)
	}
}
