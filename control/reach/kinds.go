package reach

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/store"
)

// Where services and their endpoints are stored.
var (
	services = &store.Spec{
		Resource: schema.GroupResource{Resource: "services"}, Kind: corev1.SchemeGroupVersion.WithKind("Service"), Namespaced: true,
		New: func() store.Object { return &corev1.Service{} }, NewList: func() runtime.Object { return &corev1.ServiceList{} },
	}
	endpointSlices = &store.Spec{
		Resource: schema.GroupResource{Group: discoveryv1.GroupName, Resource: "endpointslices"}, Kind: discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), Namespaced: true,
		New: func() store.Object { return &discoveryv1.EndpointSlice{} }, NewList: func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
	}
)
