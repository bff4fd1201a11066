package kube

import (
	"context"

	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	discoveryvalidation "k8s.io/kubernetes/pkg/apis/discovery/validation"
	"k8s.io/kubernetes/pkg/apis/networking"
	"k8s.io/kubernetes/pkg/apis/networking/validation"

	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
)

// Upstream's rules for the kinds of discovery.k8s.io and networking.k8s.io, as they are.
var (
	ValidateEndpointSlice       = onCreate[*discoveryv1.EndpointSlice](discoveryvalidation.ValidateEndpointSliceCreate)
	ValidateEndpointSliceUpdate = onUpdate[*discoveryv1.EndpointSlice](discoveryvalidation.ValidateEndpointSliceUpdate)

	ValidateIngress             = onCreate[*networkingv1.Ingress](validation.ValidateIngressCreate)
	ValidateIngressUpdate       = onUpdate[*networkingv1.Ingress](validation.ValidateIngressUpdate)
	ValidateIngressStatusUpdate = onUpdate[*networkingv1.Ingress](validation.ValidateIngressStatusUpdate)

	ValidateIngressClass       = onCreate[*networkingv1.IngressClass](validation.ValidateIngressClass)
	ValidateIngressClassUpdate = onUpdate[*networkingv1.IngressClass](validation.ValidateIngressClassUpdate)

	ValidateServiceCIDR             = onCreate[*networkingv1.ServiceCIDR](validation.ValidateServiceCIDR)
	ValidateServiceCIDRUpdate       = onUpdate[*networkingv1.ServiceCIDR](validation.ValidateServiceCIDRUpdate)
	ValidateServiceCIDRStatusUpdate = onUpdate[*networkingv1.ServiceCIDR](validation.ValidateServiceCIDRStatusUpdate)

	ValidateIPAddress = onCreate[*networkingv1.IPAddress](validation.ValidateIPAddress)
)

// ValidateNetworkPolicy says what is wrong with a new policy.
func ValidateNetworkPolicy(_ context.Context, policy *networkingv1.NetworkPolicy) field.ErrorList {
	in := internal[*networking.NetworkPolicy](policy)
	return validation.ValidateNetworkPolicy(in, validation.ValidationOptionsForNetworking(in, nil))
}

// ValidateNetworkPolicyUpdate says what of policy must not differ from old so.
func ValidateNetworkPolicyUpdate(_ context.Context, policy, old *networkingv1.NetworkPolicy) field.ErrorList {
	in, was := internal[*networking.NetworkPolicy](policy), internal[*networking.NetworkPolicy](old)
	return validation.ValidateNetworkPolicyUpdate(in, was, validation.ValidationOptionsForNetworking(in, was))
}

// ValidateIPAddressUpdate holds a changed address against both sets of rules.
func ValidateIPAddressUpdate(_ context.Context, address, old *networkingv1.IPAddress) field.ErrorList {
	in := internal[*networking.IPAddress](address)
	return append(validation.ValidateIPAddress(in), validation.ValidateIPAddressUpdate(in, internal[*networking.IPAddress](old))...)
}
