package volumebinding

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"github.com/musterhq/muster/control/resource"
)

// planVolume decides about a volume. What its claim should be is planClaim's.
func planVolume(c cluster, v *corev1.PersistentVolume) plan {
	v = protected(v)
	ref := v.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return plan{volume: volumeIn(v, corev1.VolumeAvailable, "")}
	}
	claim := c.claim(ref.Namespace, ref.Name)
	if claim != nil && claim.UID != ref.UID {
		claim = nil // another of that name
	}
	switch {
	case claim == nil:
		return release(c, v)
	case claim.Spec.VolumeName == "":
		p := plan{volume: v}
		// Otherwise the claim finds it.
		if volume.CheckVolumeModeMismatches(&claim.Spec, &v.Spec) {
			p.sayOfVolume(corev1.EventTypeWarning, "VolumeMismatch", "Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", claim.Name)
		}
		return p
	case claim.Spec.VolumeName == v.Name:
		return plan{volume: volumeIn(v, corev1.VolumeBound, "")}
	case metav1.HasAnnotation(v.ObjectMeta, volume.AnnDynamicallyProvisioned) && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return release(c, v) // made for a claim that got another
	}
	return plan{volume: unbound(v)}
}

// protected is the volume with our finalizer if, and only if, its directory is to be
// deleted before it. Its users may change the policy.
func protected(v *corev1.PersistentVolume) *corev1.PersistentVolume {
	if !resource.IsLocalPath(v) {
		return v
	}
	has := slices.Contains(v.Finalizers, resource.DirectoryProtection)
	wants := v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
	if has == wants || wants && v.DeletionTimestamp != nil {
		return v
	}
	v = v.DeepCopy()
	if wants {
		v.Finalizers = append(v.Finalizers, resource.DirectoryProtection)
	} else {
		v.Finalizers = slices.DeleteFunc(v.Finalizers, func(f string) bool { return f == resource.DirectoryProtection })
	}
	return v
}

// unbound is a volume that is for its claim no longer: for anybody, or, if the user
// named the claim, for another claim of that name.
func unbound(v *corev1.PersistentVolume) *corev1.PersistentVolume {
	v = v.DeepCopy()
	if metav1.HasAnnotation(v.ObjectMeta, volume.AnnBoundByController) {
		v.Spec.ClaimRef = nil
		delete(v.Annotations, volume.AnnBoundByController)
	} else {
		v.Spec.ClaimRef.UID = ""
	}
	return volumeIn(v, corev1.VolumeAvailable, "")
}

// release is for a volume whose claim is gone, and does what its policy says.
func release(c cluster, v *corev1.PersistentVolume) plan {
	failed := v.Status.Phase == corev1.VolumeFailed // which users should go on seeing
	p := plan{volume: v}
	if !failed {
		p.volume = volumeIn(v, corev1.VolumeReleased, "")
	}
	if v.Annotations[volume.AnnMigratedTo] != "" {
		return p
	}
	fail := func(reason, message string) plan {
		if !failed {
			p.volume = volumeIn(v, corev1.VolumeFailed, message)
			p.sayOfVolume(corev1.EventTypeWarning, reason, "%s", message)
		}
		return p
	}
	provisioner := v.Annotations[volume.AnnDynamicallyProvisioned]
	switch policy := v.Spec.PersistentVolumeReclaimPolicy; {
	case policy == corev1.PersistentVolumeReclaimRetain:
		return p
	case policy == corev1.PersistentVolumeReclaimRecycle:
		return fail("VolumeFailedRecycle", fmt.Sprintf("error finding recycling plugin for volume %q: no recyclable volume plugin matched", v.Name))
	case resource.IsLocalPath(v):
		node := v.Annotations[resource.VolumeNodeAnnotation]
		if c.node(node) == nil {
			p.remove = true
			p.sayOfVolume(corev1.EventTypeWarning, "VolumeDelete", "node %q is gone, and the directory of the volume with it", node)
			return p
		}
		if !failed {
			p.volume = volumeIn(v, corev1.VolumeReleased, fmt.Sprintf("waiting for node %q to delete the directory", node))
		}
		return p
	case provisioner != "" && !strings.HasPrefix(provisioner, "kubernetes.io/"), v.Spec.CSI != nil:
		return p // who made it deletes it
	}
	return fail("VolumeFailedDelete", fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched", v.Name))
}

// volumeIn is the volume in a phase; the message goes with the phase.
func volumeIn(v *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) *corev1.PersistentVolume {
	if v.Status.Phase == phase {
		return v
	}
	v = v.DeepCopy()
	v.Status.Phase, v.Status.Message, v.Status.Reason = phase, message, ""
	return v
}
