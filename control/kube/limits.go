package kube

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/plugin/pkg/admission/limitranger"
)

// ApplyLimits gives a pod's containers what limits say of those that ask for
// nothing.
func ApplyLimits(limits *corev1.LimitRange, pod *corev1.Pod) error {
	in := internal[*core.Pod](pod)
	if err := limitranger.PodMutateLimitFunc(limits, in); err != nil {
		return err
	}
	external(in, pod)
	return nil
}

// CheckPodLimits says how a pod is outside of limits.
func CheckPodLimits(limits *corev1.LimitRange, pod *corev1.Pod) error {
	return limitranger.PodValidateLimitFunc(limits, internal[*core.Pod](pod))
}

// CheckClaimLimits says how a claim is outside of limits.
func CheckClaimLimits(limits *corev1.LimitRange, claim *corev1.PersistentVolumeClaim) error {
	return limitranger.PersistentVolumeClaimValidateLimitFunc(limits, internal[*core.PersistentVolumeClaim](claim))
}
