package customresource

import (
	"errors"
	"fmt"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/util/webhook"
)

// plan is the status that a definition should have beside all others. Rules and
// words are upstream's.
func plan(crd *apiextensionsv1.CustomResourceDefinition, all []*apiextensionsv1.CustomResourceDefinition) apiextensionsv1.CustomResourceDefinitionStatus {
	now := crd.DeepCopy()
	if cond := approval(now); cond != nil {
		set(now, *cond)
	}
	if !apiequality.Semantic.DeepEqual(now.Spec.Names, now.Status.AcceptedNames) || apihelpers.FindCRDCondition(now, apiextensionsv1.NamesAccepted) == nil {
		acceptNames(now, all)
	}
	if apihelpers.IsCRDConditionTrue(now, apiextensionsv1.NamesAccepted) && !apihelpers.IsCRDConditionTrue(now, apiextensionsv1.Established) {
		if conversion := now.Spec.Conversion; conversion != nil && conversion.Webhook != nil && conversion.Webhook.ClientConfig != nil &&
			len(webhook.ValidateCABundle(nil, conversion.Webhook.ClientConfig.CABundle)) > 0 {
			set(now, apiextensionsv1.CustomResourceDefinitionCondition{
				Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse,
				Reason: "InvalidCABundle", Message: "The conversion webhook CABundle is invalid",
			})
			return now.Status
		}
		set(now, apiextensionsv1.CustomResourceDefinitionCondition{
			Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue,
			Reason: "InitialNamesAccepted", Message: "the initial names have been accepted",
		})
	}
	return now.Status
}

// set changes a condition unless it says the same already: its time must stay.
func set(crd *apiextensionsv1.CustomResourceDefinition, cond apiextensionsv1.CustomResourceDefinitionCondition) {
	if !apihelpers.IsCRDConditionEquivalent(&cond, apihelpers.FindCRDCondition(crd, cond.Type)) {
		apihelpers.SetCRDCondition(crd, cond)
	}
}

// acceptNames gives crd each name that it wants and that no other definition of
// the group has, and says which it could not have.
func acceptNames(crd *apiextensionsv1.CustomResourceDefinition, all []*apiextensionsv1.CustomResourceDefinition) {
	resources, kinds := map[string]bool{}, map[string]bool{}
	for _, other := range all {
		if other.Spec.Group != crd.Spec.Group || other.Name == crd.Name {
			continue
		}
		names := other.Status.AcceptedNames
		for _, name := range append([]string{names.Plural, names.Singular}, names.ShortNames...) {
			resources[name] = true
		}
		kinds[names.Kind], kinds[names.ListKind] = true, true
	}
	wanted, accepted := crd.Spec.Names, &crd.Status.AcceptedNames
	cond := apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found",
	}
	refuse := func(reason string, err error) {
		cond.Status, cond.Reason, cond.Message = apiextensionsv1.ConditionFalse, reason, err.Error()
	}
	take := func(wanted string, accepted *string, used map[string]bool, reason string) {
		if err := free(wanted, *accepted, used); err != nil {
			refuse(reason, err)
			return
		}
		*accepted = wanted
	}
	take(wanted.Plural, &accepted.Plural, resources, "PluralConflict")
	take(wanted.Singular, &accepted.Singular, resources, "SingularConflict")
	if !slices.Equal(wanted.ShortNames, accepted.ShortNames) {
		var taken []error
		for _, name := range wanted.ShortNames {
			if !slices.Contains(accepted.ShortNames, name) {
				taken = append(taken, free(name, "", resources))
			}
		}
		if err := errors.Join(taken...); err != nil {
			refuse("ShortNamesConflict", err)
		} else {
			accepted.ShortNames = slices.Clone(wanted.ShortNames)
		}
	}
	take(wanted.Kind, &accepted.Kind, kinds, "KindConflict")
	take(wanted.ListKind, &accepted.ListKind, kinds, "ListKindConflict")
	accepted.Categories = slices.Clone(wanted.Categories)
	set(crd, cond)
	if apihelpers.FindCRDCondition(crd, apiextensionsv1.Established) == nil {
		set(crd, apiextensionsv1.CustomResourceDefinitionCondition{
			Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse, Reason: "NotAccepted", Message: "not all names are accepted",
		})
	}
}

func free(wanted, accepted string, used map[string]bool) error {
	if wanted == accepted || !used[wanted] {
		return nil
	}
	return fmt.Errorf("%q is already in use", wanted)
}

// approval judges definitions in Kubernetes' own groups; for others it is nil.
func approval(crd *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.CustomResourceDefinitionCondition {
	if !apihelpers.IsProtectedCommunityGroup(crd.Spec.Group) {
		return nil
	}
	state, message := apihelpers.GetAPIApprovalState(crd.Annotations)
	cond := &apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.KubernetesAPIApprovalPolicyConformant, Message: message,
	}
	switch state {
	case apihelpers.APIApprovalInvalid:
		cond.Status, cond.Reason = apiextensionsv1.ConditionFalse, "InvalidAnnotation"
	case apihelpers.APIApprovalMissing:
		cond.Status, cond.Reason = apiextensionsv1.ConditionFalse, "MissingAnnotation"
	case apihelpers.APIApproved:
		cond.Status, cond.Reason = apiextensionsv1.ConditionTrue, "ApprovedAnnotation"
	case apihelpers.APIApprovalBypassed:
		cond.Status, cond.Reason = apiextensionsv1.ConditionFalse, "UnapprovedAnnotation"
	default:
		cond.Status, cond.Reason = apiextensionsv1.ConditionUnknown, "UnknownAnnotation"
	}
	return cond
}
