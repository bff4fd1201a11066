package kube

import (
	corev1 "k8s.io/api/core/v1"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// PodSecrets are the names of all secrets that a pod refers to.
func PodSecrets(pod *corev1.Pod) []string {
	var names []string
	podutil.VisitPodSecretNames(pod, func(name string) bool {
		names = append(names, name)
		return true
	})
	return names
}
