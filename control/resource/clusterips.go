package resource

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	netutils "k8s.io/utils/net"

	"github.com/musterhq/muster/control/store"
)

// What upstream's allocators say, word for word.
var (
	errRangeFull     = errors.New("range is full")
	errIPTaken       = errors.New("provided IP is already allocated")
	errOutsideRanges = errors.New("the provided network does not match the current range")
)

// AddressManager is who takes addresses for services, as their labels say.
const AddressManager = "ipallocator.k8s.io"

// DefaultServiceCIDR is the name of the range that every cluster has.
const DefaultServiceCIDR = "kubernetes"

// serviceRanges are where services get their addresses from.
type serviceRanges struct {
	// families that services may have, the cluster's own first.
	families []corev1.IPFamily
	ranges   []serviceRange
}

// serviceRange is one of them, with the object that it stands in.
type serviceRange struct {
	prefix   netip.Prefix
	name     string
	revision uint64
}

// readServiceRanges reads the ranges that are ready, those of the default
// ServiceCIDR first. It says which families there are.
func readServiceRanges(ctx context.Context, s *store.Store) (serviceRanges, error) {
	cidrs, _, err := store.Of[*networkingv1.ServiceCIDR](s, store.ServiceCIDRs).List(ctx, store.ListOptions{})
	if err != nil {
		return serviceRanges{}, err
	}
	var all serviceRanges
	for _, cidr := range cidrs {
		var ranges []serviceRange
		for _, text := range cidr.Spec.CIDRs {
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				continue
			}
			if family := familyOf(prefix.Addr().String()); cidr.Name == DefaultServiceCIDR && !slices.Contains(all.families, family) {
				all.families = append(all.families, family)
			}
			guard, err := revision(cidr)
			if err != nil {
				return serviceRanges{}, err
			}
			// Upstream has no allocator for larger ranges of IPv6.
			if ready(cidr) && (prefix.Addr().Is4() || prefix.Bits() >= 64) {
				ranges = append(ranges, serviceRange{prefix: prefix.Masked(), name: cidr.Name, revision: guard})
			}
		}
		if cidr.Name == DefaultServiceCIDR {
			all.ranges = append(ranges, all.ranges...)
		} else {
			all.ranges = append(all.ranges, ranges...)
		}
	}
	if len(all.families) == 0 {
		all.families = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	return all, nil
}

// ready counts one that nobody has judged yet.
func ready(cidr *networkingv1.ServiceCIDR) bool {
	if cidr.DeletionTimestamp != nil {
		return false
	}
	for _, c := range cidr.Status.Conditions {
		if c.Type == networkingv1.ServiceCIDRConditionReady {
			return c.Status == metav1.ConditionTrue
		}
	}
	return true
}

// giveClusterIPs gives the service an address of each of its families, those
// that it asks for or any.
func (a *allotment) giveClusterIPs() error {
	spec := &a.service.Spec
	if !needsClusterIP(a.service) || slices.Contains(spec.ClusterIPs, corev1.ClusterIPNone) {
		return nil
	}
	for i, family := range spec.IPFamilies {
		if i == len(spec.ClusterIPs) {
			spec.ClusterIPs = append(spec.ClusterIPs, "")
		}
		ip, err := a.giveIP(family, spec.ClusterIPs[i])
		if err != nil {
			return err
		}
		spec.ClusterIPs[i] = ip
	}
	spec.ClusterIP = spec.ClusterIPs[0]
	return nil
}

