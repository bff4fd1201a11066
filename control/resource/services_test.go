package resource

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

// withServiceRange gives a registry the ranges that services take from.
func withServiceRange(t testing.TB, r *Registry, cidrs ...string) *Registry {
	t.Helper()
	must(t, r, ServiceCIDRs, "", &networkingv1.ServiceCIDR{ObjectMeta: named(DefaultServiceCIDR), Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}})
	return r
}

func newService(name string, edits ...func(*corev1.ServiceSpec)) *corev1.Service {
	service := &corev1.Service{ObjectMeta: named(name), Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": name},
		Ports:    []corev1.ServicePort{{Name: "http", Port: 80}},
	}}
	for _, edit := range edits {
		edit(&service.Spec)
	}
	return service
}

func ofType(serviceType corev1.ServiceType) func(*corev1.ServiceSpec) {
	return func(spec *corev1.ServiceSpec) { spec.Type = serviceType }
}

// held lists the addresses and the node ports that are taken.
func held(t *testing.T, r *Registry) (addresses, ports []string) {
	t.Helper()
	for item := range r.store.View().Range(store.IPAddresses.Prefix(""), "") {
		_, name := store.IPAddresses.SplitKey(item.Key)
		addresses = append(addresses, name)
	}
	for item := range r.store.View().Range("claims/"+nodePortClaims+"/", "") {
		ports = append(ports, strings.TrimPrefix(item.Key, "claims/"+nodePortClaims+"/"))
	}
	return addresses, ports
}

// heldBy lists the same as services say it.
func heldBy(services ...*corev1.Service) (addresses, ports []string) {
	for _, s := range services {
		for _, ip := range s.Spec.ClusterIPs {
			if ip != corev1.ClusterIPNone {
				addresses = append(addresses, ip)
			}
		}
		for _, p := range append(nodePorts(s), s.Spec.HealthCheckNodePort) {
			if p != 0 {
				ports = append(ports, fmt.Sprint(p))
			}
		}
	}
	slices.Sort(addresses)
	slices.Sort(ports)
	return addresses, slices.Compact(ports)
}

// wantHeld says that exactly what the services say is taken, and by them.
func wantHeld(t *testing.T, r *Registry, services ...*corev1.Service) {
	t.Helper()
	addresses, ports := held(t, r)
	wantAddresses, wantPorts := heldBy(services...)
	if !slices.Equal(addresses, wantAddresses) || !slices.Equal(ports, wantPorts) {
		t.Errorf("taken are %v and %v, want the services' %v and %v", addresses, ports, wantAddresses, wantPorts)
	}
}

