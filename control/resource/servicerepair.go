package resource

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/musterhq/muster/control/store"
)

// How long an address may have a service that is not there, or that says nothing of
// it. Here the two are written at once; whoever makes one by hand gets the time that
// upstream gives.
const (
	strayGrace    = time.Minute
	unnoticedTime = 5 * time.Second
)

// ServiceHoldings is what services have and what is written down as theirs. Services must
// be as they were when the rest was read, or newer.
type ServiceHoldings struct {
	Services  []*corev1.Service
	Addresses []*networkingv1.IPAddress
	Ranges    []*networkingv1.ServiceCIDR
	Ports     []store.Claim
}

// NodePorts are the claims of services to node ports at this moment.
func NodePorts(s *store.Store) []store.Claim { return s.Claims(nodePortClaims).All() }

// Repair is something that is wrong with what a service holds.
type Repair struct {
	// About is the service, or else the address. It is nil for a port that is nobody's.
	About store.Object
	Spec  *store.Spec
	// Reason and Message are upstream's; empty where it says nothing either.
	Reason, Message string
	// Writes mend it, if nothing of it has changed since. Without any, people have to.
	Writes []store.Write
}

// repair is the plan of Repairs.
type repair struct {
	store     *store.Store
	now       time.Time
	services  map[types.NamespacedName]*corev1.Service
	addresses map[string]*networkingv1.IPAddress
	claims    map[string]store.Claim
	given     map[string]bool // addresses and ports that the plan gives
	found     []Repair
	again     time.Duration
}

