package store

import (
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// The stored kinds of discovery.k8s.io and networking.k8s.io. None has fields to
// select by but its metadata.
var (
	EndpointSlices = spec(discoveryv1.SchemeGroupVersion, "endpointslices", "EndpointSlice", true, &discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{}, nil)

	NetworkPolicies = spec(networkingv1.SchemeGroupVersion, "networkpolicies", "NetworkPolicy", true, &networkingv1.NetworkPolicy{}, &networkingv1.NetworkPolicyList{}, nil)
	Ingresses       = spec(networkingv1.SchemeGroupVersion, "ingresses", "Ingress", true, &networkingv1.Ingress{}, &networkingv1.IngressList{}, nil)
	IngressClasses  = spec(networkingv1.SchemeGroupVersion, "ingressclasses", "IngressClass", false, &networkingv1.IngressClass{}, &networkingv1.IngressClassList{}, nil)
	ServiceCIDRs    = spec(networkingv1.SchemeGroupVersion, "servicecidrs", "ServiceCIDR", false, &networkingv1.ServiceCIDR{}, &networkingv1.ServiceCIDRList{}, nil)
	IPAddresses     = spec(networkingv1.SchemeGroupVersion, "ipaddresses", "IPAddress", false, &networkingv1.IPAddress{}, &networkingv1.IPAddressList{}, nil)
)

var networkingSpecs = []*Spec{EndpointSlices, NetworkPolicies, Ingresses, IngressClasses, ServiceCIDRs, IPAddresses}
