package kube

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	serviceutil "k8s.io/kubernetes/pkg/api/service"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

// Upstream's rules for services, as they are.
var (
	ValidateService             = onCreate[*corev1.Service](validation.ValidateServiceCreate)
	ValidateServiceUpdate       = onUpdate[*corev1.Service](validation.ValidateServiceUpdate)
	ValidateServiceStatusUpdate = onUpdate[*corev1.Service](validation.ValidateServiceStatusUpdate)
)

// ValidateServiceAddresses says what is wrong with the cluster IPs and families
// that service asks for, before it is given any. old is nil for a new service.
func ValidateServiceAddresses(service, old *corev1.Service) field.ErrorList {
	if old == nil {
		return validation.ValidateServiceClusterIPsRelatedFields(internal[*core.Service](service), nil)
	}
	return validation.ValidateServiceClusterIPsRelatedFields(internal[*core.Service](service), internal[*core.Service](old))
}

// ServiceWarnings is what a user of service should hear though it is valid. old
// is nil for a new service.
func ServiceWarnings(service, old *corev1.Service) []string {
	if old == nil {
		return serviceutil.GetWarningsForService(internal[*core.Service](service), nil)
	}
	return serviceutil.GetWarningsForService(internal[*core.Service](service), internal[*core.Service](old))
}
