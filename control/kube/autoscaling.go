package kube

import (
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	"k8s.io/kubernetes/pkg/apis/autoscaling/validation"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/utils/ptr"
)

// The functions below take a horizontal pod autoscaler of any version, because
// an old version keeps what it has no fields for in annotations.

// PrepareHorizontalPodAutoscaler makes a new one that has yet to be looked at.
func PrepareHorizontalPodAutoscaler(hpa runtime.Object) {
	in := internal[*autoscaling.HorizontalPodAutoscaler](hpa)
	in.Status = autoscaling.HorizontalPodAutoscalerStatus{}
	if utilfeature.DefaultFeatureGate.Enabled(features.HPAGeneration) {
		in.Generation = 1
	}
	dropDisabledTolerance(in, nil)
	external(in, hpa)
}

// PrepareHorizontalPodAutoscalerUpdate keeps the status and counts changes of
// the rest.
func PrepareHorizontalPodAutoscalerUpdate(hpa, old runtime.Object) {
	in, was := internal[*autoscaling.HorizontalPodAutoscaler](hpa), internal[*autoscaling.HorizontalPodAutoscaler](old)
	in.Status = was.Status
	dropDisabledTolerance(in, was)
	if utilfeature.DefaultFeatureGate.Enabled(features.HPAGeneration) && !apiequality.Semantic.DeepEqual(in.Spec, was.Spec) {
		in.Generation = was.Generation + 1
	}
	external(in, hpa)
}

// PrepareHorizontalPodAutoscalerStatus keeps all but the status.
func PrepareHorizontalPodAutoscalerStatus(hpa, old runtime.Object) {
	in, was := internal[*autoscaling.HorizontalPodAutoscaler](hpa), internal[*autoscaling.HorizontalPodAutoscaler](old)
	in.Spec = was.Spec
	external(in, hpa)
}

// dropDisabledTolerance drops tolerances while they are disabled and was, which
// is nil for a new autoscaler, has none.
func dropDisabledTolerance(in, was *autoscaling.HorizontalPodAutoscaler) {
	if utilfeature.DefaultFeatureGate.Enabled(features.HPAConfigurableTolerance) {
		return
	}
	if was != nil {
		for _, rules := range scalingRules(was) {
			if rules.Tolerance != nil {
				return
			}
		}
	}
	for _, rules := range scalingRules(in) {
		rules.Tolerance = nil
	}
}

func scalingRules(in *autoscaling.HorizontalPodAutoscaler) []*autoscaling.HPAScalingRules {
	var all []*autoscaling.HPAScalingRules
	if b := in.Spec.Behavior; b != nil {
		for _, rules := range []*autoscaling.HPAScalingRules{b.ScaleDown, b.ScaleUp} {
			if rules != nil {
				all = append(all, rules)
			}
		}
	}
	return all
}

// ValidateHorizontalPodAutoscaler says what is wrong with a new autoscaler.
func ValidateHorizontalPodAutoscaler(hpa runtime.Object) field.ErrorList {
	in := internal[*autoscaling.HorizontalPodAutoscaler](hpa)
	return validation.ValidateHorizontalPodAutoscaler(in, autoscalerOptions(in, nil))
}

// ValidateHorizontalPodAutoscalerUpdate says what of an autoscaler must not
// differ from old so.
func ValidateHorizontalPodAutoscalerUpdate(hpa, old runtime.Object) field.ErrorList {
	in, was := internal[*autoscaling.HorizontalPodAutoscaler](hpa), internal[*autoscaling.HorizontalPodAutoscaler](old)
	return validation.ValidateHorizontalPodAutoscalerUpdate(in, was, autoscalerOptions(in, was))
}

// ValidateHorizontalPodAutoscalerStatusUpdate does the same for the status.
func ValidateHorizontalPodAutoscalerStatusUpdate(hpa, old runtime.Object) field.ErrorList {
	return validation.ValidateHorizontalPodAutoscalerStatusUpdate(internal[*autoscaling.HorizontalPodAutoscaler](hpa), internal[*autoscaling.HorizontalPodAutoscaler](old))
}

// autoscalerOptions are what the rules depend on: what was stored under looser
// ones may stay as it is.
func autoscalerOptions(in, was *autoscaling.HorizontalPodAutoscaler) validation.HorizontalPodAutoscalerSpecValidationOptions {
	options := validation.HorizontalPodAutoscalerSpecValidationOptions{
		MinReplicasLowerBound:           1,
		ScaleTargetRefValidationOptions: validation.CrossVersionObjectReferenceValidationOptions{RequiredCoveredByDeclarative: true},
		ObjectMetricsValidationOptions:  validation.CrossVersionObjectReferenceValidationOptions{AllowEmptyAPIGroup: true},
	}
	if utilfeature.DefaultFeatureGate.Enabled(features.HPAScaleToZero) || was != nil && ptr.Equal(was.Spec.MinReplicas, new(int32(0))) {
		options.MinReplicasLowerBound = 0
	}
	target := in.Spec.ScaleTargetRef
	switch {
	case was != nil && was.Spec.ScaleTargetRef.APIVersion == target.APIVersion && was.Spec.ScaleTargetRef.Kind == target.Kind:
		options.ScaleTargetRefValidationOptions.AllowInvalidAPIVersion = true
	case target.Kind == "ReplicationController":
		// The one thing to scale whose group is empty.
		options.ScaleTargetRefValidationOptions.AllowEmptyAPIGroup = true
	}
	if was == nil {
		return options
	}
	for _, metric := range was.Spec.Metrics {
		if metric.Type == autoscaling.ObjectMetricSourceType && metric.Object != nil &&
			validation.ValidateAPIVersion(metric.Object.DescribedObject, options.ObjectMetricsValidationOptions) != nil {
			options.ObjectMetricsValidationOptions.AllowInvalidAPIVersion = true
			break
		}
	}
	return options
}

// HorizontalPodAutoscalerOptions are the options that the declarative rules refer to.
func HorizontalPodAutoscalerOptions() map[string]bool {
	gate := features.HPAScaleToZero
	return map[string]bool{string(gate): utilfeature.DefaultFeatureGate.Enabled(gate)}
}
