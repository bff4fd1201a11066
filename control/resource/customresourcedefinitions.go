package resource

import (
	"context"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// extensionKinds are those of apiextensions.k8s.io.
var extensionKinds = []*Kind{CustomResourceDefinitions}

// CustomResourceDefinitions define kinds. Package custom makes Kinds of them;
// a controller accepts their names, and empties a kind before its definition
// goes, which the finalizer that a delete adds waits for.
var CustomResourceDefinitions = &Kind{
	Spec:       store.CustomResourceDefinitions,
	Singular:   "customresourcedefinition",
	ShortNames: []string{"crd", "crds"},
	Categories: []string{"api-extensions"},
	Strategy: strategy(store.CustomResourceDefinitions, "", Rules[*apiextensionsv1.CustomResourceDefinition]{
		PrepareForCreate: func(_ context.Context, crd *apiextensionsv1.CustomResourceDefinition) {
			crd.Status = apiextensionsv1.CustomResourceDefinitionStatus{}
			crd.Generation = 1
			noteStoredVersion(crd)
		},
		Validate: kube.ValidateCustomResourceDefinition,
		WarningsOnCreate: func(_ context.Context, crd *apiextensionsv1.CustomResourceDefinition) []string {
			return kube.CustomResourceDefinitionWarnings(crd, nil)
		},
		PrepareForUpdate: func(_ context.Context, crd, old *apiextensionsv1.CustomResourceDefinition) {
			old.Status.DeepCopyInto(&crd.Status)
			if !apiequality.Semantic.DeepEqual(crd.Spec, old.Spec) {
				crd.Generation = old.Generation + 1
			}
			noteStoredVersion(crd)
		},
		ValidateUpdate: kube.ValidateCustomResourceDefinitionUpdate,
		WarningsOnUpdate: func(_ context.Context, crd, old *apiextensionsv1.CustomResourceDefinition) []string {
			return kube.CustomResourceDefinitionWarnings(crd, old)
		},
		Conditional: true,
	}),
	Subresources: []*Subresource{{
		Name: "status", Kind: store.CustomResourceDefinitions.Kind, Verbs: []string{"get", "patch", "update"},
		Strategy: strategy(store.CustomResourceDefinitions, "status", Rules[*apiextensionsv1.CustomResourceDefinition]{
			PrepareForUpdate: func(_ context.Context, crd, old *apiextensionsv1.CustomResourceDefinition) { crd.Spec = old.Spec },
			ValidateUpdate:   kube.ValidateCustomResourceDefinitionStatusUpdate,
			Conditional:      true,
		}),
	}},
	beforeDelete: terminateDefinition,
}

// noteStoredVersion adds the version in which objects are stored from now on to
// those in which some may be stored. Only users, who migrate objects, take away.
func noteStoredVersion(crd *apiextensionsv1.CustomResourceDefinition) {
	for _, v := range crd.Spec.Versions {
		if v.Storage && !slices.Contains(crd.Status.StoredVersions, v.Name) {
			crd.Status.StoredVersions = append(crd.Status.StoredVersions, v.Name)
		}
	}
}

// terminateDefinition is the first step of a definition's end: no objects are
// created any more, and the controller deletes those that are there.
func terminateDefinition(obj store.Object, now metav1.Time) deletion {
	crd := obj.(*apiextensionsv1.CustomResourceDefinition)
	if !crd.DeletionTimestamp.IsZero() {
		return proceed
	}
	crd.DeletionTimestamp = &now
	if !slices.Contains(crd.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer) {
		crd.Finalizers = append(crd.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer)
	}
	apihelpers.SetCRDCondition(crd, apiextensionsv1.CustomResourceDefinitionCondition{
		Type:    apiextensionsv1.Terminating,
		Status:  apiextensionsv1.ConditionTrue,
		Reason:  "InstanceDeletionPending",
		Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
	})
	return write
}
