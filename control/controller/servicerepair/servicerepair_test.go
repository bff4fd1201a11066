package servicerepair

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(m *test.Term) {
	m.Run(New(Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run)
}

func service(m *test.Term, name string) *corev1.Service {
	return test.Create(m, resource.Services, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}},
	})
}

func ranges(m *test.Term) {
	test.Create(m, resource.ServiceCIDRs, &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: resource.DefaultServiceCIDR}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.43.0.0/24"}},
	})
}

// txn writes past all rules, as a bug or a hand would.
func txn(t *testing.T, m *test.Term, writes ...store.Write) {
	t.Helper()
	if _, err := m.Registry.Store().Txn(context.Background(), writes); err != nil {
		t.Fatal(err)
	}
}

func port(s *corev1.Service) string { return fmt.Sprint(s.Spec.Ports[0].NodePort) }

// wrong says what is not as it should be: each service has its address and its node
// port, and nothing else is held.
func wrong(m *test.Term) string {
	holdings := resource.ServiceHoldings{
		Services: test.List[*corev1.Service](m, store.Services), Addresses: test.List[*networkingv1.IPAddress](m, store.IPAddresses),
		Ranges: test.List[*networkingv1.ServiceCIDR](m, store.ServiceCIDRs), Ports: resource.NodePorts(m.Registry.Store()),
	}
	if len(holdings.Addresses) != len(holdings.Services) || len(holdings.Ports) != len(holdings.Services) {
		return fmt.Sprintf("%d addresses and %d ports of %d services", len(holdings.Addresses), len(holdings.Ports), len(holdings.Services))
	}
	if left, _ := holdings.Repairs(m.Registry.Store(), time.Now().Add(time.Hour)); len(left) > 0 {
		return fmt.Sprintf("%q of %s is still wrong", left[0].Message, left[0].About)
	}
	return ""
}

func reasons(m *test.Term) map[string]int {
	counts := map[string]int{}
	for _, e := range test.List[*corev1.Event](m, store.Events) {
		counts[e.Reason] += int(e.Count)
	}
	return counts
}

// spoil does one thing that should not be.
func spoil(t *testing.T, m *test.Term, kind int, s *corev1.Service) {
	claims := m.Registry.Store().Claims("nodeports")
	release, _ := claims.Release(port(s), "default/"+s.Name)
	address := func(change func(*networkingv1.IPAddress)) store.Write {
		ip, _ := test.Get[*networkingv1.IPAddress](m, store.IPAddresses, "", s.Spec.ClusterIP)
		change(ip)
		return store.Write{Verb: store.Update, Spec: store.IPAddresses, Object: ip}
	}
	switch kind {
	case 0:
		txn(t, m, store.Write{Verb: store.Delete, Spec: store.IPAddresses, Name: s.Spec.ClusterIP})
	case 1:
		txn(t, m, address(func(ip *networkingv1.IPAddress) { ip.Spec.ParentRef.Name = "nobody" }))
	case 2:
		txn(t, m, address(func(ip *networkingv1.IPAddress) { ip.Spec.ParentRef.Resource = "gateways" }))
	case 3:
		txn(t, m, address(func(ip *networkingv1.IPAddress) { ip.Labels = nil }))
	case 4:
		txn(t, m, release)
	case 5:
		txn(t, m, release)
		txn(t, m, claims.Take(port(s), "default/nobody"))
	case 6:
		txn(t, m, claims.Take(fmt.Sprint(30000+rand.IntN(50)), "default/"+s.Name))
	case 7: // another address of this service, and one of none
		for _, name := range []string{s.Name, "nobody"} {
			txn(t, m, store.Write{Verb: store.Create, Spec: store.IPAddresses, Object: &networkingv1.IPAddress{
				ObjectMeta: metav1.ObjectMeta{Name: freeAddress(m), UID: "1", CreationTimestamp: metav1.Now(), Labels: map[string]string{networkingv1.LabelManagedBy: resource.AddressManager}},
				Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: name}},
			}})
		}
	}
}

const spoils = 8

// freeAddress is one of the range that nobody has.
func freeAddress(m *test.Term) string {
	taken := map[string]bool{}
	for _, ip := range test.List[*networkingv1.IPAddress](m, store.IPAddresses) {
		taken[ip.Name] = true
	}
	for _, s := range test.List[*corev1.Service](m, store.Services) {
		taken[s.Spec.ClusterIP] = true
	}
	for last := 240; ; last-- {
		if name := fmt.Sprint("10.43.0.", last); !taken[name] {
			return name
		}
	}
}

func TestWhatServicesHoldIsMended(t *testing.T) {
	for kind := range spoils {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := test.Begin(t, storetest.New(t))
				ranges(m)
				start(m)
				s := service(m, "web")
				service(m, "other")
				time.Sleep(time.Minute)
				revision := m.Registry.Store().Revision()
				time.Sleep(time.Hour)
				if now := m.Registry.Store().Revision(); now != revision {
					t.Errorf("%d writes where nothing is wrong, want none", now-revision)
				}
				spoil(t, m, kind, s)
				if wrong(m) == "" {
					t.Fatal("nothing is wrong to begin with")
				}
				// A port's claim is no object that a watch would show: the next change or leader finds it.
				test.Create(m, resource.Services, &corev1.Service{
					ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "late"},
					Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}},
				})
				time.Sleep(2 * time.Minute)
				if got := wrong(m); got != "" {
					t.Error(got)
				}
				m.End()
			})
		})
	}
}

func TestWhatOnlyPeopleCanMendIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		ranges(m)
		start(m)
		first, second := service(m, "first"), service(m, "second")
		both := second.DeepCopy()
		both.Spec.ClusterIP, both.Spec.ClusterIPs = first.Spec.ClusterIP, first.Spec.ClusterIPs
		both.Spec.Ports[0].NodePort = first.Spec.Ports[0].NodePort
		out := service(m, "out")
		out.Spec.ClusterIP, out.Spec.ClusterIPs = "192.168.0.1", []string{"192.168.0.1"}
		out.Spec.Ports[0].NodePort = 80
		txn(t, m, store.Write{Verb: store.Update, Spec: store.Services, Object: both}, store.Write{Verb: store.Update, Spec: store.Services, Object: out})
		time.Sleep(2 * time.Minute)
		service(m, "third")
		time.Sleep(2 * time.Minute)
		for _, reason := range []string{"ClusterIPAlreadyAllocated", "PortAlreadyAllocated", "ClusterIPOutOfRange", "PortOutOfRange"} {
			if got := reasons(m)[reason]; got != 1 {
				t.Errorf("%d events %s, want 1", got, reason)
			}
		}
		// Once the first is gone the second has both.
		m.Delete(resource.Services, "default", "out")
		m.Delete(resource.Services, "default", "first")
		time.Sleep(2 * time.Minute)
		if got := wrong(m); got != "" {
			t.Error(got)
		}
		m.End()
	})
}

func TestANewLeaderMendsOn(t *testing.T) {
	test.LeaderDiesAtAnyWrite(t, 6, func(t *testing.T, user *test.Term) {
		ranges(user)
		var services []*corev1.Service
		for kind := range spoils {
			services = append(services, service(user, fmt.Sprint("s", kind)))
		}
		for kind, s := range services { // whose addresses no later service gets
			spoil(t, user, kind, s)
		}
	}, func(m *test.Term) {
		start(m)
		time.Sleep(2 * time.Minute) // strays are given their time
	}, func(t *testing.T, m *test.Term) {
		if got := wrong(m); got != "" {
			t.Error(got)
		}
	})
}
