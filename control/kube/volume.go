package kube

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	volumeutil "k8s.io/kubernetes/pkg/api/persistentvolume"
	claimutil "k8s.io/kubernetes/pkg/api/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	volumevalidation "k8s.io/kubernetes/pkg/volume/validation"
)

// PreparePersistentVolume drops what volume uses of disabled features and old,
// which is nil for a new one, did not.
func PreparePersistentVolume(volume, old *corev1.PersistentVolume) {
	in := internal[*core.PersistentVolume](volume)
	var was *core.PersistentVolumeSpec
	if old != nil {
		was = &internal[*core.PersistentVolume](old).Spec
	}
	volumeutil.DropDisabledSpecFields(&in.Spec, was)
	external(in, volume)
}

// ValidatePersistentVolume says what is wrong with a new volume.
func ValidatePersistentVolume(_ context.Context, volume *corev1.PersistentVolume) field.ErrorList {
	in := internal[*core.PersistentVolume](volume)
	errs := validation.ValidatePersistentVolume(in, validation.ValidationOptionsForPersistentVolume(in, nil))
	return append(errs, volumevalidation.ValidatePersistentVolume(in)...)
}

// ValidatePersistentVolumeUpdate says what of volume must not differ from old so.
func ValidatePersistentVolumeUpdate(_ context.Context, volume, old *corev1.PersistentVolume) field.ErrorList {
	in, was := internal[*core.PersistentVolume](volume), internal[*core.PersistentVolume](old)
	options := validation.ValidationOptionsForPersistentVolume(in, was)
	errs := validation.ValidatePersistentVolume(in, options)
	errs = append(errs, volumevalidation.ValidatePersistentVolume(in)...)
	return append(errs, validation.ValidatePersistentVolumeUpdate(in, was, options)...)
}

// ValidatePersistentVolumeStatusUpdate does the same for a change of the status alone.
var ValidatePersistentVolumeStatusUpdate = onUpdate[*corev1.PersistentVolume](validation.ValidatePersistentVolumeStatusUpdate)

// PersistentVolumeWarnings is what a user of volume should hear though it is valid.
func PersistentVolumeWarnings(volume *corev1.PersistentVolume) []string {
	return volumeutil.GetWarningsForPersistentVolume(internal[*core.PersistentVolume](volume))
}

// PreparePersistentVolumeClaim drops what claim uses of disabled features and
// old, which is nil for a new one, did not, drops data sources that were always
// ignored, and makes dataSource and dataSourceRef agree.
func PreparePersistentVolumeClaim(claim, old *corev1.PersistentVolumeClaim) {
	in := internal[*core.PersistentVolumeClaim](claim)
	var was *core.PersistentVolumeClaimSpec
	if old != nil {
		was = &internal[*core.PersistentVolumeClaim](old).Spec
	}
	claimutil.DropDisabledFields(&in.Spec, was)
	claimutil.EnforceDataSourceBackwardsCompatibility(&in.Spec, was)
	claimutil.NormalizeDataSources(&in.Spec)
	external(in, claim)
}

// PreparePersistentVolumeClaimStatus does the same for a change of the status alone.
func PreparePersistentVolumeClaimStatus(claim, old *corev1.PersistentVolumeClaim) {
	in := internal[*core.PersistentVolumeClaim](claim)
	claimutil.DropDisabledFieldsFromStatus(in, internal[*core.PersistentVolumeClaim](old))
	external(in, claim)
}

// ValidatePersistentVolumeClaim says what is wrong with a new claim.
func ValidatePersistentVolumeClaim(_ context.Context, claim *corev1.PersistentVolumeClaim) field.ErrorList {
	in := internal[*core.PersistentVolumeClaim](claim)
	return validation.ValidatePersistentVolumeClaim(in, validation.ValidationOptionsForPersistentVolumeClaim(in, nil))
}

// ValidatePersistentVolumeClaimUpdate says what of claim must not differ from old so.
func ValidatePersistentVolumeClaimUpdate(_ context.Context, claim, old *corev1.PersistentVolumeClaim) field.ErrorList {
	in, was := internal[*core.PersistentVolumeClaim](claim), internal[*core.PersistentVolumeClaim](old)
	return validation.ValidatePersistentVolumeClaimUpdate(in, was, validation.ValidationOptionsForPersistentVolumeClaim(in, was))
}

// ValidatePersistentVolumeClaimStatusUpdate does the same for a change of the status alone.
func ValidatePersistentVolumeClaimStatusUpdate(_ context.Context, claim, old *corev1.PersistentVolumeClaim) field.ErrorList {
	in, was := internal[*core.PersistentVolumeClaim](claim), internal[*core.PersistentVolumeClaim](old)
	return validation.ValidatePersistentVolumeClaimStatusUpdate(in, was, validation.ValidationOptionsForPersistentVolumeClaim(in, was))
}

// PersistentVolumeClaimWarnings is what a user of claim should hear though it is valid.
func PersistentVolumeClaimWarnings(claim *corev1.PersistentVolumeClaim) []string {
	return claimutil.GetWarningsForPersistentVolumeClaim(internal[*core.PersistentVolumeClaim](claim))
}
