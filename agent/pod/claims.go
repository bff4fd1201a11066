package pod

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/musterhq/muster/agent/volume"
)

// claimed is what the claim of a pod's volume is bound to. Until it is bound the pod
// waits, and says so in upstream's words.
func (w *worker) claimed(pod *corev1.Pod, v *corev1.Volume) (*volume.Claimed, error) {
	name := ""
	if v.Ephemeral != nil {
		name = ephemeral.VolumeClaimName(pod, v)
	} else {
		name = v.PersistentVolumeClaim.ClaimName
	}
	bound, err := w.boundVolume(pod, v, name)
	if err != nil {
		return nil, fmt.Errorf("error processing PVC %s/%s: %w", pod.Namespace, name, err)
	}
	return bound, nil
}

func (w *worker) boundVolume(pod *corev1.Pod, v *corev1.Volume, name string) (*volume.Claimed, error) {
	if w.m.cfg.Contents == nil {
		return nil, ErrNotTold
	}
	claim, bound, err := w.m.cfg.Contents.Claim(pod.Namespace, name)
	switch {
	case err != nil:
		return nil, fmt.Errorf("failed to fetch PVC from API server: %w", err)
	case claim == nil:
		return nil, fmt.Errorf("failed to fetch PVC from API server: persistentvolumeclaims %q not found", name)
	}
	if v.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return nil, err
		}
	}
	switch {
	case claim.DeletionTimestamp != nil:
		return nil, errors.New("PVC is being deleted")
	case claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "":
		return nil, errors.New("PVC is not bound")
	case bound == nil:
		return nil, fmt.Errorf("failed to fetch PV %s from API server: it is not there, or not this claim's", claim.Spec.VolumeName)
	}
	return bound, nil
}
