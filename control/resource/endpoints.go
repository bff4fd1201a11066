package resource

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// Endpoints may be created by a PUT, as leader election of old clients does.
var Endpoints = &Kind{
	Spec:       store.Endpoints,
	Singular:   "endpoints",
	ShortNames: []string{"ep"},
	Deprecated: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
	Strategy: strategy(store.Endpoints, "", Rules[*corev1.Endpoints]{
		Validate:         kube.ValidateEndpoints,
		WarningsOnCreate: func(_ context.Context, endpoints *corev1.Endpoints) []string { return endpointsWarnings(endpoints) },
		ValidateUpdate:   kube.ValidateEndpointsUpdate,
		WarningsOnUpdate: func(_ context.Context, endpoints, _ *corev1.Endpoints) []string { return endpointsWarnings(endpoints) },
		CreateOnUpdate:   true,
	}),
}

// endpointsWarnings tells of addresses that not every program reads alike. The
// endpoints controller, by its label, writes none.
func endpointsWarnings(endpoints *corev1.Endpoints) []string {
	if endpoints.Labels["endpoints.kubernetes.io/managed-by"] == "endpoint-controller" {
		return nil
	}
	var warnings []string
	for i, subset := range endpoints.Subsets {
		path := field.NewPath("subsets").Index(i)
		for j, address := range subset.Addresses {
			warnings = append(warnings, validation.GetWarningsForIP(path.Child("addresses").Index(j).Child("ip"), address.IP)...)
		}
		for j, address := range subset.NotReadyAddresses {
			warnings = append(warnings, validation.GetWarningsForIP(path.Child("notReadyAddresses").Index(j).Child("ip"), address.IP)...)
		}
	}
	return warnings
}
