package kube

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

// ValidatePodTemplate says what is wrong with a new template.
func ValidatePodTemplate(_ context.Context, template *corev1.PodTemplate) field.ErrorList {
	in := internal[*core.PodTemplate](template)
	return validation.ValidatePodTemplate(in, templateOptions(in, nil))
}

// ValidatePodTemplateUpdate says what of template must not differ from old so.
func ValidatePodTemplateUpdate(_ context.Context, template, old *corev1.PodTemplate) field.ErrorList {
	in, was := internal[*core.PodTemplate](template), internal[*core.PodTemplate](old)
	return validation.ValidatePodTemplateUpdate(in, was, templateOptions(in, was))
}

// PodTemplateWarnings is what a user of template should hear though it is
// valid. old is nil for a new one. What it holds stands not in a spec.
func PodTemplateWarnings(ctx context.Context, template, old *corev1.PodTemplate) []string {
	in := internal[*core.PodTemplate](template)
	var was *core.PodTemplateSpec
	if old != nil {
		was = &internal[*core.PodTemplate](old).Template
	}
	return podutil.GetWarningsForPodTemplate(ctx, field.NewPath("template"), &in.Template, was)
}