// Repairs finds what is wrong: an address or a port that a service has and that is not
// written down as its own, that another one has too, or that is out of range; and what is
// written down for a service that does not have it. Again, unless 0, is when something may
// have become wrong by then.
func (h ServiceHoldings) Repairs(s *store.Store, now time.Time) (found []Repair, again time.Duration) {
	r := &repair{
		store: s, now: now,
		services: map[types.NamespacedName]*corev1.Service{}, addresses: map[string]*networkingv1.IPAddress{},
		claims: map[string]store.Claim{}, given: map[string]bool{},
	}
	for _, service := range h.Services {
		r.services[types.NamespacedName{Namespace: service.Namespace, Name: service.Name}] = service
	}
	for _, address := range h.Addresses {
		r.addresses[address.Name] = address
	}
	for _, claim := range h.Ports {
		r.claims[claim.Name] = claim
	}
	// The older of two that have the same keeps it.
	services := slices.SortedFunc(slices.Values(h.Services), func(a, b *corev1.Service) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, service := range services {
		for _, ip := range clusterIPs(service) {
			r.address(service, ip, h.Ranges)
		}
		for _, port := range heldPorts(service) {
			r.port(service, port)
		}
	}
	for _, address := range h.Addresses {
		r.stray(address)
	}
	for _, claim := range h.Ports {
		if service := r.holder(claim.Holder); service == nil || !holdsPort(service, claim.Name) {
			r.found = append(r.found, Repair{Message: fmt.Sprintf("node port %s of service %s, which does not have it", claim.Name, claim.Holder), Writes: []store.Write{claim.Release()}})
		}
	}
	return r.found, r.again
}

func clusterIPs(service *corev1.Service) []string {
	if !needsClusterIP(service) || slices.Contains(service.Spec.ClusterIPs, corev1.ClusterIPNone) {
		return nil
	}
	return service.Spec.ClusterIPs
}

// heldPorts are the node ports that a service has, each once.
func heldPorts(service *corev1.Service) []int32 {
	if !takesNodePorts(service) {
		return nil
	}
	ports := nodePorts(service)
	if needsHealthCheck(service) && service.Spec.HealthCheckNodePort != 0 {
		ports = append(ports, service.Spec.HealthCheckNodePort)
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

func holdsPort(service *corev1.Service, port string) bool {
	return slices.ContainsFunc(heldPorts(service), func(p int32) bool { return strconv.Itoa(int(p)) == port })
}

func holdsAddress(service *corev1.Service, name string) bool {
	return slices.ContainsFunc(clusterIPs(service), func(text string) bool {
		ip, ok := parseAddress(text)
		return ok && ip.String() == name
	})
}

func (r *repair) holder(claimed string) *corev1.Service {
	namespace, name, _ := strings.Cut(claimed, "/")
	return r.services[types.NamespacedName{Namespace: namespace, Name: name}]
}

func (r *repair) add(about store.Object, spec *store.Spec, reason, message string, writes ...store.Write) {
	r.found = append(r.found, Repair{About: about, Spec: spec, Reason: reason, Message: message, Writes: writes})
}

// unchanged holds a repair to the service that it was planned for.
func unchanged(service *corev1.Service) (store.Write, bool) {
	guard, err := revision(service)
	return store.Write{Verb: store.Check, Spec: store.Services, Namespace: service.Namespace, Name: service.Name, Guard: guard}, err == nil
}

func (r *repair) address(service *corev1.Service, text string, ranges []*networkingv1.ServiceCIDR) {
	say := func(reason, message string, writes ...store.Write) {
		r.add(service, store.Services, reason, message, writes...)
	}
	ip, ok := parseAddress(text)
	if !ok {
		say("ClusterIPNotValid", fmt.Sprintf("Cluster IP %s is not a valid IP; please recreate Service", text))
		return
	}
	family, name := familyOf(ip.String()), ip.String()
	check, ok := unchanged(service)
	if !ok {
		return
	}
	if !inRanges(ip, ranges) {
		say("ClusterIPOutOfRange", fmt.Sprintf("Cluster IP [%v]: %s is not within any configured Service CIDR; please recreate service", family, name))
		return
	}
	wanted := serviceAddress(service, ip, family)
	address := r.addresses[name]
	switch {
	case r.given[name]:
		say("ClusterIPAlreadyAllocated", fmt.Sprintf("Cluster IP [%v]:%s was assigned to multiple services; please recreate service", family, name))
		return
	case address == nil:
		r.given[name] = true
		rest.FillObjectMetaSystemFields(wanted)
		say("ClusterIPNotAllocated", fmt.Sprintf("Cluster IP [%v]: %s is not allocated; repairing", family, name),
			store.Write{Verb: store.Create, Spec: store.IPAddresses, Object: wanted}, check)
		return
	}
	mended := address.DeepCopy()
	mended.Spec.ParentRef = wanted.Spec.ParentRef
	if mended.Labels == nil {
		mended.Labels = map[string]string{}
	}
	for key, value := range wanted.Labels {
		mended.Labels[key] = value
	}
	guard, err := revision(address)
	if err != nil {
		return
	}
	write := store.Write{Verb: store.Update, Spec: store.IPAddresses, Object: mended, Guard: guard}
	if ref := address.Spec.ParentRef; ref == nil || *ref != *wanted.Spec.ParentRef {
		if other := r.parent(ref); other != nil && other != service && holdsAddress(other, name) {
			say("ClusterIPAlreadyAllocated", fmt.Sprintf("Cluster IP [%v]:%s was assigned to multiple services; please recreate service", family, name))
			return
		}
		r.given[name] = true
		say("ClusterIPNotAllocated", fmt.Sprintf("the ClusterIP [%v]: %s for Service %s/%s has a wrong reference; repairing", family, name, service.Namespace, service.Name), write, check)
		return
	}
	for key, value := range wanted.Labels {
		if address.Labels[key] != value {
			say("", "", write, check)
			return
		}
	}
}

// parent is the service that an address says it is of, or nil.
func (r *repair) parent(ref *networkingv1.ParentReference) *corev1.Service {
	if ref == nil || ref.Group != "" || ref.Resource != store.Services.Resource.Resource {
		return nil
	}
	return r.services[types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}]
}

func inRanges(ip netip.Addr, ranges []*networkingv1.ServiceCIDR) bool {
	for _, cidr := range ranges {
		for _, text := range cidr.Spec.CIDRs {
			if prefix, err := netip.ParsePrefix(text); err == nil && prefix.Contains(ip) {
				return true
			}
		}
	}
	return false
}

func (r *repair) port(service *corev1.Service, port int32) {
	say := func(reason, message string, writes ...store.Write) {
		r.add(service, store.Services, reason, message, writes...)
	}
	name, mine := strconv.Itoa(int(port)), (&allotment{service: service}).holder()
	claim, held := r.claims[name]
	check, ok := unchanged(service)
	switch {
	case !ok:
	case port < nodePortFirst || port > nodePortLast:
		say("PortOutOfRange", fmt.Sprintf("Port %d is not within the port range %d-%d; please recreate service", port, nodePortFirst, nodePortLast))
	case held && claim.Holder == mine:
	case r.given[name]:
		say("PortAlreadyAllocated", fmt.Sprintf("Port %d was assigned to multiple services; please recreate service", port))
	case !held:
		r.given[name] = true
		say("PortNotAllocated", fmt.Sprintf("Port %d is not allocated; repairing", port), r.store.Claims(nodePortClaims).Take(name, mine), check)
	default:
		if other := r.holder(claim.Holder); other != nil && holdsPort(other, name) {
			say("PortAlreadyAllocated", fmt.Sprintf("Port %d was assigned to multiple services; please recreate service", port))
		}
		// Otherwise it is freed below, and taken when all is looked at again.
	}
}

// stray lets go of an address that was taken for a service and is none's. Those that
// others manage are theirs.
func (r *repair) stray(address *networkingv1.IPAddress) {
	if address.Labels[networkingv1.LabelManagedBy] != AddressManager || r.given[address.Name] {
		return
	}
	guard, err := revision(address)
	if err != nil {
		return
	}
	drop := store.Write{Verb: store.Delete, Spec: store.IPAddresses, Name: address.Name, Guard: guard}
	ref, age := address.Spec.ParentRef, r.now.Sub(address.CreationTimestamp.Time)
	wait := func(grace time.Duration) bool {
		if left := grace - age; left > 0 {
			if r.again == 0 || left < r.again {
				r.again = left
			}
			return true
		}
		return false
	}
	switch service := r.parent(ref); {
	case ref == nil || ref.Group != "" || ref.Resource != store.Services.Resource.Resource:
		r.add(address, store.IPAddresses, "IPAddressNotAllocated", fmt.Sprintf("IPAddress %s appears to have been modified, not referencing a Service %v: cleaning up", address.Name, ref), drop)
	case service == nil && !wait(strayGrace):
		r.add(address, store.IPAddresses, "IPAddressNotAllocated",
			fmt.Sprintf("IPAddress: %s for Service %s/%s appears to have leaked: cleaning up", address.Name, ref.Namespace, ref.Name), drop)
	case service != nil && !holdsAddress(service, address.Name) && !wait(unnoticedTime):
		if check, ok := unchanged(service); ok {
			r.add(address, store.IPAddresses, "IPAddressWrongReference",
				fmt.Sprintf("IPAddress: %s for Service %s/%s has a wrong reference; cleaning up", address.Name, ref.Namespace, ref.Name), drop, check)
		}
	}
}
