package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// provide takes up a claim that a plan has made. If its class does not wait for the pod
// that uses it, it has its volume at once, as from the binder of volumes: one that is
// there, or one that is made for it and that every node is taken to reach.
func (c *core) provide(claim *corev1.PersistentVolumeClaim) {
	v := c.cluster.volumes
	key := claimKey(claim)
	class := v.classes[volume.GetPersistentVolumeClaimClass(claim)]
	waits := class != nil && ptr.Deref(class.VolumeBindingMode, "") == storagev1.VolumeBindingWaitForFirstConsumer
	if waits || claim.Spec.VolumeName != "" && metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted) {
		c.setClaim(key, claim)
		return
	}
	var open []*corev1.PersistentVolume
	for _, p := range v.forClaim[key] {
		open = append(open, p.PersistentVolume)
	}
	for _, p := range slices.Clone(v.shelf(volume.GetPersistentVolumeClaimClass(claim))) {
		open = append(open, p.PersistentVolume)
	}
	found, err := volume.FindMatchingVolume(claim, open, nil, nil, false, true)
	switch {
	case err != nil:
		found = nil // its selector can't be read
	case found != nil:
		found = found.DeepCopy()
	case class != nil && class.Provisioner != "" && class.Provisioner != volume.NotSupportedProvisioner:
		found = &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "plan-" + claim.Namespace + "-" + claim.Name}, Spec: corev1.PersistentVolumeSpec{
			Capacity: claim.Spec.Resources.Requests, AccessModes: claim.Spec.AccessModes, VolumeMode: claim.Spec.VolumeMode, StorageClassName: class.Name,
		}}
	}
	if found != nil {
		found.Spec.ClaimRef = &corev1.ObjectReference{Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID}
		found.Status.Phase = corev1.VolumeBound
		c.setVolume(found.Name, found)
		claim = claim.DeepCopy()
		claim.Spec.VolumeName, claim.Status.Phase = found.Name, corev1.ClaimBound
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnBindCompleted, "yes")
	}
	c.setClaim(key, claim)
}
