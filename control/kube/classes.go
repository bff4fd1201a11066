package kube

import (
	"context"

	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	nodeutil "k8s.io/kubernetes/pkg/api/node"
	"k8s.io/kubernetes/pkg/apis/node"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	nodevalidation "k8s.io/kubernetes/pkg/apis/node/validation"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	schedulingapi "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	schedulingvalidation "k8s.io/kubernetes/pkg/apis/scheduling/validation"
)

// Upstream's rules for priority and runtime classes, as they are.
var (
	ValidatePriorityClass       = onCreate[*schedulingv1.PriorityClass](schedulingvalidation.ValidatePriorityClass)
	ValidatePriorityClassUpdate = onUpdate[*schedulingv1.PriorityClass](schedulingvalidation.ValidatePriorityClassUpdate)

	ValidateRuntimeClass = onCreate[*nodev1.RuntimeClass](nodevalidation.ValidateRuntimeClass)
)

// SystemPriorityClasses are those that every cluster has. They are the caller's own.
func SystemPriorityClasses() []*schedulingv1.PriorityClass {
	return schedulingapi.SystemPriorityClasses()
}

// ValidateRuntimeClassUpdate holds a changed class against both sets of rules.
func ValidateRuntimeClassUpdate(_ context.Context, class, old *nodev1.RuntimeClass) field.ErrorList {
	in := internal[*node.RuntimeClass](class)
	return append(nodevalidation.ValidateRuntimeClass(in), nodevalidation.ValidateRuntimeClassUpdate(in, internal[*node.RuntimeClass](old))...)
}

// RuntimeClassPaths say which fields have another path in the internal form
// that hand-written rules speak of.
var RuntimeClassPaths = nodevalidation.NodeNormalizationRules

// RuntimeClassWarnings is what a user of a valid class should hear.
func RuntimeClassWarnings(class *nodev1.RuntimeClass) []string {
	return nodeutil.GetWarningsForRuntimeClass(internal[*node.RuntimeClass](class))
}
