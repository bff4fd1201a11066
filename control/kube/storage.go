package kube

import (
	"context"

	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	storageutil "k8s.io/kubernetes/pkg/api/storage"
	"k8s.io/kubernetes/pkg/apis/storage"
	_ "k8s.io/kubernetes/pkg/apis/storage/install"
	"k8s.io/kubernetes/pkg/apis/storage/validation"
	"k8s.io/kubernetes/pkg/features"
)

// Upstream's rules for storage.k8s.io that depend on nothing but the object.
var (
	ValidateStorageClass                = onCreate[*storagev1.StorageClass](validation.ValidateStorageClass)
	ValidateVolumeAttachment            = onCreate[*storagev1.VolumeAttachment](validation.ValidateVolumeAttachment)
	ValidateVolumeAttachmentUpdate      = onUpdate[*storagev1.VolumeAttachment](validation.ValidateVolumeAttachmentUpdate)
	ValidateCSINode                     = onCreate[*storagev1.CSINode](validation.ValidateCSINode)
	ValidateCSINodeUpdate               = onUpdate[*storagev1.CSINode](validation.ValidateCSINodeUpdate)
	ValidateCSINodeStatusUpdate         = onUpdate[*storagev1.CSINode](validation.ValidateCSINodeStatusUpdate)
	ValidateCSIDriver                   = onCreate[*storagev1.CSIDriver](validation.ValidateCSIDriver)
	ValidateCSIDriverUpdate             = onUpdate[*storagev1.CSIDriver](validation.ValidateCSIDriverUpdate)
	ValidateVolumeAttributesClass       = onCreate[*storagev1.VolumeAttributesClass](validation.ValidateVolumeAttributesClass)
	ValidateVolumeAttributesClassUpdate = onUpdate[*storagev1.VolumeAttributesClass](validation.ValidateVolumeAttributesClassUpdate)
)

// ValidateStorageClassUpdate holds a changed class against both sets of rules.
func ValidateStorageClassUpdate(_ context.Context, class, old *storagev1.StorageClass) field.ErrorList {
	in := internal[*storage.StorageClass](class)
	return append(validation.ValidateStorageClass(in), validation.ValidateStorageClassUpdate(in, internal[*storage.StorageClass](old))...)
}

// StorageClassWarnings is what a user of a valid class should hear.
func StorageClassWarnings(class *storagev1.StorageClass) []string {
	return storageutil.GetWarningsForStorageClass(internal[*storage.StorageClass](class))
}

// DropDisabledAttachmentErrors drops error codes of disabled features from a
// changed status, unless old has some.
func DropDisabledAttachmentErrors(status, old *storagev1.VolumeAttachmentStatus) {
	if utilfeature.DefaultFeatureGate.Enabled(features.MutableCSINodeAllocatableCount) {
		return
	}
	if e := status.AttachError; e != nil && (old.AttachError == nil || old.AttachError.ErrorCode == nil) {
		e.ErrorCode = nil
	}
	if e := status.DetachError; e != nil && (old.DetachError == nil || old.DetachError.ErrorCode == nil) {
		e.ErrorCode = nil
	}
}

// DropDisabledCSINodeFields drops what node uses of disabled features and old,
// which is nil for a new one, did not.
func DropDisabledCSINodeFields(node, old *storagev1.CSINode) {
	if !utilfeature.DefaultFeatureGate.Enabled(features.CSIVolumeHealth) && (old == nil || len(old.Status.StorageHealth) == 0) {
		node.Status.StorageHealth = nil
	}
}

// DropDisabledCSIDriverFields does the same for a driver.
func DropDisabledCSIDriverFields(driver, old *storagev1.CSIDriver) {
	var was storagev1.CSIDriverSpec
	if old != nil {
		was = old.Spec
	}
	enabled, spec := utilfeature.DefaultFeatureGate.Enabled, &driver.Spec
	if !enabled(features.SELinuxMountReadWriteOncePod) && was.SELinuxMount == nil {
		spec.SELinuxMount = nil
	}
	if !enabled(features.MutableCSINodeAllocatableCount) && was.NodeAllocatableUpdatePeriodSeconds == nil {
		spec.NodeAllocatableUpdatePeriodSeconds = nil
	}
	if !enabled(features.CSIServiceAccountTokenSecrets) && was.ServiceAccountTokenInSecrets == nil {
		spec.ServiceAccountTokenInSecrets = nil
	}
	if !enabled(features.VolumeLimitScaling) && was.PreventPodSchedulingIfMissing == nil {
		spec.PreventPodSchedulingIfMissing = nil
	}
}

// CSIDriverWarnings is what a user of a valid driver should hear. old is nil for
// a new one.
func CSIDriverWarnings(driver, old *storagev1.CSIDriver) []string {
	if !utilfeature.DefaultFeatureGate.Enabled(features.CSIServiceAccountTokenSecrets) ||
		len(driver.Spec.TokenRequests) == 0 || driver.Spec.ServiceAccountTokenInSecrets != nil ||
		old != nil && apiequality.Semantic.DeepEqual(old.Spec.TokenRequests, driver.Spec.TokenRequests) {
		return nil
	}
	return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, " +
		"set to true to prevent possible logging of tokens in volume attributes"}
}

// ValidateCSIStorageCapacity says what is wrong with a new capacity.
func ValidateCSIStorageCapacity(_ context.Context, c *storagev1.CSIStorageCapacity) field.ErrorList {
	return validation.ValidateCSIStorageCapacity(internal[*storage.CSIStorageCapacity](c), validation.CSIStorageCapacityValidateOptions{})
}

// ValidateCSIStorageCapacityUpdate holds a changed capacity against both sets of
// rules. A selector that was invalid may stay.
func ValidateCSIStorageCapacityUpdate(_ context.Context, c, old *storagev1.CSIStorageCapacity) field.ErrorList {
	in, was := internal[*storage.CSIStorageCapacity](c), internal[*storage.CSIStorageCapacity](old)
	options := validation.CSIStorageCapacityValidateOptions{
		AllowInvalidLabelValueInSelector: len(metav1validation.ValidateLabelSelector(was.NodeTopology, metav1validation.LabelSelectorValidationOptions{}, nil)) > 0,
	}
	return append(validation.ValidateCSIStorageCapacity(in, options), validation.ValidateCSIStorageCapacityUpdate(in, was)...)
}

// CSIStorageCapacityWarnings is what a user of a valid capacity should hear.
func CSIStorageCapacityWarnings(c *storagev1.CSIStorageCapacity) []string {
	return storageutil.GetWarningsForCSIStorageCapacity(internal[*storage.CSIStorageCapacity](c))
}
