package store

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// What users hook into admission with.
var (
	MutatingAdmissionPolicies         = hooks("mutatingadmissionpolicies", "MutatingAdmissionPolicy", &admissionregistrationv1.MutatingAdmissionPolicy{}, &admissionregistrationv1.MutatingAdmissionPolicyList{})
	MutatingAdmissionPolicyBindings   = hooks("mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", &admissionregistrationv1.MutatingAdmissionPolicyBinding{}, &admissionregistrationv1.MutatingAdmissionPolicyBindingList{})
	MutatingWebhookConfigurations     = hooks("mutatingwebhookconfigurations", "MutatingWebhookConfiguration", &admissionregistrationv1.MutatingWebhookConfiguration{}, &admissionregistrationv1.MutatingWebhookConfigurationList{})
	ValidatingAdmissionPolicies       = hooks("validatingadmissionpolicies", "ValidatingAdmissionPolicy", &admissionregistrationv1.ValidatingAdmissionPolicy{}, &admissionregistrationv1.ValidatingAdmissionPolicyList{})
	ValidatingAdmissionPolicyBindings = hooks("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", &admissionregistrationv1.ValidatingAdmissionPolicyBinding{}, &admissionregistrationv1.ValidatingAdmissionPolicyBindingList{})
	ValidatingWebhookConfigurations   = hooks("validatingwebhookconfigurations", "ValidatingWebhookConfiguration", &admissionregistrationv1.ValidatingWebhookConfiguration{}, &admissionregistrationv1.ValidatingWebhookConfigurationList{})
)

var admissionSpecs = []*Spec{
	MutatingAdmissionPolicies, MutatingAdmissionPolicyBindings, MutatingWebhookConfigurations,
	ValidatingAdmissionPolicies, ValidatingAdmissionPolicyBindings, ValidatingWebhookConfigurations,
}

func hooks[T Object](resource, kind string, object T, list runtime.Object) *Spec {
	return spec(admissionregistrationv1.SchemeGroupVersion, resource, kind, false, object, list, nil)
}
