package resource

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Virtual is a kind of which objects are created to be answered, and stored
// nowhere. Who answers is the API server's business.
type Virtual struct {
	Resource   schema.GroupVersionResource
	Kind       string
	Singular   string
	Namespaced bool
}

// Virtuals are all that every cluster serves. Not to be changed.
func Virtuals() []Virtual { return virtuals }

var virtuals = []Virtual{
	{authenticationv1.SchemeGroupVersion.WithResource("selfsubjectreviews"), "SelfSubjectReview", "selfsubjectreview", false},
	{authenticationv1.SchemeGroupVersion.WithResource("tokenreviews"), "TokenReview", "tokenreview", false},
	{authorizationv1.SchemeGroupVersion.WithResource("localsubjectaccessreviews"), "LocalSubjectAccessReview", "localsubjectaccessreview", true},
	{authorizationv1.SchemeGroupVersion.WithResource("selfsubjectaccessreviews"), "SelfSubjectAccessReview", "selfsubjectaccessreview", false},
	{authorizationv1.SchemeGroupVersion.WithResource("selfsubjectrulesreviews"), "SelfSubjectRulesReview", "selfsubjectrulesreview", false},
	{authorizationv1.SchemeGroupVersion.WithResource("subjectaccessreviews"), "SubjectAccessReview", "subjectaccessreview", false},
}

// GroupVersionKind is what the objects are.
func (v Virtual) GroupVersionKind() schema.GroupVersionKind {
	return v.Resource.GroupVersion().WithKind(v.Kind)
}

// APIResource is how discovery lists the kind.
func (v Virtual) APIResource() metav1.APIResource {
	return metav1.APIResource{
		Name: v.Resource.Resource, SingularName: v.Singular, Namespaced: v.Namespaced, Kind: v.Kind, Verbs: metav1.Verbs{"create"},
	}
}
