package resource

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/volume"
)

// What the local-path provisioner, the binder of volumes, dispatch and agents know
// its volumes by.
const (
	// LocalPathProvisioner makes volumes that are directories of nodes. It is part of
	// the control plane; a storage class asks for it by this name.
	LocalPathProvisioner = "muster.dev/local-path"
	// LocalVolumesAnnotation of a Node is the directory there that holds such
	// volumes: its agent makes them nowhere else, and deletes nothing else.
	LocalVolumesAnnotation = "muster.dev/local-volumes"
	// VolumeNodeAnnotation of a volume is the node that its directory is on.
	VolumeNodeAnnotation = "muster.dev/node"
	// DirectoryProtection keeps a volume's object until its directory is gone.
	DirectoryProtection = "muster.dev/local-path-directory"
)

// IsLocalPath says that the local-path provisioner made the volume.
func IsLocalPath(v *corev1.PersistentVolume) bool {
	return v.Annotations[volume.AnnDynamicallyProvisioned] == LocalPathProvisioner && v.Spec.Local != nil
}

// ReclaimedDirectory is the directory that is to be deleted, and on which node,
// because its volume has lost its claim for good; ok is false if it must stay.
func ReclaimedDirectory(v *corev1.PersistentVolume) (node, directory string, ok bool) {
	if !IsLocalPath(v) || v.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete ||
		v.Spec.ClaimRef == nil || v.Status.Phase != corev1.VolumeReleased && v.Status.Phase != corev1.VolumeFailed ||
		!slices.Contains(v.Finalizers, DirectoryProtection) {
		return "", "", false
	}
	return v.Annotations[VolumeNodeAnnotation], v.Spec.Local.Path, true
}

// WithoutDirectory takes the protection of a volume's directory, which is gone, off a volume that
// is being deleted. It is false if there is none.
func WithoutDirectory(v *corev1.PersistentVolume) bool {
	before := len(v.Finalizers)
	if v.DeletionTimestamp == nil {
		return false
	}
	v.Finalizers = slices.DeleteFunc(v.Finalizers, func(f string) bool { return f == DirectoryProtection })
	return len(v.Finalizers) < before
}
