package resource

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// PersistentVolumes say since when they are in their phase.
var PersistentVolumes = &Kind{
	Spec:                store.PersistentVolumes,
	Singular:            "persistentvolume",
	ShortNames:          []string{"pv"},
	ReturnDeletedObject: true,
	Strategy: strategy(store.PersistentVolumes, "", Rules[*corev1.PersistentVolume]{
		PrepareForCreate: func(_ context.Context, volume *corev1.PersistentVolume) {
			now := metav1.Now()
			volume.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: &now}
			kube.PreparePersistentVolume(volume, nil)
		},
		Validate: kube.ValidatePersistentVolume,
		WarningsOnCreate: func(_ context.Context, volume *corev1.PersistentVolume) []string {
			return kube.PersistentVolumeWarnings(volume)
		},
		PrepareForUpdate: func(_ context.Context, volume, old *corev1.PersistentVolume) {
			volume.Status = old.Status
			kube.PreparePersistentVolume(volume, old)
		},
		ValidateUpdate: kube.ValidatePersistentVolumeUpdate,
		WarningsOnUpdate: func(_ context.Context, volume, _ *corev1.PersistentVolume) []string {
			return kube.PersistentVolumeWarnings(volume)
		},
	}),
	Subresources: []*Subresource{{
		Name: "status", Kind: store.PersistentVolumes.Kind, Verbs: []string{"get", "patch", "update"},
		Strategy: strategy(store.PersistentVolumes, "status", Rules[*corev1.PersistentVolume]{
			PrepareForUpdate: preparePersistentVolumeStatus,
			ValidateUpdate:   kube.ValidatePersistentVolumeStatusUpdate,
		}),
	}},
}

// preparePersistentVolumeStatus notes when the phase changes, for clients that
// do not say so themselves.
func preparePersistentVolumeStatus(_ context.Context, volume, old *corev1.PersistentVolume) {
	volume.Spec = old.Spec
	since := &volume.Status.LastPhaseTransitionTime
	was := old.Status.LastPhaseTransitionTime
	switch {
	case volume.Status.Phase == old.Status.Phase && *since == nil:
		*since = was
	case volume.Status.Phase != old.Status.Phase && (*since == nil || (*since).Equal(was)):
		now := metav1.Now()
		*since = &now
	}
}
