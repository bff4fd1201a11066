package volumebinding

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/resource"
)

const betaProvisioner = "volume.beta.kubernetes.io/storage-provisioner"

// provision has a volume made for a claim that no volume fits: here, or by the
// provisioner that its class names.
func provision(c cluster, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, name string) (p plan) {
	switch {
	case class == nil:
		p.say(corev1.EventTypeWarning, "ProvisioningFailed", "storageclass.storage.k8s.io %q not found", name)
		return p
	case class.Provisioner == resource.LocalPathProvisioner:
		return provisionLocal(c, claim, class)
	case strings.HasPrefix(class.Provisioner, "kubernetes.io/"):
		p.say(corev1.EventTypeWarning, "ProvisioningFailed", "no volume plugin matched name: %s", class.Provisioner)
		return p
	}
	p.claim = provisionedBy(claim, class.Provisioner)
	p.say(corev1.EventTypeNormal, "ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner '%s' "+
		"or manually by the system administrator. If volume creation is delayed, please verify that "+
		"the provisioner is running and correctly registered.", class.Provisioner)
	return p
}

func provisionedBy(claim *corev1.PersistentVolumeClaim, provisioner string) *corev1.PersistentVolumeClaim {
	claim = claim.DeepCopy()
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnStorageProvisioner, provisioner)
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, betaProvisioner, provisioner)
	return claim
}

// provisionLocal makes a volume that is a directory of the node that was selected
// for the claim. The directory is made by the node's agent when a pod first mounts it.
func provisionLocal(c cluster, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) (p plan) {
	fail := func(format string, args ...any) plan {
		p.say(corev1.EventTypeWarning, "ProvisioningFailed", "Failed to provision volume with StorageClass %q: "+format, append([]any{class.Name}, args...)...)
		return p
	}
	if problem := impossible(claim, class); problem != "" {
		return fail("%s", problem)
	}
	node := c.node(claim.Annotations[volume.AnnSelectedNode])
	if node == nil {
		// The scheduler chooses another.
		p.claim = claim.DeepCopy()
		delete(p.claim.Annotations, volume.AnnSelectedNode)
		return fail("node %q not found", claim.Annotations[volume.AnnSelectedNode])
	}
	base, host := node.Annotations[resource.LocalVolumesAnnotation], node.Labels[corev1.LabelHostname]
	if base == "" || host == "" {
		return fail("node %q has not said where its volumes are", node.Name)
	}
	name := "pvc-" + string(claim.UID)
	if c.volume(name) != nil {
		return p // and yet it is not for this claim; somebody knows why
	}
	p.volume = &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: name,
			Annotations: map[string]string{
				volume.AnnBoundByController:      "yes",
				volume.AnnDynamicallyProvisioned: resource.LocalPathProvisioner,
				resource.VolumeNodeAnnotation:    node.Name,
			},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   slices.Clone(claim.Spec.AccessModes),
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			StorageClassName:              class.Name,
			VolumeMode:                    ptr.To(corev1.PersistentVolumeFilesystem),
			ClaimRef:                      refOf(claim),
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: filepath.Join(base, name)}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
			}}}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound},
	}
	p.volume = protected(p.volume)
	p.claim = boundTo(provisionedBy(claim, class.Provisioner), p.volume)
	p.say(corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s using %s", name, class.Provisioner)
	return p
}

// impossible is why no directory can be what the claim asks for.
func impossible(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) string {
	switch {
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return fmt.Sprintf("plugin %q is not a CSI plugin. Only CSI plugin can provision a claim with a datasource", class.Provisioner)
	case claim.Spec.Selector != nil:
		return "claim Selector is not supported"
	case ptr.Deref(claim.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) != corev1.PersistentVolumeFilesystem:
		return fmt.Sprintf("%s does not support block volume provisioning", class.Provisioner)
	case ptr.Deref(claim.Spec.VolumeAttributesClassName, "") != "":
		return fmt.Sprintf("%s does not support volume attributes classes", class.Provisioner)
	case len(class.MountOptions) > 0:
		return fmt.Sprintf("Mount options are not supported by the provisioner but StorageClass %q has mount options %v", class.Name, class.MountOptions)
	case !volume.IsDelayBindingProvisioning(claim):
		return fmt.Sprintf("%s needs a StorageClass with volumeBindingMode WaitForFirstConsumer: a directory is on the node of the pod that uses it first", class.Provisioner)
	}
	for _, mode := range claim.Spec.AccessModes {
		if mode != corev1.ReadWriteOnce && mode != corev1.ReadWriteOncePod {
			return fmt.Sprintf("%s supports ReadWriteOnce and ReadWriteOncePod access modes only", class.Provisioner)
		}
	}
	return ""
}
