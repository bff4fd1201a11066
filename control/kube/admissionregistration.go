package kube

import (
	"context"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/admissionregistration"
	"k8s.io/kubernetes/pkg/apis/admissionregistration/validation"
	"k8s.io/kubernetes/pkg/kubeapiserver/admission/exclusion"

	_ "k8s.io/kubernetes/pkg/apis/admissionregistration/install"
)

// Upstream's rules for the hooks that users configure.
var (
	ValidateMutatingWebhookConfiguration           = onCreate[*admissionregistrationv1.MutatingWebhookConfiguration](withName(validation.ValidateMutatingWebhookConfiguration))
	ValidateMutatingWebhookConfigurationUpdate     = onUpdate[*admissionregistrationv1.MutatingWebhookConfiguration](validation.ValidateMutatingWebhookConfigurationUpdate)
	ValidateValidatingWebhookConfiguration         = onCreate[*admissionregistrationv1.ValidatingWebhookConfiguration](withName(validation.ValidateValidatingWebhookConfiguration))
	ValidateValidatingWebhookConfigurationUpdate   = onUpdate[*admissionregistrationv1.ValidatingWebhookConfiguration](validation.ValidateValidatingWebhookConfigurationUpdate)
	ValidateMutatingAdmissionPolicy                = onCreate[*admissionregistrationv1.MutatingAdmissionPolicy](withName(validation.ValidateMutatingAdmissionPolicy))
	ValidateMutatingAdmissionPolicyUpdate          = onUpdate[*admissionregistrationv1.MutatingAdmissionPolicy](validation.ValidateMutatingAdmissionPolicyUpdate)
	ValidateMutatingAdmissionPolicyBinding         = onCreate[*admissionregistrationv1.MutatingAdmissionPolicyBinding](withName(validation.ValidateMutatingAdmissionPolicyBinding))
	ValidateMutatingAdmissionPolicyBindingUpdate   = onUpdate[*admissionregistrationv1.MutatingAdmissionPolicyBinding](validation.ValidateMutatingAdmissionPolicyBindingUpdate)
	ValidateValidatingAdmissionPolicy              = onCreate[*admissionregistrationv1.ValidatingAdmissionPolicy](withName(validation.ValidateValidatingAdmissionPolicy))
	ValidateValidatingAdmissionPolicyUpdate        = onUpdate[*admissionregistrationv1.ValidatingAdmissionPolicy](validation.ValidateValidatingAdmissionPolicyUpdate)
	ValidateValidatingAdmissionPolicyStatusUpdate  = onUpdate[*admissionregistrationv1.ValidatingAdmissionPolicy](validation.ValidateValidatingAdmissionPolicyStatusUpdate)
	ValidateValidatingAdmissionPolicyBinding       = onCreate[*admissionregistrationv1.ValidatingAdmissionPolicyBinding](withName(validation.ValidateValidatingAdmissionPolicyBinding))
	ValidateValidatingAdmissionPolicyBindingUpdate = onUpdate[*admissionregistrationv1.ValidatingAdmissionPolicyBinding](validation.ValidateValidatingAdmissionPolicyBindingUpdate)
)

// withName adds that a new object must not be named like a hook from a file.
// There are none here, but a configuration should move between clusters.
func withName[I interface {
	runtime.Object
	metav1.Object
}](rule func(I) field.ErrorList) func(I) field.ErrorList {
	return func(obj I) field.ErrorList {
		return append(rule(obj), validation.ValidateStaticSuffix(obj.GetName(), field.NewPath("metadata", "name"))...)
	}
}

// HookNameWarnings are for hooks that were named before the rule.
func HookNameWarnings(name string) []string { return validation.WarningsForStaticSuffix(name) }

// MutatingWebhookWarnings warn of rules about resources that no hook sees.
func MutatingWebhookWarnings(_ context.Context, c *admissionregistrationv1.MutatingWebhookConfiguration) []string {
	in := internal[*admissionregistration.MutatingWebhookConfiguration](c)
	return validation.WarningsForMutatingWebhookRules(in.Webhooks, exclusion.Excluded())
}

// ValidatingWebhookWarnings warn of rules about resources that no hook sees.
func ValidatingWebhookWarnings(_ context.Context, c *admissionregistrationv1.ValidatingWebhookConfiguration) []string {
	in := internal[*admissionregistration.ValidatingWebhookConfiguration](c)
	return validation.WarningsForValidatingWebhookRules(in.Webhooks, exclusion.Excluded())
}

// Unhooked are the resources that no hook may come between: without them
// nobody could be told who they are or what they may.
var Unhooked = exclusion.Excluded()
