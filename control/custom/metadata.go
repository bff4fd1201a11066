package custom

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/operation"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/features"
	utilfeature "k8s.io/apiserver/pkg/util/feature"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// standardFinalizers are those of Kubernetes itself, which need no domain.
var standardFinalizers = []string{metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents, string(corev1.FinalizerKubernetes)}

// validateMetadata holds metadata against the rules of every kind; old is nil for
// a new object.
func (v *version) validateMetadata(ctx context.Context, obj, old *unstructured.Unstructured) field.ErrorList {
	now, errs := metadataOf(obj)
	if len(errs) > 0 {
		return errs
	}
	namespaced := v.def.crd.Spec.Scope == apiextensionsv1.NamespaceScoped
	beta := utilfeature.DefaultFeatureGate.Enabled(features.DeclarativeValidationBeta)
	if old == nil {
		return apivalidation.ValidateObjectMetaDeclaratively(ctx, operation.Create, now, nil, namespaced, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"), beta)
	}
	before, errs := metadataOf(old)
	if len(errs) > 0 {
		return errs
	}
	return apivalidation.ValidateObjectMetaDeclaratively(ctx, operation.Update, now, before, namespaced, nil, field.NewPath("metadata"), beta)
}

func metadataOf(u *unstructured.Unstructured) (*metav1.ObjectMeta, field.ErrorList) {
	metadata := &metav1.ObjectMeta{}
	raw, ok := u.Object["metadata"]
	if !ok || raw == nil {
		return metadata, nil
	}
	content, ok := raw.(map[string]any)
	if !ok {
		return nil, field.ErrorList{field.Invalid(field.NewPath("metadata"), raw, "expected an object")}
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content, metadata); err != nil {
		return nil, field.ErrorList{field.Invalid(field.NewPath("metadata"), raw, err.Error())}
	}
	return metadata, nil
}
