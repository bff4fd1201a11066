package kube

import (
	"context"

	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/policy"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	"k8s.io/kubernetes/pkg/apis/policy/validation"
)

// ValidatePodDisruptionBudget says what is wrong with a new budget.
func ValidatePodDisruptionBudget(_ context.Context, pdb *policyv1.PodDisruptionBudget) field.ErrorList {
	return validation.ValidatePodDisruptionBudget(internal[*policy.PodDisruptionBudget](pdb), validation.PodDisruptionBudgetValidationOptions{})
}

// ValidatePodDisruptionBudgetUpdate says what is wrong with a budget that was
// old. A selector that was invalid may stay.
func ValidatePodDisruptionBudgetUpdate(_ context.Context, pdb, old *policyv1.PodDisruptionBudget) field.ErrorList {
	return validation.ValidatePodDisruptionBudget(internal[*policy.PodDisruptionBudget](pdb), validation.PodDisruptionBudgetValidationOptions{
		AllowInvalidLabelValueInSelector: old.Spec.Selector != nil &&
			len(metav1validation.ValidateLabelSelector(old.Spec.Selector, metav1validation.LabelSelectorValidationOptions{}, nil)) > 0,
	})
}

// ValidatePodDisruptionBudgetStatusUpdate says what of a budget's status must
// not differ from old so.
func ValidatePodDisruptionBudgetStatusUpdate(_ context.Context, pdb, old *policyv1.PodDisruptionBudget) field.ErrorList {
	in, was := internal[*policy.PodDisruptionBudget](pdb), internal[*policy.PodDisruptionBudget](old)
	return validation.ValidatePodDisruptionBudgetStatusUpdate(in.Status, was.Status, field.NewPath("status"), policyv1.SchemeGroupVersion)
}

// StripDisruptionSelector takes a label that stands for "all" or "none" in
// policy/v1beta1 out of a changed selector that says more than that. old is nil
// for a new budget.
func StripDisruptionSelector(pdb, old *policyv1.PodDisruptionBudget) {
	switch {
	case old != nil && apiequality.Semantic.DeepEqual(old.Spec.Selector, pdb.Spec.Selector),
		apiequality.Semantic.DeepEqual(pdb.Spec.Selector, policy.NonV1beta1MatchNoneSelector),
		apiequality.Semantic.DeepEqual(pdb.Spec.Selector, policy.NonV1beta1MatchAllSelector):
		return
	}
	policy.StripPDBV1beta1Label(pdb.Spec.Selector)
}
