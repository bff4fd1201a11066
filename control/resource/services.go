package resource

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// Services are given addresses and ports that they share with no other, in the
// transaction that stores them: see allotment.go.
var Services = &Kind{
	Spec:                store.Services,
	Singular:            "service",
	ShortNames:          []string{"svc"},
	Categories:          []string{"all"},
	ReturnDeletedObject: true,
	Strategy: strategy(store.Services, "", Rules[*corev1.Service]{
		PrepareForCreate: func(_ context.Context, service *corev1.Service) { service.Status = corev1.ServiceStatus{} },
		Validate:         kube.ValidateService,
		WarningsOnCreate: func(_ context.Context, service *corev1.Service) []string { return kube.ServiceWarnings(service, nil) },
		PrepareForUpdate: func(_ context.Context, service, old *corev1.Service) {
			service.Status = old.Status
			dropForType(service, old)
		},
		ValidateUpdate: kube.ValidateServiceUpdate,
		WarningsOnUpdate: func(_ context.Context, service, old *corev1.Service) []string {
			return kube.ServiceWarnings(service, old)
		},
		Canonicalize:   dropInternalPolicy,
		CreateOnUpdate: true,
	}),
	Subresources: []*Subresource{
		{Name: "proxy", Kind: corev1.SchemeGroupVersion.WithKind("ServiceProxyOptions"), Verbs: []string{"create", "delete", "get", "patch", "update"}},
		status(store.Services, Rules[*corev1.Service]{
			PrepareForUpdate: func(_ context.Context, service, old *corev1.Service) { service.Spec = old.Spec },
			ValidateUpdate:   kube.ValidateServiceStatusUpdate,
			WarningsOnUpdate: func(_ context.Context, service, _ *corev1.Service) []string {
				var warnings []string
				for i, at := range service.Status.LoadBalancer.Ingress {
					if at.IP != "" {
						warnings = append(warnings, validation.GetWarningsForIP(field.NewPath("status", "loadBalancer", "ingress").Index(i), at.IP)...)
					}
				}
				return warnings
			},
		}),
	},
	Companions: serviceCompanions,
}

// dropInternalPolicy drops what upstream once defaulted by mistake, and has hidden
// from readers ever since.
func dropInternalPolicy(service *corev1.Service) {
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		service.Spec.InternalTrafficPolicy = nil
	}
}

// dropForType drops what a service was given for its old type and its new one
// has no use for, unless the user changed it as well: that fails in validation.
func dropForType(service, old *corev1.Service) {
	spec, was := &service.Spec, &old.Spec
	if needsClusterIP(old) && !needsClusterIP(service) {
		if sameClusterIPs(service, old) {
			spec.ClusterIP, spec.ClusterIPs = "", nil
		}
		if slices.Equal(spec.IPFamilies, was.IPFamilies) {
			spec.IPFamilies = nil
		}
		if equal(spec.IPFamilyPolicy, was.IPFamilyPolicy) {
			spec.IPFamilyPolicy = nil
		}
	}
	if takesNodePorts(old) && !takesNodePorts(service) && !newNodePorts(service, old) {
		for i := range spec.Ports {
			spec.Ports[i].NodePort = 0
		}
	}
	if needsHealthCheck(old) && !needsHealthCheck(service) && spec.HealthCheckNodePort == was.HealthCheckNodePort {
		spec.HealthCheckNodePort = 0
	}
	balanced := spec.Type == corev1.ServiceTypeLoadBalancer
	if was.Type == corev1.ServiceTypeLoadBalancer && !balanced {
		if a, b := spec.AllocateLoadBalancerNodePorts, was.AllocateLoadBalancerNodePorts; a != nil && b != nil && *a == *b {
			spec.AllocateLoadBalancerNodePorts = nil
		}
		if equal(spec.LoadBalancerClass, was.LoadBalancerClass) {
			spec.LoadBalancerClass = nil
		}
	}
	if reachableFromOutside(old) && !reachableFromOutside(service) && spec.ExternalTrafficPolicy == was.ExternalTrafficPolicy {
		spec.ExternalTrafficPolicy = ""
	}
	if !balanced {
		service.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

func needsClusterIP(service *corev1.Service) bool {
	return service.Spec.Type != corev1.ServiceTypeExternalName
}

func sameClusterIPs(a, b *corev1.Service) bool {
	return a.Spec.ClusterIP == b.Spec.ClusterIP && slices.Equal(a.Spec.ClusterIPs, b.Spec.ClusterIPs)
}

// takesNodePorts says that the service's type has node ports, given or asked for.
func takesNodePorts(service *corev1.Service) bool {
	return service.Spec.Type == corev1.ServiceTypeNodePort || service.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// givenNodePorts says that each of its ports is given a node port.
func givenNodePorts(service *corev1.Service) bool {
	given := service.Spec.AllocateLoadBalancerNodePorts
	return service.Spec.Type == corev1.ServiceTypeNodePort ||
		service.Spec.Type == corev1.ServiceTypeLoadBalancer && (given == nil || *given)
}

func newNodePorts(service, old *corev1.Service) bool {
	had := nodePorts(old)
	return slices.ContainsFunc(nodePorts(service), func(p int32) bool { return !slices.Contains(had, p) })
}

// nodePorts are those of the service's ports.
func nodePorts(service *corev1.Service) []int32 {
	var ports []int32
	for _, p := range service.Spec.Ports {
		if p.NodePort != 0 {
			ports = append(ports, p.NodePort)
		}
	}
	return ports
}

// needsHealthCheck says that each node answers whether it has one of the
// service's pods.
func needsHealthCheck(service *corev1.Service) bool {
	return service.Spec.Type == corev1.ServiceTypeLoadBalancer && service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func reachableFromOutside(service *corev1.Service) bool {
	return takesNodePorts(service) || service.Spec.Type == corev1.ServiceTypeClusterIP && len(service.Spec.ExternalIPs) > 0
}

func equal[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}
