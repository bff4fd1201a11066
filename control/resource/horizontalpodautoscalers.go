package resource

import (
	"context"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// HorizontalPodAutoscalers change the scale of others.
var HorizontalPodAutoscalers = &Kind{
	Spec:         store.HorizontalPodAutoscalers,
	Singular:     "horizontalpodautoscaler",
	ShortNames:   []string{"hpa"},
	Categories:   []string{"all"},
	Strategy:     strategy(store.HorizontalPodAutoscalers, "", autoscalerRules),
	Subresources: []*Subresource{status(store.HorizontalPodAutoscalers, autoscalerStatusRules)},
}

// The rules are the same in every version.
var (
	autoscalerRules = Rules[store.Object]{
		PrepareForCreate: func(_ context.Context, hpa store.Object) { kube.PrepareHorizontalPodAutoscaler(hpa) },
		Validate: func(_ context.Context, hpa store.Object) field.ErrorList {
			return kube.ValidateHorizontalPodAutoscaler(hpa)
		},
		PrepareForUpdate: func(_ context.Context, hpa, old store.Object) {
			kube.PrepareHorizontalPodAutoscalerUpdate(hpa, old)
		},
		ValidateUpdate: func(_ context.Context, hpa, old store.Object) field.ErrorList {
			return kube.ValidateHorizontalPodAutoscalerUpdate(hpa, old)
		},
		Options: kube.HorizontalPodAutoscalerOptions,
	}
	autoscalerStatusRules = Rules[store.Object]{
		PrepareForUpdate: func(_ context.Context, hpa, old store.Object) {
			kube.PrepareHorizontalPodAutoscalerStatus(hpa, old)
		},
		ValidateUpdate: func(_ context.Context, hpa, old store.Object) field.ErrorList {
			return kube.ValidateHorizontalPodAutoscalerStatusUpdate(hpa, old)
		},
		Options: kube.HorizontalPodAutoscalerOptions,
	}
)