func TestServicesAreGivenWhatTheirTypeHas(t *testing.T) {
	const single, both = corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyRequireDualStack
	for _, test := range []struct {
		name         string
		cidrs        []string
		edit         func(*corev1.ServiceSpec)
		policy       corev1.IPFamilyPolicy
		families     string
		ips          int
		ports        int
		healthChecks bool
	}{
		{"plain", nil, func(*corev1.ServiceSpec) {}, single, "[IPv4]", 1, 0, false},
		{"headless", nil, func(s *corev1.ServiceSpec) { s.ClusterIP = "None" }, single, "[IPv4]", 0, 0, false},
		{"headless for somebody's endpoints", nil, func(s *corev1.ServiceSpec) { s.ClusterIP, s.Selector = "None", nil }, both, "[IPv4 IPv6]", 0, 0, false},
		{"name of something outside", nil, func(s *corev1.ServiceSpec) {
			s.Type, s.ExternalName, s.Ports = corev1.ServiceTypeExternalName, "example.org", nil
		}, "", "[]", 0, 0, false},
		{"node port", nil, ofType(corev1.ServiceTypeNodePort), single, "[IPv4]", 1, 1, false},
		{"node port that TCP and UDP share", nil, func(s *corev1.ServiceSpec) {
			s.Type = corev1.ServiceTypeNodePort
			s.Ports = []corev1.ServicePort{{Name: "t", Port: 53, Protocol: "TCP"}, {Name: "u", Port: 53, Protocol: "UDP"}}
		}, single, "[IPv4]", 1, 1, false},
		{"load balancer", nil, ofType(corev1.ServiceTypeLoadBalancer), single, "[IPv4]", 1, 1, false},
		{"load balancer without node ports", nil, func(s *corev1.ServiceSpec) {
			s.Type, s.AllocateLoadBalancerNodePorts = corev1.ServiceTypeLoadBalancer, new(bool)
		}, single, "[IPv4]", 1, 0, false},
		{"load balancer to where the pods are", nil, func(s *corev1.ServiceSpec) {
			s.Type, s.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
		}, single, "[IPv4]", 1, 2, true},
		{"either or both", nil, func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyPreferDualStack) }, "PreferDualStack", "[IPv4]", 1, 0, false},
		{"both families", []string{"10.43.0.0/16", "fd00::/112"}, func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = ptr.To(both) }, both, "[IPv4 IPv6]", 2, 0, false},
		{"the second family first", []string{"10.43.0.0/16", "fd00::/112"}, func(s *corev1.ServiceSpec) {
			s.IPFamilyPolicy, s.IPFamilies = ptr.To(both), []corev1.IPFamily{corev1.IPv6Protocol}
		}, both, "[IPv6 IPv4]", 2, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.cidrs == nil {
				test.cidrs = []string{"10.43.0.0/16"}
			}
			r := withServiceRange(t, newRegistry(t), test.cidrs...)
			service := must(t, r, Services, "default", newService("web", test.edit))
			policy := corev1.IPFamilyPolicy("")
			if service.Spec.IPFamilyPolicy != nil {
				policy = *service.Spec.IPFamilyPolicy
			}
			if got := fmt.Sprint(service.Spec.IPFamilies); policy != test.policy || got != test.families {
				t.Errorf("%q of %s, want %q of %s", policy, got, test.policy, test.families)
			}
			addresses, ports := held(t, r)
			if len(addresses) != test.ips || len(ports) != test.ports || (service.Spec.HealthCheckNodePort != 0) != test.healthChecks {
				t.Errorf("holds %v and %v, health checks at %d; want %d addresses, %d ports, health checks %v",
					addresses, ports, service.Spec.HealthCheckNodePort, test.ips, test.ports, test.healthChecks)
			}
			wantHeld(t, r, service)
			for i, ip := range service.Spec.ClusterIPs {
				if test.ips > 0 && familyOf(ip) != service.Spec.IPFamilies[i] {
					t.Errorf("clusterIPs %v are not of families %v", service.Spec.ClusterIPs, service.Spec.IPFamilies)
				}
			}
			if test.ips > 0 && service.Spec.ClusterIP != service.Spec.ClusterIPs[0] {
				t.Errorf("clusterIP %q, want the first of %v", service.Spec.ClusterIP, service.Spec.ClusterIPs)
			}
			if _, _, err := r.Delete(t.Context(), Services, "default", "web", nil); err != nil {
				t.Fatal(err)
			}
			wantHeld(t, r)
		})
	}
}

