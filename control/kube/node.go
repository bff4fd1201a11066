package kube

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/features"
)

// ValidateNode says what is wrong with a new node.
var ValidateNode = onCreate[*corev1.Node](validation.ValidateNode)

// ValidateNodeStatusUpdate says what of node must not differ from old so, when
// only its status is changed.
var ValidateNodeStatusUpdate = onUpdate[*corev1.Node](validation.ValidateNodeUpdate)

// ValidateNodeUpdate holds a changed node against both sets of rules.
func ValidateNodeUpdate(_ context.Context, node, old *corev1.Node) field.ErrorList {
	in := internal[*core.Node](node)
	return append(validation.ValidateNode(in), validation.ValidateNodeUpdate(in, internal[*core.Node](old))...)
}

// NodeOptions are the options that a node's declarative rules refer to.
func NodeOptions() map[string]bool {
	gate := features.InPlacePodVerticalScalingSchedulerPreemption
	return map[string]bool{string(gate): utilfeature.DefaultFeatureGate.Enabled(gate)}
}

// DropDisabledNodeFields drops what node uses of disabled features and old,
// which is nil for a new node, did not. A new node may have a status.
func DropDisabledNodeFields(node, old *corev1.Node) {
	enabled := utilfeature.DefaultFeatureGate.Enabled
	if old == nil {
		node.Spec.ConfigSource = nil
		node.Status.Config = nil
	} else if old.Spec.ConfigSource == nil {
		node.Spec.ConfigSource = nil
	}
	if !enabled(features.RecursiveReadOnlyMounts) && !enabled(features.UserNamespacesSupport) {
		node.Status.RuntimeHandlers = nil
	}
	if !enabled(features.SupplementalGroupsPolicy) && (old == nil || old.Status.Features == nil) {
		node.Status.Features = nil
	}
	if !enabled(features.NodeDeclaredFeatures) && (old == nil || old.Status.DeclaredFeatures == nil) {
		node.Status.DeclaredFeatures = nil
	}
	if !enabled(features.InPlacePodVerticalScalingSchedulerPreemption) && (old == nil || old.Spec.PodPreemptionPolicy == nil) {
		node.Spec.PodPreemptionPolicy = nil
	}
}

// DropDisabledNodeStatusFields does the same for a change of the status alone.
func DropDisabledNodeStatusFields(node, old *corev1.Node) {
	if old.Status.Config == nil {
		node.Status.Config = nil
	}
	if !utilfeature.DefaultFeatureGate.Enabled(features.KubeletInUserNamespace) && old.Status.NodeInfo.RunningInUserNamespace == nil {
		node.Status.NodeInfo.RunningInUserNamespace = nil
	}
}
