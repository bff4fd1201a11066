package kube

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

// Upstream's rules for the kinds of core/v1 that are plain data, as they are.
var (
	ValidateConfigMap       = onCreate[*corev1.ConfigMap](validation.ValidateConfigMap)
	ValidateConfigMapUpdate = onUpdate[*corev1.ConfigMap](validation.ValidateConfigMapUpdate)

	ValidateSecret       = onCreate[*corev1.Secret](validation.ValidateSecret)
	ValidateSecretUpdate = onUpdate[*corev1.Secret](validation.ValidateSecretUpdate)

	ValidateServiceAccount       = onCreate[*corev1.ServiceAccount](validation.ValidateServiceAccount)
	ValidateServiceAccountUpdate = onUpdate[*corev1.ServiceAccount](validation.ValidateServiceAccountUpdate)

	ValidateEndpoints       = onCreate[*corev1.Endpoints](validation.ValidateEndpointsCreate)
	ValidateEndpointsUpdate = onUpdate[*corev1.Endpoints](validation.ValidateEndpointsUpdate)

	ValidateLimitRange = onCreate[*corev1.LimitRange](validation.ValidateLimitRange)
	// ValidateLimitRangeUpdate does not look at what was there.
	ValidateLimitRangeUpdate = onUpdate[*corev1.LimitRange](func(limits, _ *core.LimitRange) field.ErrorList {
		return validation.ValidateLimitRange(limits)
	})

	ValidateResourceQuota             = onCreate[*corev1.ResourceQuota](validation.ValidateResourceQuota)
	ValidateResourceQuotaUpdate       = onUpdate[*corev1.ResourceQuota](validation.ValidateResourceQuotaUpdate)
	ValidateResourceQuotaStatusUpdate = onUpdate[*corev1.ResourceQuota](validation.ValidateResourceQuotaStatusUpdate)
)
