package resource

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// ResourceQuotas are written here; admission and a controller count.
var ResourceQuotas = &Kind{
	Spec:                store.ResourceQuotas,
	Singular:            "resourcequota",
	ShortNames:          []string{"quota"},
	ReturnDeletedObject: true,
	Strategy: strategy(store.ResourceQuotas, "", Rules[*corev1.ResourceQuota]{
		PrepareForCreate: func(_ context.Context, quota *corev1.ResourceQuota) { quota.Status = corev1.ResourceQuotaStatus{} },
		Validate:         kube.ValidateResourceQuota,
		WarningsOnCreate: func(_ context.Context, quota *corev1.ResourceQuota) []string { return quotaWarnings(quota) },
		PrepareForUpdate: func(_ context.Context, quota, old *corev1.ResourceQuota) { quota.Status = old.Status },
		ValidateUpdate:   kube.ValidateResourceQuotaUpdate,
	}),
	Subresources: []*Subresource{{
		Name: "status", Kind: store.ResourceQuotas.Kind, Verbs: []string{"get", "patch", "update"},
		Strategy: strategy(store.ResourceQuotas, "status", Rules[*corev1.ResourceQuota]{
			PrepareForUpdate: func(_ context.Context, quota, old *corev1.ResourceQuota) { quota.Spec = old.Spec },
			ValidateUpdate:   kube.ValidateResourceQuotaStatusUpdate,
		}),
	}},
}

// quotaWarnings tells of more that may be requested than used.
func quotaWarnings(quota *corev1.ResourceQuota) []string {
	var warnings []string
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceStorage, corev1.ResourceEphemeralStorage} {
		requestName := "requests." + name
		request, requested := quota.Spec.Hard[requestName]
		if !requested && (name == corev1.ResourceCPU || name == corev1.ResourceMemory) {
			// For these two the bare name stands for the request.
			if request, requested = quota.Spec.Hard[name]; requested {
				requestName = name
			}
		}
		limitName := "limits." + name
		if limit, limited := quota.Spec.Hard[limitName]; requested && limited && request.Cmp(limit) > 0 {
			warnings = append(warnings, fmt.Sprintf("ResourceQuota %s (%s) should be less than %s (%s)",
				requestName, request.String(), limitName, limit.String()))
		}
	}
	return warnings
}
