package resource

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// PersistentVolumeClaims name their data source in two fields that are kept alike.
var PersistentVolumeClaims = &Kind{
	Spec:                store.PersistentVolumeClaims,
	Singular:            "persistentvolumeclaim",
	ShortNames:          []string{"pvc"},
	ReturnDeletedObject: true,
	Strategy: strategy(store.PersistentVolumeClaims, "", Rules[*corev1.PersistentVolumeClaim]{
		PrepareForCreate: func(_ context.Context, claim *corev1.PersistentVolumeClaim) {
			claim.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
			kube.PreparePersistentVolumeClaim(claim, nil)
		},
		Validate: kube.ValidatePersistentVolumeClaim,
		WarningsOnCreate: func(_ context.Context, claim *corev1.PersistentVolumeClaim) []string {
			return kube.PersistentVolumeClaimWarnings(claim)
		},
		PrepareForUpdate: func(_ context.Context, claim, old *corev1.PersistentVolumeClaim) {
			claim.Status = old.Status
			kube.PreparePersistentVolumeClaim(claim, old)
		},
		ValidateUpdate: kube.ValidatePersistentVolumeClaimUpdate,
		WarningsOnUpdate: func(_ context.Context, claim, _ *corev1.PersistentVolumeClaim) []string {
			return kube.PersistentVolumeClaimWarnings(claim)
		},
	}),
	Subresources: []*Subresource{{
		Name: "status", Kind: store.PersistentVolumeClaims.Kind, Verbs: []string{"get", "patch", "update"},
		Strategy: strategy(store.PersistentVolumeClaims, "status", Rules[*corev1.PersistentVolumeClaim]{
			PrepareForUpdate: func(_ context.Context, claim, old *corev1.PersistentVolumeClaim) {
				claim.Spec = old.Spec
				kube.PreparePersistentVolumeClaimStatus(claim, old)
			},
			ValidateUpdate: kube.ValidatePersistentVolumeClaimStatusUpdate,
		}),
	}},
}