func TestAddressesOfServicesAreObjects(t *testing.T) {
	r := withServiceRange(t, newRegistry(t), "10.43.0.0/16")
	service := must(t, r, Services, "default", newService("web"))
	address := stored[*networkingv1.IPAddress](t, r, IPAddresses, "", service.Spec.ClusterIP)
	if address == nil {
		t.Fatalf("no IPAddress %s", service.Spec.ClusterIP)
	}
	want := networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "web"}
	if *address.Spec.ParentRef != want || address.UID == "" || address.CreationTimestamp.IsZero() ||
		address.Labels["ipaddress.kubernetes.io/ip-family"] != "IPv4" || address.Labels["ipaddress.kubernetes.io/managed-by"] != "ipallocator.k8s.io" {
		t.Errorf("%+v, want a whole object of %+v", address, want)
	}
	_, _, err := r.Delete(t.Context(), IPAddresses, "", address.Name, nil)
	if !apierrors.IsForbidden(err) {
		t.Errorf("deleting an address in use: %v, want a refusal: it would be given to another service", err)
	}
	must(t, r, IPAddresses, "", &networkingv1.IPAddress{ObjectMeta: named("10.43.7.7"), Spec: networkingv1.IPAddressSpec{
		ParentRef: &networkingv1.ParentReference{Group: "gateway.networking.k8s.io", Resource: "gateways", Namespace: "default", Name: "g"},
	}})
	_, err = r.Create(t.Context(), Services, "default", newService("other", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.43.7.7" }), CreateOptions{})
	if !named422(err, "spec.clusterIPs") {
		t.Errorf("a service with a gateway's address: %v, want a refusal", err)
	}
	if _, _, err := r.Delete(t.Context(), IPAddresses, "", "10.43.7.7", nil); err != nil {
		t.Errorf("deleting an address that no service has: %v", err)
	}
}

func TestServicesAreRefusedInUpstreamsWords(t *testing.T) {
	r := withServiceRange(t, newRegistry(t), "10.43.0.0/16")
	must(t, r, Services, "default", newService("first", func(s *corev1.ServiceSpec) {
		s.Type, s.ClusterIP, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, "10.43.0.9", 30100
	}))
	for _, test := range []struct {
		name string
		edit func(*corev1.ServiceSpec)
		code int32
		want string
	}{
		{"address of another", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.43.0.9" }, 422,
			`spec.clusterIPs: Invalid value: ["10.43.0.9"]: failed to allocate IP 10.43.0.9: provided IP is already allocated`},
		{"address from elsewhere", func(s *corev1.ServiceSpec) { s.ClusterIP = "192.0.2.1" }, 422,
			`failed to allocate IP 192.0.2.1: the provided network does not match the current range`},
		{"first address of the range", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.43.0.0" }, 422, `does not match the current range`},
		{"last address of the range", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.43.255.255" }, 422, `does not match the current range`},
		{"no address", func(s *corev1.ServiceSpec) { s.ClusterIP = "web" }, 422, `spec.clusterIPs[0]: Invalid value: "web": must be a valid IP address`},
		{"port of another", func(s *corev1.ServiceSpec) { s.Type, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30100 }, 422,
			`spec.ports[0].nodePort: Invalid value: 30100: provided port is already allocated`},
		{"port outside the range", func(s *corev1.ServiceSpec) { s.Type, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, 80 }, 422,
			`spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767`},
		{"port twice", func(s *corev1.ServiceSpec) {
			s.Type = corev1.ServiceTypeNodePort
			s.Ports = []corev1.ServicePort{{Name: "a", Port: 80, NodePort: 30200}, {Name: "b", Port: 81, NodePort: 30200}}
		}, 422, `spec.ports[1].nodePort: Invalid value: 30200: provided port is already allocated`},
		{"both families where there is one", func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack) }, 422,
			`spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`},
		{"a family that is not there", func(s *corev1.ServiceSpec) { s.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} }, 422,
			`spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`},
		{"an address of such a family", func(s *corev1.ServiceSpec) { s.ClusterIP = "fd00::1" }, 422,
			`spec.clusterIPs[0]: Invalid value: ["fd00::1"]: IPv6 is not configured on this cluster`},
		{"health check port of another", func(s *corev1.ServiceSpec) {
			s.Type, s.ExternalTrafficPolicy, s.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal, 30100
		}, 500, `failed to allocate requested HealthCheck NodePort 30100: provided port is already allocated`},
		{"no ports", func(s *corev1.ServiceSpec) { s.Ports = nil }, 422, `spec.ports: Required value`},
	} {
		t.Run(test.name, func(t *testing.T) {
			addresses, ports := held(t, r)
			_, err := r.Create(t.Context(), Services, "default", newService("web", test.edit), CreateOptions{})
			var status apierrors.APIStatus
			if !errors.As(err, &status) || status.Status().Code != test.code || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %d %q", err, test.code, test.want)
			}
			if a, p := held(t, r); !slices.Equal(a, addresses) || !slices.Equal(p, ports) {
				t.Errorf("%v and %v are taken after a refusal, want still %v and %v", a, p, addresses, ports)
			}
		})
	}
}

