package resource

import (
	"context"
	"fmt"

	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// ingressClassAnnotation is what spec.ingressClassName replaced.
const ingressClassAnnotation = "kubernetes.io/ingress.class"

// Ingresses are carried out by whoever owns their class.
var Ingresses = &Kind{
	Spec:       store.Ingresses,
	Singular:   "ingress",
	ShortNames: []string{"ing"},
	Strategy: strategy(store.Ingresses, "", Rules[*networkingv1.Ingress]{
		PrepareForCreate: func(_ context.Context, ingress *networkingv1.Ingress) {
			ingress.Status = networkingv1.IngressStatus{}
			ingress.Generation = 1
		},
		Validate: kube.ValidateIngress,
		WarningsOnCreate: func(_ context.Context, ingress *networkingv1.Ingress) []string {
			if _, annotated := ingress.Annotations[ingressClassAnnotation]; !annotated || ingress.Spec.IngressClassName != nil {
				return nil
			}
			return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", ingressClassAnnotation)}
		},
		PrepareForUpdate: func(_ context.Context, ingress, old *networkingv1.Ingress) {
			ingress.Status = old.Status
			if !apiequality.Semantic.DeepEqual(old.Spec, ingress.Spec) {
				ingress.Generation = old.Generation + 1
			}
		},
		ValidateUpdate: kube.ValidateIngressUpdate,
	}),
	Subresources: []*Subresource{{
		Name: "status", Kind: store.Ingresses.Kind, Verbs: []string{"get", "patch", "update"},
		Strategy: strategy(store.Ingresses, "status", Rules[*networkingv1.Ingress]{
			PrepareForUpdate: func(_ context.Context, ingress, old *networkingv1.Ingress) { ingress.Spec = old.Spec },
			ValidateUpdate:   kube.ValidateIngressStatusUpdate,
			WarningsOnUpdate: func(_ context.Context, ingress, _ *networkingv1.Ingress) []string {
				var warnings []string
				for i, at := range ingress.Status.LoadBalancer.Ingress {
					if at.IP != "" {
						warnings = append(warnings, validation.GetWarningsForIP(field.NewPath("status", "loadBalancer", "ingress").Index(i), at.IP)...)
					}
				}
				return warnings
			},
		}),
	}},
}
