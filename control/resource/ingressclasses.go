package resource

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// IngressClasses name controllers of ingresses.
var IngressClasses = &Kind{
	Spec:     store.IngressClasses,
	Singular: "ingressclass",
	Strategy: strategy(store.IngressClasses, "", Rules[*networkingv1.IngressClass]{
		PrepareForCreate: func(_ context.Context, class *networkingv1.IngressClass) { class.Generation = 1 },
		Validate:         kube.ValidateIngressClass,
		PrepareForUpdate: func(_ context.Context, class, old *networkingv1.IngressClass) {
			if !apiequality.Semantic.DeepEqual(old.Spec, class.Spec) {
				class.Generation = old.Generation + 1
			}
		},
		ValidateUpdate: kube.ValidateIngressClassUpdate,
	}),
}
