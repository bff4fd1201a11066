package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/apiserver/pkg/warning"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/features"
)

// The functions below are those of upstream's pkg/registry/core/pod/strategy.go,
// which cannot be imported: its packages bring the etcd client along.

// addSchedulingGatedCondition says why the scheduler leaves a gated pod alone.
func addSchedulingGatedCondition(pod *core.Pod) {
	if len(pod.Spec.SchedulingGates) == 0 {
		return
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == core.PodScheduled {
			return
		}
	}
	podutil.UpdatePodCondition(&pod.Status, &core.PodCondition{
		Type:    core.PodScheduled,
		Status:  core.ConditionFalse,
		Reason:  corev1.PodReasonSchedulingGated,
		Message: "Scheduling is blocked due to non-empty scheduling gates",
	})
}

// mergeAffinityLabelKeys turns matchLabelKeys and mismatchLabelKeys of pod
// (anti-)affinity into requirements with the pod's own values.
func mergeAffinityLabelKeys(pod *core.Pod) {
	if pod.Spec.Affinity == nil || !utilfeature.DefaultFeatureGate.Enabled(features.MatchLabelKeysInPodAffinity) {
		return
	}
	merge := func(preferred []core.WeightedPodAffinityTerm, required []core.PodAffinityTerm) {
		for i := range preferred {
			mergeTermLabelKeys(&preferred[i].PodAffinityTerm, pod.Labels)
		}
		for i := range required {
			mergeTermLabelKeys(&required[i], pod.Labels)
		}
	}
	if a := pod.Spec.Affinity.PodAffinity; a != nil {
		merge(a.PreferredDuringSchedulingIgnoredDuringExecution, a.RequiredDuringSchedulingIgnoredDuringExecution)
	}
	if a := pod.Spec.Affinity.PodAntiAffinity; a != nil {
		merge(a.PreferredDuringSchedulingIgnoredDuringExecution, a.RequiredDuringSchedulingIgnoredDuringExecution)
	}
}

func mergeTermLabelKeys(term *core.PodAffinityTerm, labels map[string]string) {
	// A nil selector matches nothing and must stay nil.
	if term.LabelSelector == nil {
		return
	}
	requireLabelKeys(term.LabelSelector, term.MatchLabelKeys, metav1.LabelSelectorOpIn, labels)
	requireLabelKeys(term.LabelSelector, term.MismatchLabelKeys, metav1.LabelSelectorOpNotIn, labels)
}

// mergeSpreadLabelKeys does the same for topology spread constraints.
func mergeSpreadLabelKeys(pod *core.Pod) {
	if !utilfeature.DefaultFeatureGate.Enabled(features.MatchLabelKeysInPodTopologySpread) ||
		!utilfeature.DefaultFeatureGate.Enabled(features.MatchLabelKeysInPodTopologySpreadSelectorMerge) {
		return
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		constraint := &pod.Spec.TopologySpreadConstraints[i]
		if constraint.LabelSelector != nil {
			requireLabelKeys(constraint.LabelSelector, constraint.MatchLabelKeys, metav1.LabelSelectorOpIn, pod.Labels)
		}
	}
}

func requireLabelKeys(selector *metav1.LabelSelector, keys []string, operator metav1.LabelSelectorOperator, labels map[string]string) {
	for _, key := range keys {
		if value, ok := labels[key]; ok {
			selector.MatchExpressions = append(selector.MatchExpressions, metav1.LabelSelectorRequirement{
				Key: key, Operator: operator, Values: []string{value},
			})
		}
	}
}

// copyAppArmorAnnotations gives containers the profile that only their
// deprecated annotation names, and warns the user.
func copyAppArmorAnnotations(ctx context.Context, pod *core.Pod) {
	if pod.Spec.OS != nil && pod.Spec.OS.Name == core.Windows {
		return
	}
	var podProfile *core.AppArmorProfile
	if pod.Spec.SecurityContext != nil {
		podProfile = pod.Spec.SecurityContext.AppArmorProfile
	}
	podutil.VisitContainers(&pod.Spec, podutil.AllFeatureEnabledContainers(), func(c *core.Container, _ podutil.ContainerType) bool {
		key := core.DeprecatedAppArmorAnnotationKeyPrefix + c.Name
		annotation, annotated := pod.Annotations[key]
		if !annotated || c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
			return true
		}
		profile := podutil.ApparmorFieldForAnnotation(annotation)
		if errs := corevalidation.ValidateAppArmorProfileField(profile, &field.Path{}); len(errs) > 0 {
			profile = nil
		}
		warn := profile == nil
		if profile != nil && !apiequality.Semantic.DeepEqual(profile, podProfile) {
			if c.SecurityContext == nil {
				c.SecurityContext = &core.SecurityContext{}
			}
			c.SecurityContext.AppArmorProfile = profile
			warn = true
		}
		if warn {
			// Here and not among PodWarnings, where the field would hide the annotation.
			path := field.NewPath("metadata", "annotations").Key(key)
			warning.AddWarning(ctx, "", fmt.Sprintf(`%s: deprecated since v1.30; use the "appArmorProfile" field instead`, path))
		}
		return true
	})
}
