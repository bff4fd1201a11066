package resource

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/musterhq/muster/control/kube"
)

var (
	familyPolicyPath = field.NewPath("spec", "ipFamilyPolicy")
	familiesPath     = field.NewPath("spec", "ipFamilies")
	clusterIPsPath   = field.NewPath("spec", "clusterIPs")
)

// settleFamilies decides of which families the service's addresses are, from what
// the user says and what the cluster has. It follows upstream's allocator
// (initIPFamilyFields), so that the answers are the same, word for word.
func (a *allotment) settleFamilies() error {
	spec := &a.service.Spec
	if !needsClusterIP(a.service) || a.staysPreferDual() {
		return nil
	}
	headless := spec.ClusterIP == corev1.ClusterIPNone && len(spec.Selector) == 0
	if spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		switch {
		case a.old != nil && a.old.Spec.IPFamilyPolicy != nil:
			policy = *a.old.Spec.IPFamilyPolicy
		case headless:
			// Whose endpoints they are is not known: it may have both.
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		spec.IPFamilyPolicy = &policy
	}
	if errs := kube.ValidateServiceAddresses(a.service, a.old); len(errs) > 0 {
		return a.invalid(errs...)
	}
	errs := a.reduceFamilies()
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack {
		if len(spec.ClusterIPs) == 2 {
			errs = append(errs, field.Invalid(familyPolicyPath, spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"))
		}
		if len(spec.IPFamilies) == 2 {
			errs = append(errs, field.Invalid(familyPolicyPath, spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"))
		}
	}
	for i, ip := range spec.ClusterIPs {
		if ip == corev1.ClusterIPNone {
			break
		}
		if i < len(spec.IPFamilies) {
			continue
		}
		family := familyOf(ip)
		if !slices.Contains(a.ranges.families, family) {
			errs = append(errs, field.Invalid(clusterIPsPath.Index(i), spec.ClusterIPs, fmt.Sprintf("%s is not configured on this cluster", family)))
			continue
		}
		spec.IPFamilies = append(spec.IPFamilies, family)
	}
	if len(errs) > 0 {
		return a.invalid(errs...)
	}
	dual := *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack
	if headless {
		if len(spec.IPFamilies) == 0 {
			spec.IPFamilies = a.ranges.families[:1:1]
		}
		if dual {
			spec.IPFamilies = withOther(spec.IPFamilies)
		}
		return nil
	}
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && len(a.ranges.families) < 2 {
		errs = append(errs, field.Invalid(familyPolicyPath, spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, family := range spec.IPFamilies {
		if !slices.Contains(a.ranges.families, family) {
			errs = append(errs, field.Invalid(familiesPath.Index(i), family, "not configured on this cluster"))
		}
	}
	if len(errs) > 0 {
		return a.invalid(errs...)
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = a.ranges.families[:1:1]
	}
	if dual && len(a.ranges.families) == 2 {
		spec.IPFamilies = withOther(spec.IPFamilies)
	}
	return nil
}

// reduceFamilies gives up the second family of a service that is to have one, and
// says what is wrong with one that loses it otherwise.
func (a *allotment) reduceFamilies() field.ErrorList {
	if a.old == nil {
		return nil
	}
	spec, was := &a.service.Spec, &a.old.Spec
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack {
		if slices.Equal(spec.ClusterIPs, was.ClusterIPs) && len(spec.ClusterIPs) > 1 {
			spec.ClusterIPs = spec.ClusterIPs[:1]
		}
		if slices.Equal(spec.IPFamilies, was.IPFamilies) && len(spec.IPFamilies) > 1 {
			spec.IPFamilies = spec.IPFamilies[:1]
		}
		return nil
	}
	var errs field.ErrorList
	if len(spec.ClusterIPs) > 0 && len(spec.ClusterIPs) < len(was.ClusterIPs) {
		errs = append(errs, field.Invalid(familyPolicyPath, spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary cluster IP"))
	}
	if len(spec.IPFamilies) > 0 && len(spec.IPFamilies) < len(was.IPFamilies) {
		errs = append(errs, field.Invalid(familyPolicyPath, spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary IP family"))
	}
	return errs
}

// staysPreferDual says that a service takes what there is, before and after, and
// asks for nothing new: it keeps what it has, whatever the cluster has become.
func (a *allotment) staysPreferDual() bool {
	if a.old == nil {
		return false
	}
	spec, was := &a.service.Spec, &a.old.Spec
	prefers := func(policy *corev1.IPFamilyPolicy) bool {
		return policy == nil || *policy == corev1.IPFamilyPolicyPreferDualStack
	}
	return spec.IPFamilyPolicy != nil && spec.Type == was.Type && needsClusterIP(a.service) &&
		prefers(spec.IPFamilyPolicy) && prefers(was.IPFamilyPolicy) &&
		slices.Equal(spec.ClusterIPs, was.ClusterIPs) && slices.Equal(spec.IPFamilies, was.IPFamilies)
}

// withOther adds the family that is missing.
func withOther(families []corev1.IPFamily) []corev1.IPFamily {
	if len(families) != 1 {
		return families
	}
	if families[0] == corev1.IPv4Protocol {
		return append(families, corev1.IPv6Protocol)
	}
	return append(families, corev1.IPv4Protocol)
}

// familyOf is that of an address that validation has seen.
func familyOf(ip string) corev1.IPFamily {
	if netutils.IsIPv6String(ip) {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}
