package kube

import (
	"context"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	"k8s.io/kubernetes/pkg/apis/autoscaling/validation"
)

// ValidateScaleUpdate says what is wrong with a changed scale. Its declarative
// rules are registered for a subresource named as the group's own.
func ValidateScaleUpdate(ctx context.Context, scale, old *autoscalingv1.Scale) field.ErrorList {
	return Declared(ctx, scale, old, validation.ValidateScale(internal[*autoscaling.Scale](scale)), nil, "scale")
}
