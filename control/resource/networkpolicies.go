package resource

import (
	"context"
	"reflect"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// NetworkPolicies are rules that agents carry out.
var NetworkPolicies = &Kind{
	Spec:       store.NetworkPolicies,
	Singular:   "networkpolicy",
	ShortNames: []string{"netpol"},
	Strategy: strategy(store.NetworkPolicies, "", Rules[*networkingv1.NetworkPolicy]{
		PrepareForCreate: func(_ context.Context, policy *networkingv1.NetworkPolicy) { policy.Generation = 1 },
		Validate:         kube.ValidateNetworkPolicy,
		WarningsOnCreate: func(_ context.Context, policy *networkingv1.NetworkPolicy) []string { return policyWarnings(policy) },
		PrepareForUpdate: func(_ context.Context, policy, old *networkingv1.NetworkPolicy) {
			if !reflect.DeepEqual(old.Spec, policy.Spec) {
				policy.Generation = old.Generation + 1
			}
		},
		ValidateUpdate:   kube.ValidateNetworkPolicyUpdate,
		WarningsOnUpdate: func(_ context.Context, policy, _ *networkingv1.NetworkPolicy) []string { return policyWarnings(policy) },
	}),
}

// policyWarnings tells of ranges that not every program reads alike.
func policyWarnings(policy *networkingv1.NetworkPolicy) []string {
	var warnings []string
	look := func(path *field.Path, peers []networkingv1.NetworkPolicyPeer) {
		for i, peer := range peers {
			if peer.IPBlock == nil {
				continue
			}
			block := path.Index(i).Child("ipBlock")
			warnings = append(warnings, validation.GetWarningsForCIDR(block.Child("cidr"), peer.IPBlock.CIDR)...)
			for j, except := range peer.IPBlock.Except {
				warnings = append(warnings, validation.GetWarningsForCIDR(block.Child("except").Index(j), except)...)
			}
		}
	}
	for i, rule := range policy.Spec.Ingress {
		look(field.NewPath("spec", "ingress").Index(i).Child("from"), rule.From)
	}
	for i, rule := range policy.Spec.Egress {
		look(field.NewPath("spec", "egress").Index(i).Child("to"), rule.To)
	}
	return warnings
}
