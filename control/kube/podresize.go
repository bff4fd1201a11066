package kube

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/features"
)

// PreparePodResize takes all but resources and resize policies from old. A pod
// whose containers are not those of old stays as it is, for validation to refuse.
func PreparePodResize(pod, old *corev1.Pod) {
	in, was := internal[*core.Pod](pod), internal[*core.Pod](old)
	keepAllButResources(in, was)
	if utilfeature.DefaultFeatureGate.Enabled(features.PodLevelResourcesFixDefaulting) {
		if in.Spec.Resources == nil && was.Spec.Resources != nil {
			// A client that does not know the field dropped it.
			in.Spec.Resources = was.Spec.Resources.DeepCopy()
		}
		if in.Spec.Resources != nil {
			podutil.DefaultPodLevelResources(in)
		}
	}
	podutil.DropDisabledPodFields(in, was)
	external(in, pod)
}

func keepAllButResources(pod, old *core.Pod) {
	if len(pod.Spec.Containers) != len(old.Spec.Containers) || len(pod.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return
	}
	wanted := pod.Spec
	pod.Spec = old.Spec
	if utilfeature.DefaultFeatureGate.Enabled(features.InPlacePodLevelResourcesVerticalScaling) {
		pod.Spec.Resources = wanted.Resources
	}
	if utilfeature.DefaultFeatureGate.Enabled(features.InPlacePodVerticalScalingMemoryBackedVolumes) {
		pod.Spec.Volumes = wanted.Volumes
	}
	pod.Spec.Containers = resized(wanted.Containers, old.Spec.Containers)
	pod.Spec.InitContainers = resized(wanted.InitContainers, old.Spec.InitContainers)
	pod.Status = old.Status
	metav1.ResetObjectMetaForStatus(&pod.ObjectMeta, &old.ObjectMeta)
}

// resized is old with the resources and resize policies of wanted, if the two
// have the same names in the same order.
func resized(wanted, old []core.Container) []core.Container {
	if len(wanted) == 0 {
		return wanted
	}
	merged := make([]core.Container, len(old))
	copy(merged, old)
	for i, c := range wanted {
		if c.Name != merged[i].Name {
			return wanted
		}
		merged[i].Resources = c.Resources
		merged[i].ResizePolicy = c.ResizePolicy
	}
	return merged
}

// ValidatePodResize says what of pod must not differ from old so, when only its
// resources may.
func ValidatePodResize(_ context.Context, pod, old *corev1.Pod) field.ErrorList {
	in, was := internal[*core.Pod](pod), internal[*core.Pod](old)
	return corevalidation.ValidatePodResize(in, was, podOptions(in, was))
}

// ValidatePodEphemeralContainersUpdate does the same when only containers for
// debugging may come.
func ValidatePodEphemeralContainersUpdate(_ context.Context, pod, old *corev1.Pod) field.ErrorList {
	in, was := internal[*core.Pod](pod), internal[*core.Pod](old)
	return corevalidation.ValidatePodEphemeralContainersUpdate(in, was, podOptions(in, was))
}
