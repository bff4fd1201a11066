package resource

import (
	"context"

	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// PodDisruptionBudgets say how many pods may be evicted. A controller counts
// them in the status, and evictions take from the count.
var PodDisruptionBudgets = &Kind{
	Spec:       store.PodDisruptionBudgets,
	Singular:   "poddisruptionbudget",
	ShortNames: []string{"pdb"},
	Strategy: strategy(store.PodDisruptionBudgets, "", Rules[*policyv1.PodDisruptionBudget]{
		PrepareForCreate: func(_ context.Context, pdb *policyv1.PodDisruptionBudget) {
			pdb.Status = policyv1.PodDisruptionBudgetStatus{}
			pdb.Generation = 1
			kube.StripDisruptionSelector(pdb, nil)
		},
		Validate: kube.ValidatePodDisruptionBudget,
		PrepareForUpdate: func(_ context.Context, pdb, old *policyv1.PodDisruptionBudget) {
			pdb.Status = old.Status
			if !apiequality.Semantic.DeepEqual(pdb.Spec, old.Spec) {
				pdb.Generation = old.Generation + 1
			}
			kube.StripDisruptionSelector(pdb, old)
		},
		ValidateUpdate: kube.ValidatePodDisruptionBudgetUpdate,
		Conditional:    true,
	}),
	Subresources: []*Subresource{status(store.PodDisruptionBudgets, Rules[*policyv1.PodDisruptionBudget]{
		PrepareForUpdate: func(_ context.Context, pdb, old *policyv1.PodDisruptionBudget) { pdb.Spec = old.Spec },
		ValidateUpdate:   kube.ValidatePodDisruptionBudgetStatusUpdate,
		Conditional:      true,
	})},
}
