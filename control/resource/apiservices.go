package resource

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// APIServices say who serves a version of an API group: the control nodes
// themselves, or a service of the cluster to which they pass requests on.
var APIServices = &Kind{
	Spec:       store.APIServices,
	Singular:   "apiservice",
	Categories: []string{"api-extensions"},
	Strategy: strategy(store.APIServices, "", Rules[*apiregistrationv1.APIService]{
		PrepareForCreate: func(_ context.Context, s *apiregistrationv1.APIService) {
			s.Status = apiregistrationv1.APIServiceStatus{}
			if s.Spec.Service == nil {
				s.Status.Conditions = []apiregistrationv1.APIServiceCondition{{
					Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue, Reason: "Local",
					Message: "Local APIServices are always available", LastTransitionTime: metav1.Now(),
				}}
			}
		},
		Validate:         kube.ValidateAPIService,
		PrepareForUpdate: func(_ context.Context, s, old *apiregistrationv1.APIService) { s.Status = old.Status },
		ValidateUpdate:   kube.ValidateAPIServiceUpdate,
		Conditional:      true,
	}),
	Subresources: []*Subresource{status(store.APIServices, Rules[*apiregistrationv1.APIService]{
		PrepareForUpdate: func(_ context.Context, s, old *apiregistrationv1.APIService) {
			s.Spec = old.Spec
			s.Labels, s.Annotations = old.Labels, old.Annotations
			s.Finalizers, s.OwnerReferences = old.Finalizers, old.OwnerReferences
		},
		ValidateUpdate: kube.ValidateAPIServiceStatusUpdate,
		Conditional:    true,
	})},
}

// apiregistrationKinds are the group's.
var apiregistrationKinds = []*Kind{APIServices}
