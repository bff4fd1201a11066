package kube

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

// DropDisabledTemplateFields drops what the pod template of obj, which is of a
// kind that makes pods, uses of disabled features and old's did not. old is nil
// for a new object.
func DropDisabledTemplateFields(obj, old runtime.Object) {
	in, was := internal[runtime.Object](obj), formerTemplate(old)
	podutil.DropDisabledTemplateFields(template(in), was)
	external(in, obj)
}

// TemplateWarnings is what a user of obj's pod template should hear though it
// is valid. old is nil for a new object.
func TemplateWarnings(ctx context.Context, obj, old runtime.Object) []string {
	in := internal[runtime.Object](obj)
	return podutil.GetWarningsForPodTemplate(ctx, field.NewPath("spec", "template"), template(in), formerTemplate(old))
}

// templateOptions are what the rules of a pod template depend on, as for a pod's.
func templateOptions(in, was runtime.Object) validation.PodValidationOptions {
	if was == nil {
		return podutil.GetValidationOptionsFromPodTemplate(template(in), nil)
	}
	return podutil.GetValidationOptionsFromPodTemplate(template(in), template(was))
}

// formerTemplate is the pod template of a versioned object that may be nil.
func formerTemplate(old runtime.Object) *core.PodTemplateSpec {
	if old == nil {
		return nil
	}
	return template(internal[runtime.Object](old))
}

// template is the pod template in an internal object.
func template(in runtime.Object) *core.PodTemplateSpec {
	switch in := in.(type) {
	case *core.PodTemplate:
		return &in.Template
	case *core.ReplicationController:
		return in.Spec.Template
	case *apps.Deployment:
		return &in.Spec.Template
	case *apps.ReplicaSet:
		return &in.Spec.Template
	case *apps.StatefulSet:
		return &in.Spec.Template
	case *apps.DaemonSet:
		return &in.Spec.Template
	}
	// Only a kind that is missing above gets here.
	panic(fmt.Sprintf("kube: %T has no pod template", in))
}
