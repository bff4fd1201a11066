package resource

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// The two parts of a pod's spec that change while it runs have paths of their
// own, so that who may change them need not be allowed to change pods.

// ephemeralContainers takes containers for debugging and nothing else.
var ephemeralContainers = &Subresource{
	Name: "ephemeralcontainers", Kind: store.Pods.Kind, Verbs: []string{"get", "patch", "update"},
	Strategy: strategy(store.Pods, "ephemeralcontainers", Rules[*corev1.Pod]{
		PrepareForUpdate: func(_ context.Context, pod, old *corev1.Pod) {
			wanted := pod.Spec.EphemeralContainers
			pod.Spec = old.Spec
			pod.Status = old.Status
			metav1.ResetObjectMetaForStatus(&pod.ObjectMeta, &old.ObjectMeta)
			pod.Spec.EphemeralContainers = wanted
			kube.DropDisabledPodFields(pod, old)
			countPodGeneration(pod, old)
		},
		ValidateUpdate: kube.ValidatePodEphemeralContainersUpdate,
	}),
}

// resize takes other resources for the containers that are there.
var resize = &Subresource{
	Name: "resize", Kind: store.Pods.Kind, Verbs: []string{"get", "patch", "update"},
	Strategy: strategy(store.Pods, "resize", Rules[*corev1.Pod]{
		PrepareForUpdate: func(_ context.Context, pod, old *corev1.Pod) {
			kube.PreparePodResize(pod, old)
			countPodGeneration(pod, old)
		},
		ValidateUpdate: kube.ValidatePodResize,
	}),
}

func countPodGeneration(pod, old *corev1.Pod) {
	if !apiequality.Semantic.DeepEqual(pod.Spec, old.Spec) {
		pod.Generation++
	}
}
