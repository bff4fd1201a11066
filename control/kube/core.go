package kube

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/helper"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

// Upstream's rules for the plain kinds of core/v1, as they are.
var (
	ValidateNamespace               = onCreate[*corev1.Namespace](validation.ValidateNamespace)
	ValidateNamespaceStatusUpdate   = onUpdate[*corev1.Namespace](validation.ValidateNamespaceStatusUpdate)
	ValidateNamespaceFinalizeUpdate = onUpdate[*corev1.Namespace](validation.ValidateNamespaceFinalizeUpdate)

	ValidateReplicationControllerStatusUpdate = onUpdate[*corev1.ReplicationController](validation.ValidateReplicationControllerStatusUpdate)
)

// ValidateNamespaceUpdate holds a changed namespace against both sets of rules.
func ValidateNamespaceUpdate(_ context.Context, namespace, old *corev1.Namespace) field.ErrorList {
	in := internal[*core.Namespace](namespace)
	return append(validation.ValidateNamespace(in), validation.ValidateNamespaceUpdate(in, internal[*core.Namespace](old))...)
}

// ValidateEvent says what is wrong with a new core/v1 event.
func ValidateEvent(_ context.Context, event *corev1.Event) field.ErrorList {
	return validation.ValidateEventCreate(internal[*core.Event](event), schema.GroupVersion(corev1.SchemeGroupVersion))
}

// ValidateEventUpdate says what of event must not differ from old so.
func ValidateEventUpdate(_ context.Context, event, old *corev1.Event) field.ErrorList {
	return validation.ValidateEventUpdate(internal[*core.Event](event), internal[*core.Event](old), schema.GroupVersion(corev1.SchemeGroupVersion))
}

// ValidateReplicationController says what is wrong with a new controller.
func ValidateReplicationController(_ context.Context, rc *corev1.ReplicationController) field.ErrorList {
	in := internal[*core.ReplicationController](rc)
	return validation.ValidateReplicationController(in, templateOptions(in, nil))
}

// ValidateReplicationControllerUpdate says what of rc must not differ from old so.
func ValidateReplicationControllerUpdate(_ context.Context, rc, old *corev1.ReplicationController) field.ErrorList {
	in, was := internal[*core.ReplicationController](rc), internal[*core.ReplicationController](old)
	errs := validation.ValidateReplicationControllerUpdate(in, was, templateOptions(in, was))
	for key, value := range helper.NonConvertibleFields(was.Annotations) {
		_, broken, ok := strings.Cut(key, "/")
		switch {
		case !ok || strings.Contains(broken, "/"):
		case !strings.Contains(broken, "selector"):
			errs = append(errs, &field.Error{Type: field.ErrorTypeNotFound, BadValue: value, Field: broken, Detail: "unknown non-convertible field"})
		case !apiequality.Semantic.DeepEqual(was.Spec.Selector, in.Spec.Selector):
			errs = append(errs, field.Invalid(field.NewPath("spec", "selector"), in.Spec.Selector, "cannot update non-convertible selector"))
		}
	}
	return errs
}
