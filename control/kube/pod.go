package kube

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/helper/qos"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/features"
)

// PreparePod gives a new pod what upstream's pod strategy computes: fields of
// disabled features go, selectors take up label keys, AppArmor annotations
// become fields, the QoS class is set.
func PreparePod(ctx context.Context, pod *corev1.Pod) {
	in := internal[*core.Pod](pod)
	podutil.DropDisabledPodFields(in, nil)
	addSchedulingGatedCondition(in)
	mergeAffinityLabelKeys(in)
	mergeSpreadLabelKeys(in)
	copyAppArmorAnnotations(ctx, in)
	podutil.DefaultPodLevelResources(in)
	in.Status.QOSClass = qos.GetPodQOS(in)
	external(in, pod)
}

// PreparePodUpdate drops fields of disabled features that old did not use, and
// keeps pod-level resources that a client which does not know them dropped.
func PreparePodUpdate(pod, old *corev1.Pod) {
	if utilfeature.DefaultFeatureGate.Enabled(features.PodLevelResourcesFixDefaulting) &&
		pod.Spec.Resources == nil && old.Spec.Resources != nil {
		pod.Spec.Resources = old.Spec.Resources.DeepCopy()
	}
	DropDisabledPodFields(pod, old)
}

// DropDisabledPodFields drops fields of disabled features that old does not use.
func DropDisabledPodFields(pod, old *corev1.Pod) {
	in := internal[*core.Pod](pod)
	podutil.DropDisabledPodFields(in, internal[*core.Pod](old))
	external(in, pod)
}

// DropInitContainerAnnotations drops annotations that once stood for init containers.
func DropInitContainerAnnotations(annotations map[string]string) {
	podutil.DropInitContainerAnnotations(annotations)
}

// ValidatePod says what is wrong with a new pod.
func ValidatePod(_ context.Context, pod *corev1.Pod) field.ErrorList {
	in := internal[*core.Pod](pod)
	return corevalidation.ValidatePodCreate(in, podOptions(in, nil))
}

// ValidatePodUpdate says what of pod must not differ from old so.
func ValidatePodUpdate(_ context.Context, pod, old *corev1.Pod) field.ErrorList {
	in, was := internal[*core.Pod](pod), internal[*core.Pod](old)
	return corevalidation.ValidatePodUpdate(in, was, podOptions(in, was))
}

// ValidatePodStatusUpdate does the same for a pod of which only the status changes.
func ValidatePodStatusUpdate(_ context.Context, pod, old *corev1.Pod) field.ErrorList {
	in, was := internal[*core.Pod](pod), internal[*core.Pod](old)
	return corevalidation.ValidatePodStatusUpdate(in, was, podOptions(in, was))
}

// podOptions are what a pod's rules depend on: enabled features, and those that
// an existing pod uses already. The zero value would be none of them.
func podOptions(pod, old *core.Pod) corevalidation.PodValidationOptions {
	var opts corevalidation.PodValidationOptions
	if old == nil {
		opts = podutil.GetValidationOptionsFromPodSpecAndMeta(&pod.Spec, nil, &pod.ObjectMeta, nil)
	} else {
		opts = podutil.GetValidationOptionsFromPodSpecAndMeta(&pod.Spec, &old.Spec, &pod.ObjectMeta, &old.ObjectMeta)
	}
	opts.ResourceIsPod = true
	return opts
}

// PodWarnings is what a user who creates this pod should hear though it is valid.
func PodWarnings(ctx context.Context, pod *corev1.Pod) []string {
	return podutil.GetWarningsForPod(ctx, internal[*core.Pod](pod), nil)
}

// ValidateBinding says what is wrong with a request to bind a pod to a node.
func ValidateBinding(binding *corev1.Binding) field.ErrorList {
	return corevalidation.ValidatePodBinding(internal[*core.Binding](binding))
}