// changeClusterIPs does what a changed type or another number of families asks for.
func (a *allotment) changeClusterIPs() error {
	spec, was := &a.service.Spec, &a.old.Spec
	switch {
	case a.staysPreferDual():
		return nil
	case !needsClusterIP(a.old) && needsClusterIP(a.service):
		return a.giveClusterIPs()
	case slices.Contains(was.ClusterIPs, corev1.ClusterIPNone):
		return nil
	case needsClusterIP(a.old) && !needsClusterIP(a.service):
		for _, ip := range was.ClusterIPs {
			if err := a.releaseIP(ip); err != nil {
				return err
			}
		}
	case len(was.IPFamilies) == 1 && len(spec.IPFamilies) == 2:
		if len(spec.ClusterIPs) < 2 {
			spec.ClusterIPs = append(spec.ClusterIPs, "")
		}
		ip, err := a.giveIP(spec.IPFamilies[1], spec.ClusterIPs[1])
		if err != nil {
			return err
		}
		spec.ClusterIPs[1] = ip
	case len(was.IPFamilies) == 2 && len(spec.IPFamilies) == 1 && len(was.ClusterIPs) == 2:
		return a.releaseIP(was.ClusterIPs[1])
	}
	return nil
}

// giveIP takes the address that is wanted, or any of the family.
func (a *allotment) giveIP(family corev1.IPFamily, wanted string) (string, error) {
	if wanted == "" {
		for _, r := range a.ranges.ranges {
			if familyOf(r.prefix.Addr().String()) != family {
				continue
			}
			if ip, ok := freeAddress(r.prefix, a.addressTaken, rand.Uint64N); ok {
				a.takeIP(r, ip, family)
				return ip.String(), nil
			}
		}
		return "", apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP for Service %q: %w", a.service.Name, errRangeFull))
	}
	refuse := func(why error) (string, error) {
		return "", a.invalid(field.Invalid(clusterIPsPath, a.service.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %v: %v", wanted, why)))
	}
	ip, ok := parseAddress(wanted)
	if !ok {
		return "", apierrors.NewInternalError(fmt.Errorf("failed to parse service IP %q", wanted))
	}
	at := slices.IndexFunc(a.ranges.ranges, func(r serviceRange) bool { return usable(r.prefix, ip) })
	if at < 0 {
		return refuse(errOutsideRanges)
	}
	if a.addressTaken(ip) {
		return refuse(errIPTaken)
	}
	a.takeIP(a.ranges.ranges[at], ip, family)
	return wanted, nil
}

func (a *allotment) addressTaken(ip netip.Addr) bool {
	_, _, err := a.store.Table(store.IPAddresses).GetItem("", ip.String())
	return err == nil
}

// takeIP makes the address the service's, provided that nobody takes it first and
// that the range is not on its way out.
func (a *allotment) takeIP(from serviceRange, ip netip.Addr, family corev1.IPFamily) {
	address := serviceAddress(a.service, ip, family)
	rest.FillObjectMetaSystemFields(address)
	a.writes = append(a.writes,
		store.Write{Verb: store.Create, Spec: store.IPAddresses, Object: address},
		store.Write{Verb: store.Check, Spec: store.ServiceCIDRs, Name: from.name, Guard: from.revision})
}

// serviceAddress is how an address is written down as a service's.
func serviceAddress(service *corev1.Service, ip netip.Addr, family corev1.IPFamily) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: ip.String(),
			Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(family),
				networkingv1.LabelManagedBy:       AddressManager,
			},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{
			Resource: store.Services.Resource.Resource, Namespace: service.Namespace, Name: service.Name,
		}},
	}
}

// releaseIP frees an address that is the service's; one that is not stays.
func (a *allotment) releaseIP(text string) error {
	ip, ok := parseAddress(text)
	if !ok {
		return nil // None
	}
	address, err := store.Of[*networkingv1.IPAddress](a.store, store.IPAddresses).Get(a.ctx, "", ip.String())
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	ref := address.Spec.ParentRef
	if ref == nil || ref.Group != "" || ref.Resource != store.Services.Resource.Resource || ref.Namespace != a.service.Namespace || ref.Name != a.service.Name {
		return nil
	}
	guard, err := revision(address)
	if err != nil {
		return err
	}
	a.writes = append(a.writes, store.Write{Verb: store.Delete, Spec: store.IPAddresses, Name: address.Name, Guard: guard})
	return nil
}

// parseAddress reads an address as upstream does, with leading zeros.
func parseAddress(text string) (netip.Addr, bool) {
	ip, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(text))
	return ip.Unmap(), ok
}
