package kubernetesservice

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// servers are control nodes that a test changes.
type servers struct {
	mu  sync.Mutex
	now []string
}

func (s *servers) set(now ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
}

func (s *servers) get() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []netip.AddrPort
	for _, a := range s.now {
		all = append(all, netip.MustParseAddrPort(a))
	}
	return all
}

func TestTheServiceOfTheAPIFollowsTheControlNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		nodes := &servers{now: []string{"10.0.0.2:6443", "10.0.0.1:6443", "127.0.0.1:6444"}}
		m.Run(New(Config{Registry: m.Registry, ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"), Servers: nodes.get, Logger: m.Logger}).Run)
		time.Sleep(time.Second)

		cidr := get[*networkingv1.ServiceCIDR](t, m, resource.ServiceCIDRs, "")
		if got := fmt.Sprint(cidr.Spec.CIDRs); got != "[10.43.0.0/16]" {
			t.Errorf("range %s, want the cluster's", got)
		}
		service := get[*corev1.Service](t, m, resource.Services, "default")
		if p := service.Spec.Ports[0]; service.Spec.ClusterIP != "10.43.0.1" || p.Port != 443 || p.TargetPort.IntValue() != 6443 || p.Name != "https" {
			t.Errorf("service at %s, %+v; want the first address, https 443 to 6443", service.Spec.ClusterIP, p)
		}
		wantEndpoints(t, m, "[10.0.0.1 10.0.0.2]")

		before := m.Registry.Store().Revision()
		time.Sleep(time.Hour)
		if now := m.Registry.Store().Revision(); now != before {
			t.Errorf("%d writes in an hour without change, want none", now-before)
		}
		nodes.set("10.0.0.2:6443", "10.0.0.3:6443")
		time.Sleep(2 * lookAgain)
		wantEndpoints(t, m, "[10.0.0.2 10.0.0.3]")
		nodes.set("127.0.0.1:6443")
		time.Sleep(2 * lookAgain)
		wantEndpoints(t, m, "[]")

		if _, _, err := m.Registry.Delete(t.Context(), resource.Services, "default", name, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * lookAgain)
		if again := get[*corev1.Service](t, m, resource.Services, "default"); again.UID == service.UID || again.Spec.ClusterIP != "10.43.0.1" {
			t.Errorf("%+v, want a new service at the same address", again)
		}
		m.End()
	})
}

func TestEndpointsAreWhatPodsCanReach(t *testing.T) {
	for _, tt := range []struct {
		servers []string
		ipv4    bool
		want    string
		port    uint16
	}{
		{nil, true, "[]", 6443},
		{[]string{"10.0.0.2:6443", "[fd00::1]:6443"}, true, "[10.0.0.2]", 6443},
		{[]string{"10.0.0.2:6443", "[fd00::1]:6443"}, false, "[fd00::1]", 6443},
		{[]string{"10.0.0.1:7000", "10.0.0.2:8000", "10.0.0.3:8000"}, true, "[10.0.0.2 10.0.0.3]", 8000},
		{[]string{"10.0.0.1:6443", "10.0.0.1:6443"}, true, "[10.0.0.1]", 6443},
	} {
		got, port := endpoints((&servers{now: tt.servers}).get(), tt.ipv4)
		if fmt.Sprint(got) != tt.want || port != tt.port {
			t.Errorf("%v: %v at %d, want %s at %d", tt.servers, got, port, tt.want, tt.port)
		}
	}
}

func get[T store.Object](t *testing.T, m *test.Term, kind *resource.Kind, ns string) T {
	t.Helper()
	obj, err := m.Registry.Store().Table(kind.Spec).Get(t.Context(), ns, name)
	if err != nil {
		t.Fatal(err)
	}
	return obj.(T)
}

func wantEndpoints(t *testing.T, m *test.Term, want string) {
	t.Helper()
	var inEndpoints, inSlice []string
	for _, s := range get[*corev1.Endpoints](t, m, resource.Endpoints, "default").Subsets { //nolint:staticcheck // served all the same
		for _, a := range s.Addresses {
			inEndpoints = append(inEndpoints, a.IP)
		}
	}
	for _, e := range get[*discoveryv1.EndpointSlice](t, m, resource.EndpointSlices, "default").Endpoints {
		inSlice = append(inSlice, e.Addresses...)
	}
	if fmt.Sprint(inEndpoints) != want || fmt.Sprint(inSlice) != want {
		t.Errorf("endpoints %v, slice %v; want both %s", inEndpoints, inSlice, want)
	}
}
