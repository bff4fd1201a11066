package resource

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// EndpointSlices have no status: all but their metadata counts as generation,
// and so do their labels, by which their service is found.
var EndpointSlices = &Kind{
	Spec:     store.EndpointSlices,
	Singular: "endpointslice",
	Strategy: strategy(store.EndpointSlices, "", Rules[*discoveryv1.EndpointSlice]{
		PrepareForCreate: func(_ context.Context, slice *discoveryv1.EndpointSlice) {
			slice.Generation = 1
			dropTopology(slice, nil)
		},
		Validate: kube.ValidateEndpointSlice,
		WarningsOnCreate: func(_ context.Context, slice *discoveryv1.EndpointSlice) []string {
			var warnings []string
			if slice.AddressType == discoveryv1.AddressTypeFQDN {
				warnings = append(warnings, "spec.addressType: FQDN endpoints are deprecated")
			}
			return append(warnings, sliceWarnings(slice)...)
		},
		PrepareForUpdate: func(_ context.Context, slice, old *discoveryv1.EndpointSlice) {
			same := apiequality.Semantic.DeepEqual
			if !same(slice.AddressType, old.AddressType) || !same(slice.Endpoints, old.Endpoints) ||
				!same(slice.Ports, old.Ports) || !same(slice.Labels, old.Labels) {
				slice.Generation = old.Generation + 1
			}
			dropTopology(slice, old)
		},
		ValidateUpdate:   kube.ValidateEndpointSliceUpdate,
		WarningsOnUpdate: func(_ context.Context, slice, _ *discoveryv1.EndpointSlice) []string { return sliceWarnings(slice) },
	}),
}

// dropTopology drops a field that v1 no longer writes. A node's name that was
// there before moves to where it belongs now. old is nil for a new slice.
func dropTopology(slice, old *discoveryv1.EndpointSlice) {
	known := map[string]bool{}
	if old != nil {
		if apiequality.Semantic.DeepEqual(old.Endpoints, slice.Endpoints) {
			return
		}
		for _, e := range old.Endpoints {
			known[e.DeprecatedTopology[corev1.LabelHostname]] = true
		}
	}
	for i := range slice.Endpoints {
		e := &slice.Endpoints[i]
		name := e.DeprecatedTopology[corev1.LabelHostname]
		if e.NodeName == nil && name != "" && known[name] && len(apivalidation.NameIsDNSSubdomain(name, false)) == 0 {
			e.NodeName = &name
		}
		e.DeprecatedTopology = nil
	}
}

// sliceWarnings tells of addresses that not every program reads alike. The
// controllers, by their label, write none.
func sliceWarnings(slice *discoveryv1.EndpointSlice) []string {
	switch slice.Labels[discoveryv1.LabelManagedBy] {
	case "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io":
		return nil
	}
	if slice.AddressType == discoveryv1.AddressTypeFQDN {
		return nil
	}
	var warnings []string
	for i, endpoint := range slice.Endpoints {
		for j, address := range endpoint.Addresses {
			warnings = append(warnings, validation.GetWarningsForIP(field.NewPath("endpoints").Index(i).Child("addresses").Index(j), address)...)
		}
	}
	return warnings
}
