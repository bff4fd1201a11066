package kube

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	kubeletapis "k8s.io/kubelet/pkg/apis"
	poddetails "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/api/v1/persistentvolume"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/apis/certificates"
	"k8s.io/kubernetes/pkg/apis/core"
)

// UsesSecret says whether a pod refers to a secret of its namespace, which its
// node must then be able to read.
func UsesSecret(pod *corev1.Pod, name string) bool {
	return visits(podutil.VisitPodSecretNames, pod, name)
}

// UsesConfigMap is UsesSecret for config maps.
func UsesConfigMap(pod *corev1.Pod, name string) bool {
	return visits(podutil.VisitPodConfigmapNames, pod, name)
}

// visits says whether a visit comes by name. What visits return does not tell:
// they lose their containers' word.
func visits(visit func(*corev1.Pod, podutil.Visitor) bool, pod *corev1.Pod, name string) bool {
	found := false
	visit(pod, func(used string) bool {
		found = found || used == name
		return !found
	})
	return found
}

// Claims are the names of the volume claims that a pod uses.
func Claims(pod *corev1.Pod) []string {
	var names []string
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, ephemeral.VolumeClaimName(pod, v))
		}
	}
	return names
}

// ResourceClaims are the names of the claims to devices that a pod uses, as far as
// those are known that are made for it.
func ResourceClaims(pod *corev1.Pod) []string {
	var names []string
	for _, claim := range pod.Spec.ResourceClaims {
		if claim.ResourceClaimName != nil {
			names = append(names, *claim.ResourceClaimName)
		}
	}
	for _, claim := range pod.Status.ResourceClaimStatuses {
		if claim.ResourceClaimName != nil {
			names = append(names, *claim.ResourceClaimName)
		}
	}
	if extended := pod.Status.ExtendedResourceClaimStatus; extended != nil && extended.ResourceClaimName != "" {
		names = append(names, extended.ResourceClaimName)
	}
	return names
}

// VolumeUsesSecret says whether a node that mounts a volume needs a secret to.
func VolumeUsesSecret(pv *corev1.PersistentVolume, namespace, name string) bool {
	found := false
	persistentvolume.VisitPVSecretNames(pv, func(ns, used string, onNode bool) bool {
		found = found || onNode && ns == namespace && used == name
		return !found
	})
	return found
}

// IsKubeletLabel says whether a node may choose a label's value for itself.
func IsKubeletLabel(key string) bool { return kubeletapis.IsKubeletLabel(key) }

// RefersToObjects says what kind of object a pod refers to, if any: a pod that a
// node makes by itself must not.
func RefersToObjects(pod *corev1.Pod) (string, error) {
	_, what, err := poddetails.HasAPIObjectReference(internal[*core.Pod](pod.DeepCopy()))
	return what, err
}

// AsksForAudience says whether a pod has a service account token for audience
// mounted.
func AsksForAudience(pod *corev1.Pod, audience string) bool {
	return hasSource(pod, func(s *corev1.VolumeProjection) bool {
		return s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience
	})
}

// AsksForSigner says whether a pod has a certificate of a signer mounted.
func AsksForSigner(pod *corev1.Pod, signer string) bool {
	return hasSource(pod, func(s *corev1.VolumeProjection) bool {
		return s.PodCertificate != nil && s.PodCertificate.SignerName == signer
	})
}

func hasSource(pod *corev1.Pod, is func(*corev1.VolumeProjection) bool) bool {
	for i := range pod.Spec.Volumes {
		if p := pod.Spec.Volumes[i].Projected; p != nil {
			for j := range p.Sources {
				if is(&p.Sources[j]) {
					return true
				}
			}
		}
	}
	return false
}

// RequestedName is the common name that a certificate signing request, in PEM,
// asks for.
func RequestedName(pem []byte) (string, error) {
	request, err := certificates.ParseCSR(pem)
	if err != nil {
		return "", err
	}
	return request.Subject.CommonName, nil
}
