package resource

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// ServiceCIDRs are the ranges that services get their addresses from.
var ServiceCIDRs = &Kind{
	Spec:     store.ServiceCIDRs,
	Singular: "servicecidr",
	Strategy: strategy(store.ServiceCIDRs, "", Rules[*networkingv1.ServiceCIDR]{
		PrepareForCreate: func(_ context.Context, cidr *networkingv1.ServiceCIDR) {
			cidr.Status = networkingv1.ServiceCIDRStatus{}
		},
		Validate:         kube.ValidateServiceCIDR,
		PrepareForUpdate: func(_ context.Context, cidr, old *networkingv1.ServiceCIDR) { cidr.Status = old.Status },
		ValidateUpdate:   kube.ValidateServiceCIDRUpdate,
	}),
	Subresources: []*Subresource{{
		Name: "status", Kind: store.ServiceCIDRs.Kind, Verbs: []string{"get", "patch", "update"},
		Strategy: strategy(store.ServiceCIDRs, "status", Rules[*networkingv1.ServiceCIDR]{
			PrepareForUpdate: func(_ context.Context, cidr, old *networkingv1.ServiceCIDR) {
				cidr.Spec = old.Spec
				metav1.ResetObjectMetaForStatus(&cidr.ObjectMeta, &old.ObjectMeta)
			},
			ValidateUpdate: kube.ValidateServiceCIDRStatusUpdate,
		}),
	}},
}
