package resource

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// Pods are deleted with grace: one that runs on a node is only marked, and its
// agent has the last word.
var Pods = &Kind{
	Spec:                store.Pods,
	Singular:            "pod",
	ShortNames:          []string{"po"},
	Categories:          []string{"all"},
	ReturnDeletedObject: true,
	Strategy: strategy(store.Pods, "", Rules[*corev1.Pod]{
		PrepareForCreate: func(ctx context.Context, pod *corev1.Pod) {
			pod.Generation = 1
			pod.Status = corev1.PodStatus{Phase: corev1.PodPending}
			kube.PreparePod(ctx, pod)
		},
		Validate: kube.ValidatePod,
		WarningsOnCreate: func(ctx context.Context, pod *corev1.Pod) []string {
			return append(nameWarning("the Pod's hostname", pod.Name), kube.PodWarnings(ctx, pod)...)
		},
		PrepareForUpdate: func(_ context.Context, pod, old *corev1.Pod) {
			pod.Status = old.Status
			kube.PreparePodUpdate(pod, old)
			countPodGeneration(pod, old)
		},
		ValidateUpdate: kube.ValidatePodUpdate,
		GracefulDelete: podGrace,
	}),
	Subresources: []*Subresource{
		{Name: "attach", Kind: corev1.SchemeGroupVersion.WithKind("PodAttachOptions"), Verbs: []string{"create", "get"}},
		{Name: "binding", Kind: corev1.SchemeGroupVersion.WithKind("Binding"), Verbs: []string{"create"}},
		ephemeralContainers,
		{Name: "eviction", Kind: policyv1.SchemeGroupVersion.WithKind("Eviction"), Verbs: []string{"create"}},
		{Name: "exec", Kind: corev1.SchemeGroupVersion.WithKind("PodExecOptions"), Verbs: []string{"create", "get"}},
		{Name: "log", Kind: store.Pods.Kind, Verbs: []string{"get"}},
		{Name: "portforward", Kind: corev1.SchemeGroupVersion.WithKind("PodPortForwardOptions"), Verbs: []string{"create", "get"}},
		{Name: "proxy", Kind: corev1.SchemeGroupVersion.WithKind("PodProxyOptions"), Verbs: []string{"create", "delete", "get", "patch", "update"}},
		resize,
		{
			Name: "status", Kind: store.Pods.Kind, Verbs: []string{"get", "patch", "update"},
			Strategy: strategy(store.Pods, "status", Rules[*corev1.Pod]{
				PrepareForUpdate: preparePodStatus,
				ValidateUpdate:   kube.ValidatePodStatusUpdate,
				WarningsOnUpdate: podStatusWarnings,
			}),
		},
	},
}

// podGrace is how long a pod is given to end: none when nothing runs. Negative
// values have become 1 by now, here as in the spec.
func podGrace(pod *corev1.Pod, options *metav1.DeleteOptions) bool {
	var period int64
	switch {
	case options.GracePeriodSeconds != nil:
		period = *options.GracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		period = *pod.Spec.TerminationGracePeriodSeconds
	}
	if pod.Spec.NodeName == "" || podFinished(pod) {
		period = 0
	}
	options.GracePeriodSeconds = &period
	return true
}

// podFinished says that no container of the pod will run again.
func podFinished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

// preparePodStatus keeps what a status update may not touch, or would only
// lose because its sender does not know of it.
func preparePodStatus(_ context.Context, pod, old *corev1.Pod) {
	pod.Spec = old.Spec
	pod.DeletionTimestamp = nil
	pod.OwnerReferences = old.OwnerReferences
	keepPodStatus(&pod.Status, &old.Status)
	kube.DropDisabledPodFields(pod, old)
}

// keepPodStatus carries over from old what status leaves out without meaning to.
func keepPodStatus(status, old *corev1.PodStatus) {
	if status.QOSClass == "" {
		status.QOSClass = old.QOSClass
	}
	// An empty list that is there clears; one that is not there is not known.
	if status.ResourceClaimStatuses == nil {
		status.ResourceClaimStatuses = old.ResourceClaimStatuses
	}
	if status.ExtendedResourceClaimStatus == nil {
		status.ExtendedResourceClaimStatus = old.ExtendedResourceClaimStatus
	}
	if status.NodeAllocatableResourceClaimStatuses == nil {
		status.NodeAllocatableResourceClaimStatuses = old.NodeAllocatableResourceClaimStatuses
	}
	if status.ObservedGeneration == 0 {
		status.ObservedGeneration = old.ObservedGeneration
	}
	// Validation allows several conditions of one type: each takes the next old one.
	left := slices.Clone(old.Conditions)
	for i := range status.Conditions {
		c := &status.Conditions[i]
		at := slices.IndexFunc(left, func(o corev1.PodCondition) bool { return o.Type == c.Type })
		if at < 0 {
			continue
		}
		if c.ObservedGeneration == 0 {
			c.ObservedGeneration = left[at].ObservedGeneration
		}
		left = slices.Delete(left, at, at+1)
	}
}

func podStatusWarnings(_ context.Context, pod, _ *corev1.Pod) []string {
	var warnings []string
	for i, ip := range pod.Status.PodIPs {
		warnings = append(warnings, validation.GetWarningsForIP(field.NewPath("status", "podIPs").Index(i).Child("ip"), ip.IP)...)
	}
	for i, ip := range pod.Status.HostIPs {
		warnings = append(warnings, validation.GetWarningsForIP(field.NewPath("status", "hostIPs").Index(i).Child("ip"), ip.IP)...)
	}
	return warnings
}