func TestAChangedTypeGivesAndTakes(t *testing.T) {
	r := withServiceRange(t, newRegistry(t), "10.43.0.0/16", "fd00::/112")
	service := must(t, r, Services, "default", newService("web"))
	first := service.Spec.ClusterIP
	for _, step := range []struct {
		name  string
		edit  func(*corev1.ServiceSpec)
		check func(*corev1.ServiceSpec) bool
	}{
		{"node port", ofType(corev1.ServiceTypeNodePort), func(s *corev1.ServiceSpec) bool {
			return s.ClusterIP == first && s.Ports[0].NodePort != 0 && s.ExternalTrafficPolicy == "Cluster"
		}},
		{"another node port", func(s *corev1.ServiceSpec) { s.Ports[0].NodePort = 30001 }, func(s *corev1.ServiceSpec) bool {
			return s.Ports[0].NodePort == 30001
		}},
		{"a port more", func(s *corev1.ServiceSpec) {
			s.Ports = append(s.Ports, corev1.ServicePort{Name: "https", Port: 443})
		}, func(s *corev1.ServiceSpec) bool { return s.Ports[0].NodePort == 30001 && s.Ports[1].NodePort != 0 }},
		{"what a client leaves out stays", func(s *corev1.ServiceSpec) {
			s.ClusterIP, s.ClusterIPs, s.IPFamilies, s.IPFamilyPolicy = "", nil, nil, nil
			s.Ports[0].NodePort, s.Ports[1].NodePort = 0, 0
		}, func(s *corev1.ServiceSpec) bool {
			return s.ClusterIP == first && s.Ports[0].NodePort == 30001 && s.Ports[1].NodePort != 0
		}},
		{"load balancer with health checks", func(s *corev1.ServiceSpec) {
			s.Type, s.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
		}, func(s *corev1.ServiceSpec) bool { return s.HealthCheckNodePort != 0 && s.Ports[0].NodePort == 30001 }},
		{"both families", func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyPreferDualStack) }, func(s *corev1.ServiceSpec) bool {
			return len(s.ClusterIPs) == 2 && s.ClusterIPs[0] == first && familyOf(s.ClusterIPs[1]) == corev1.IPv6Protocol
		}},
		{"one family again", func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicySingleStack) }, func(s *corev1.ServiceSpec) bool {
			return len(s.ClusterIPs) == 1 && s.ClusterIP == first && len(s.IPFamilies) == 1
		}},
		{"plain again", ofType(corev1.ServiceTypeClusterIP), func(s *corev1.ServiceSpec) bool {
			return s.Ports[0].NodePort == 0 && s.HealthCheckNodePort == 0 && s.AllocateLoadBalancerNodePorts == nil && s.ExternalTrafficPolicy == ""
		}},
		{"a name outside", func(s *corev1.ServiceSpec) { s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "example.org" }, func(s *corev1.ServiceSpec) bool {
			return s.ClusterIP == "" && s.ClusterIPs == nil && s.IPFamilies == nil && s.IPFamilyPolicy == nil && s.InternalTrafficPolicy == nil
		}},
		{"inside again", func(s *corev1.ServiceSpec) { s.Type, s.ExternalName = corev1.ServiceTypeClusterIP, "" }, func(s *corev1.ServiceSpec) bool {
			return s.ClusterIP != "" && len(s.IPFamilies) == 1
		}},
	} {
		service = change(t, r, Services, "default", "web", "", func(s *corev1.Service) { step.edit(&s.Spec) })
		if !step.check(&service.Spec) {
			t.Errorf("%s: %+v", step.name, service.Spec)
		}
		wantHeld(t, r, service)
	}
	_, _, err := r.Update(t.Context(), Services, "default", "web", "", func(current store.Object) (store.Object, error) {
		s := current.(*corev1.Service)
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.43.0.77", []string{"10.43.0.77"}
		return s, nil
	}, UpdateOptions{})
	if !named422(err, "spec.clusterIPs[0]") {
		t.Errorf("another address: %v, want that the field is immutable", err)
	}
	wantHeld(t, r, service)
}

