package kube

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/util/tolerations"
)

// AddTolerations adds to a pod's tolerations those that they do not cover.
func AddTolerations(pod *corev1.Pod, more []corev1.Toleration) {
	in := internal[*core.Pod](pod)
	in.Spec.Tolerations = tolerations.MergeTolerations(in.Spec.Tolerations, internal[*core.Pod](&corev1.Pod{Spec: corev1.PodSpec{Tolerations: more}}).Spec.Tolerations)
	external(in, pod)
}
