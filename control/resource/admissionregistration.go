package resource

import (
	"context"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// admissionKinds are what users hook into admission with. What they mean is
// package admission's business. None may be written without having been read.
var admissionKinds = []*Kind{
	MutatingAdmissionPolicies,
	MutatingAdmissionPolicyBindings,
	MutatingWebhookConfigurations,
	ValidatingAdmissionPolicies,
	ValidatingAdmissionPolicyBindings,
	ValidatingWebhookConfigurations,
}

var (
	MutatingWebhookConfigurations = hooks(store.MutatingWebhookConfigurations, "mutatingwebhookconfiguration", hookRules[*admissionregistrationv1.MutatingWebhookConfiguration]{
		same: func(c, old *admissionregistrationv1.MutatingWebhookConfiguration) bool {
			return apiequality.Semantic.DeepEqual(c.Webhooks, old.Webhooks)
		},
		validate:       kube.ValidateMutatingWebhookConfiguration,
		validateUpdate: kube.ValidateMutatingWebhookConfigurationUpdate,
		warnings:       kube.MutatingWebhookWarnings,
	})
	ValidatingWebhookConfigurations = hooks(store.ValidatingWebhookConfigurations, "validatingwebhookconfiguration", hookRules[*admissionregistrationv1.ValidatingWebhookConfiguration]{
		same: func(c, old *admissionregistrationv1.ValidatingWebhookConfiguration) bool {
			return apiequality.Semantic.DeepEqual(c.Webhooks, old.Webhooks)
		},
		validate:       kube.ValidateValidatingWebhookConfiguration,
		validateUpdate: kube.ValidateValidatingWebhookConfigurationUpdate,
		warnings:       kube.ValidatingWebhookWarnings,
	})
	MutatingAdmissionPolicies = hooks(store.MutatingAdmissionPolicies, "mutatingadmissionpolicy", hookRules[*admissionregistrationv1.MutatingAdmissionPolicy]{
		same: func(p, old *admissionregistrationv1.MutatingAdmissionPolicy) bool {
			return apiequality.Semantic.DeepEqual(p.Spec, old.Spec)
		},
		validate:       kube.ValidateMutatingAdmissionPolicy,
		validateUpdate: kube.ValidateMutatingAdmissionPolicyUpdate,
	})
	MutatingAdmissionPolicyBindings = hooks(store.MutatingAdmissionPolicyBindings, "mutatingadmissionpolicybinding", hookRules[*admissionregistrationv1.MutatingAdmissionPolicyBinding]{
		same: func(b, old *admissionregistrationv1.MutatingAdmissionPolicyBinding) bool {
			return apiequality.Semantic.DeepEqual(b.Spec, old.Spec)
		},
		validate:       kube.ValidateMutatingAdmissionPolicyBinding,
		validateUpdate: kube.ValidateMutatingAdmissionPolicyBindingUpdate,
	})
	ValidatingAdmissionPolicyBindings = hooks(store.ValidatingAdmissionPolicyBindings, "validatingadmissionpolicybinding", hookRules[*admissionregistrationv1.ValidatingAdmissionPolicyBinding]{
		same: func(b, old *admissionregistrationv1.ValidatingAdmissionPolicyBinding) bool {
			return apiequality.Semantic.DeepEqual(b.Spec, old.Spec)
		},
		validate:       kube.ValidateValidatingAdmissionPolicyBinding,
		validateUpdate: kube.ValidateValidatingAdmissionPolicyBindingUpdate,
	})
)

// ValidatingAdmissionPolicies have a status, in which a controller says what
// does not fit the types of what they are about.
var ValidatingAdmissionPolicies = func() *Kind {
	kind := hooks(store.ValidatingAdmissionPolicies, "validatingadmissionpolicy", hookRules[*admissionregistrationv1.ValidatingAdmissionPolicy]{
		reset: func(p, old *admissionregistrationv1.ValidatingAdmissionPolicy) {
			p.Status = admissionregistrationv1.ValidatingAdmissionPolicyStatus{}
			if old != nil {
				p.Status = old.Status
			}
		},
		same: func(p, old *admissionregistrationv1.ValidatingAdmissionPolicy) bool {
			return apiequality.Semantic.DeepEqual(p.Spec, old.Spec)
		},
		validate:       kube.ValidateValidatingAdmissionPolicy,
		validateUpdate: kube.ValidateValidatingAdmissionPolicyUpdate,
	})
	kind.Subresources = []*Subresource{{
		Name: "status", Kind: store.ValidatingAdmissionPolicies.Kind, Verbs: []string{"get", "patch", "update"},
		Strategy: strategy(store.ValidatingAdmissionPolicies, "status", Rules[*admissionregistrationv1.ValidatingAdmissionPolicy]{
			Conditional: true,
			PrepareForUpdate: func(_ context.Context, p, old *admissionregistrationv1.ValidatingAdmissionPolicy) {
				p.Spec = old.Spec
				metav1.ResetObjectMetaForStatus(p, old)
			},
			ValidateUpdate: kube.ValidateValidatingAdmissionPolicyStatusUpdate,
		}),
	}}
	return kind
}()

// hookRules are where the kinds of hooks differ.
type hookRules[T store.Object] struct {
	// reset takes the status from old, if there is one.
	reset func(obj, old T)
	// same says that an update changes nothing but metadata and status.
	same           func(obj, old T) bool
	validate       func(context.Context, T) field.ErrorList
	validateUpdate func(ctx context.Context, obj, old T) field.ErrorList
	warnings       func(context.Context, T) []string
}

func hooks[T store.Object](spec *store.Spec, singular string, r hookRules[T]) *Kind {
	warnings := func(ctx context.Context, obj T) []string {
		if r.warnings == nil {
			return nil
		}
		return r.warnings(ctx, obj)
	}
	return &Kind{
		Spec:       spec,
		Singular:   singular,
		Categories: []string{"api-extensions"},
		Strategy: strategy(spec, "", Rules[T]{
			Conditional: true,
			PrepareForCreate: func(_ context.Context, obj T) {
				var none T
				if r.reset != nil {
					r.reset(obj, none)
				}
				obj.SetGeneration(1)
			},
			Validate:         r.validate,
			WarningsOnCreate: warnings,
			PrepareForUpdate: func(_ context.Context, obj, old T) {
				if r.reset != nil {
					r.reset(obj, old)
				}
				if !r.same(obj, old) {
					obj.SetGeneration(old.GetGeneration() + 1)
				}
			},
			ValidateUpdate: r.validateUpdate,
			WarningsOnUpdate: func(ctx context.Context, obj, _ T) []string {
				return append(kube.HookNameWarnings(obj.GetName()), warnings(ctx, obj)...)
			},
		}),
	}
}
