package resource

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// LimitRanges without a name are given one.
var LimitRanges = &Kind{
	Spec:       store.LimitRanges,
	Singular:   "limitrange",
	ShortNames: []string{"limits"},
	Strategy: strategy(store.LimitRanges, "", Rules[*corev1.LimitRange]{
		PrepareForCreate: func(_ context.Context, limits *corev1.LimitRange) {
			if limits.Name == "" {
				limits.Name = string(uuid.NewUUID())
			}
		},
		Validate:       kube.ValidateLimitRange,
		ValidateUpdate: kube.ValidateLimitRangeUpdate,
		CreateOnUpdate: true,
	}),
}