// A finalizer keeps the service, and with it what it holds: nobody else may have
// its address while it can still be reached.
func TestWhatAServiceHoldsIsFreedWhenItIsGone(t *testing.T) {
	r := withServiceRange(t, newRegistry(t), "10.43.0.0/16")
	service := newService("web", ofType(corev1.ServiceTypeNodePort))
	service.Finalizers = []string{"example.org/wait"}
	service = must(t, r, Services, "default", service)
	if _, gone, err := r.Delete(t.Context(), Services, "default", "web", nil); gone || err != nil {
		t.Fatalf("gone %v, %v; want it kept by its finalizer", gone, err)
	}
	wantHeld(t, r, service)
	change(t, r, Services, "default", "web", "status", func(s *corev1.Service) { s.Finalizers = nil })
	if got := stored[*corev1.Service](t, r, Services, "default", "web"); got != nil {
		t.Fatalf("%+v is still there", got)
	}
	wantHeld(t, r)
}

func TestDryRunTakesNothing(t *testing.T) {
	r := withServiceRange(t, newRegistry(t), "10.43.0.0/16")
	got, err := r.Create(t.Context(), Services, "default", newService("web", ofType(corev1.ServiceTypeNodePort)), CreateOptions{DryRun: true})
	if err != nil || got.(*corev1.Service).Spec.ClusterIP == "" {
		t.Errorf("%+v, %v; want an address as if", got, err)
	}
	wantHeld(t, r)
	service := must(t, r, Services, "default", newService("web", ofType(corev1.ServiceTypeNodePort)))
	if _, _, err := r.Update(t.Context(), Services, "default", "web", "", func(current store.Object) (store.Object, error) {
		current.(*corev1.Service).Spec.Type = corev1.ServiceTypeClusterIP
		return current, nil
	}, UpdateOptions{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	wantHeld(t, r, service)
}

// Two control nodes each see a past in which an address is free that the other
// has just given away. Provoked by a follower that learns what the leader wrote
// only from the answers to its own writes, in a range of 14 addresses.
func TestTwoControlNodesNeverGiveTheSame(t *testing.T) {
	leaderStore, followerStore, _ := newLagging()
	leader, follower := New(leaderStore, AdmitAll{}), New(followerStore, AdmitAll{})
	withServiceRange(t, leader, "10.43.0.0/28")
	seen := map[string]string{}
	for i := range 14 {
		r := leader
		if i%2 == 1 {
			r = follower
		}
		service := must(t, r, Services, "default", newService(fmt.Sprintf("s%d", i), ofType(corev1.ServiceTypeNodePort)))
		for _, had := range []string{service.Spec.ClusterIP, fmt.Sprint(service.Spec.Ports[0].NodePort)} {
			if seen[had] != "" {
				t.Fatalf("%s has %s, which %s has", service.Name, had, seen[had])
			}
			seen[had] = service.Name
		}
	}
	_, err := follower.Create(t.Context(), Services, "default", newService("one-too-many"), CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "range is full") {
		t.Errorf("%v, want that the range is full", err)
	}
	// What was freed a moment ago, through the other node, is to be had.
	if _, _, err := leader.Delete(t.Context(), Services, "default", "s3", nil); err != nil {
		t.Fatal(err)
	}
	must(t, follower, Services, "default", newService("after-all"))
}

func TestConcurrentCreatesNeverGetTheSame(t *testing.T) {
	s, log, m := storetest.Open(t)
	nodes := []*Registry{withServiceRange(t, New(s, AdmitAll{}), "10.43.0.0/25"), New(store.New(log, m), AdmitAll{})}
	services := make([]*corev1.Service, 96)
	var group sync.WaitGroup
	for i := range services {
		group.Go(func() {
			created, err := nodes[i%2].Create(t.Context(), Services, "default", newService(fmt.Sprintf("s%d", i), ofType(corev1.ServiceTypeNodePort)), CreateOptions{})
			if err != nil {
				t.Errorf("service %d: %v", i, err)
				return
			}
			services[i] = created.(*corev1.Service)
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	addresses, ports := heldBy(services...)
	if len(slices.Compact(addresses)) != 96 || len(ports) != 96 {
		t.Errorf("%d addresses and %d ports for 96 services", len(slices.Compact(addresses)), len(ports))
	}
	wantHeld(t, nodes[0], services...)
}

func TestNewServicesTakeFromEveryReadyRange(t *testing.T) {
	r := withServiceRange(t, newRegistry(t), "10.43.0.0/30")
	must(t, r, Services, "default", newService("a"))
	must(t, r, Services, "default", newService("b"))
	must(t, r, ServiceCIDRs, "", &networkingv1.ServiceCIDR{ObjectMeta: named("more"), Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.99.0.0/24"}}})
	service := must(t, r, Services, "default", newService("c"))
	if !netip.MustParsePrefix("10.99.0.0/24").Contains(netip.MustParseAddr(service.Spec.ClusterIP)) {
		t.Errorf("address %s, want one of the second range", service.Spec.ClusterIP)
	}
	change(t, r, ServiceCIDRs, "", "more", "status", func(c *networkingv1.ServiceCIDR) {
		c.Status.Conditions = append(c.Status.Conditions, notReady)
	})
	if _, err := r.Create(t.Context(), Services, "default", newService("d"), CreateOptions{}); err == nil {
		t.Error("a service was given an address of a range that is not ready")
	}
}

func TestFreeAddressesComeFromTheUpperPartFirst(t *testing.T) {
	for _, test := range []struct {
		prefix, first, last, low string // of the upper part; and the lower part's first
		size                     int
	}{
		{"10.0.0.0/28", "10.0.0.1", "10.0.0.14", "", 14},
		{"10.0.0.0/24", "10.0.0.17", "10.0.0.254", "10.0.0.1", 254},
		{"10.0.0.0/16", "10.0.1.1", "10.0.255.254", "10.0.0.1", 65534},
		{"fd00::/112", "fd00::101", "fd00::ffff", "fd00::1", 65535},
		{"10.0.0.0/32", "", "", "", 0},
	} {
		prefix := netip.MustParsePrefix(test.prefix)
		nobody := func(netip.Addr) bool { return false }
		low := func(uint64) uint64 { return 0 }
		high := func(n uint64) uint64 { return n - 1 }
		if ip, ok := freeAddress(prefix, nobody, low); ok != (test.first != "") || ok && ip.String() != test.first {
			t.Errorf("%s begins with %v, want %s", prefix, ip, test.first)
		}
		if ip, ok := freeAddress(prefix, nobody, high); ok && ip.String() != test.last {
			t.Errorf("%s ends with %v, want %s", prefix, ip, test.last)
		}
		taken := map[netip.Addr]bool{}
		for i := 0; ; i++ {
			ip, ok := freeAddress(prefix, func(ip netip.Addr) bool { return taken[ip] }, func(uint64) uint64 { return 0 })
			if !ok || i > 300 {
				if test.size <= 300 && i != test.size {
					t.Errorf("%s gives %d addresses, want %d", prefix, i, test.size)
				}
				break
			}
			if !usable(prefix, ip) {
				t.Errorf("%s gives %v, which is not usable", prefix, ip)
			}
			if i == test.size-16 && test.low != "" && test.size < 300 && ip.String() != test.low {
				t.Errorf("%s goes on with %v, want the lower part's %s", prefix, ip, test.low)
			}
			taken[ip] = true
		}
	}
}

var notReady = metav1.Condition{Type: "Ready", Status: "False", Reason: "Terminating", LastTransitionTime: metav1.Unix(1, 0)}
