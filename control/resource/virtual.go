package resource

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/store"
)

// Virtual is a kind of which nothing is stored: most are created to be answered.
// Who answers is the API server's business.
type Virtual struct {
	Resource   schema.GroupVersionResource
	Kind       string
	Singular   string
	Namespaced bool
	// Verbs that it has; nil: it is created.
	Verbs      metav1.Verbs
	ShortNames []string
	// Deprecated is what everybody who asks for the kind is told; empty for nothing.
	Deprecated string
}

// Virtuals are all that every cluster serves. Not to be changed.
func Virtuals() []Virtual { return virtuals }

var virtuals = []Virtual{
	{Resource: corev1.SchemeGroupVersion.WithResource("bindings"), Kind: "Binding", Singular: "binding", Namespaced: true},
	{
		Resource: corev1.SchemeGroupVersion.WithResource("componentstatuses"), Kind: "ComponentStatus", Singular: "componentstatus",
		Verbs: metav1.Verbs{"get", "list"}, ShortNames: []string{"cs"}, Deprecated: "v1 ComponentStatus is deprecated in v1.19+",
	},
	{Resource: authenticationv1.SchemeGroupVersion.WithResource("selfsubjectreviews"), Kind: "SelfSubjectReview", Singular: "selfsubjectreview"},
	{Resource: authenticationv1.SchemeGroupVersion.WithResource("tokenreviews"), Kind: "TokenReview", Singular: "tokenreview"},
	{Resource: authorizationv1.SchemeGroupVersion.WithResource("localsubjectaccessreviews"), Kind: "LocalSubjectAccessReview", Singular: "localsubjectaccessreview", Namespaced: true},
	{Resource: authorizationv1.SchemeGroupVersion.WithResource("selfsubjectaccessreviews"), Kind: "SelfSubjectAccessReview", Singular: "selfsubjectaccessreview"},
	{Resource: authorizationv1.SchemeGroupVersion.WithResource("selfsubjectrulesreviews"), Kind: "SelfSubjectRulesReview", Singular: "selfsubjectrulesreview"},
	{Resource: authorizationv1.SchemeGroupVersion.WithResource("subjectaccessreviews"), Kind: "SubjectAccessReview", Singular: "subjectaccessreview"},
}

// bindings is what admission is told of bindings that are created by themselves.
var bindings = &Kind{
	Spec: &store.Spec{
		Resource: schema.GroupResource{Resource: "bindings"}, Kind: corev1.SchemeGroupVersion.WithKind("Binding"), Namespaced: true,
	},
	Singular: "binding",
}

// GroupVersionKind is what the objects are.
func (v Virtual) GroupVersionKind() schema.GroupVersionKind {
	return v.Resource.GroupVersion().WithKind(v.Kind)
}

// APIResource is how discovery lists the kind.
func (v Virtual) APIResource() metav1.APIResource {
	verbs := v.Verbs
	if verbs == nil {
		verbs = metav1.Verbs{"create"}
	}
	return metav1.APIResource{
		Name: v.Resource.Resource, SingularName: v.Singular, Namespaced: v.Namespaced, Kind: v.Kind, Verbs: verbs, ShortNames: v.ShortNames,
	}
}

// AdmitRequest asks admission about an object that is sent to a subresource to be
// answered there: nothing is stored, and what it is answered with is the caller's
// business. Hooks may change sent, which is of kind as.
func (r *Registry) AdmitRequest(ctx context.Context, kind *Kind, ns, name, subresource string, as schema.GroupVersionKind, sent runtime.Object, options CreateOptions) error {
	attributes := &Attributes{
		Operation: Create, Kind: kind, Namespace: ns, Name: name, Subresource: subresource,
		As: as, Object: sent, DryRun: options.DryRun, User: requester(ctx),
		FieldManager: options.FieldManager, FieldValidation: options.FieldValidation,
	}
	if err := r.admit(ctx, attributes); err != nil {
		return err
	}
	err := r.admission.Validate(ctx, attributes)
	attributes.tried()
	return err
}
