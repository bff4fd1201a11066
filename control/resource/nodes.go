package resource

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// Nodes may be created with a status: an agent registers with what it has.
var Nodes = &Kind{
	Spec:       store.Nodes,
	Singular:   "node",
	ShortNames: []string{"no"},
	Strategy: strategy(store.Nodes, "", Rules[*corev1.Node]{
		PrepareForCreate: func(_ context.Context, node *corev1.Node) { kube.DropDisabledNodeFields(node, nil) },
		Validate:         kube.ValidateNode,
		WarningsOnCreate: func(_ context.Context, node *corev1.Node) []string { return nodeWarnings(node) },
		PrepareForUpdate: func(_ context.Context, node, old *corev1.Node) {
			node.Status = old.Status
			kube.DropDisabledNodeFields(node, old)
		},
		ValidateUpdate:   kube.ValidateNodeUpdate,
		WarningsOnUpdate: func(_ context.Context, node, _ *corev1.Node) []string { return nodeWarnings(node) },
		Options:          kube.NodeOptions,
	}),
	Subresources: []*Subresource{{
		Name: "proxy", Kind: corev1.SchemeGroupVersion.WithKind("NodeProxyOptions"), Verbs: []string{"create", "delete", "get", "patch", "update"},
	}, {
		Name: "status", Kind: store.Nodes.Kind, Verbs: []string{"get", "patch", "update"},
		Strategy: strategy(store.Nodes, "status", Rules[*corev1.Node]{
			PrepareForUpdate: func(_ context.Context, node, old *corev1.Node) {
				node.Spec = old.Spec
				kube.DropDisabledNodeStatusFields(node, old)
			},
			ValidateUpdate: kube.ValidateNodeStatusUpdate,
			Options:        kube.NodeOptions,
		}),
	}},
}

func nodeWarnings(node *corev1.Node) []string {
	var warnings []string
	if node.Spec.ConfigSource != nil {
		warnings = append(warnings, "spec.configSource: the feature is removed")
	}
	if node.Spec.DoNotUseExternalID != "" {
		warnings = append(warnings, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	path := field.NewPath("spec", "podCIDRs")
	for i, cidr := range node.Spec.PodCIDRs {
		warnings = append(warnings, validation.GetWarningsForCIDR(path.Index(i), cidr)...)
	}
	return warnings
}
