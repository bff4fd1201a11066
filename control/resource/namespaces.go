package resource

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// Namespaces end in two steps: a delete marks one as terminating, and it goes
// when the namespace controller, having removed what was in it, takes the last
// finalizer out of its spec through the finalize subresource.
var Namespaces = &Kind{
	Spec:                store.Namespaces,
	Singular:            "namespace",
	ShortNames:          []string{"ns"},
	Verbs:               []string{"create", "delete", "get", "list", "patch", "update", "watch"},
	ReturnDeletedObject: true,
	Strategy: strategy(store.Namespaces, "", Rules[*corev1.Namespace]{
		PrepareForCreate: func(_ context.Context, ns *corev1.Namespace) {
			ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
			if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
				ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
			}
		},
		Validate: kube.ValidateNamespace,
		PrepareForUpdate: func(_ context.Context, ns, old *corev1.Namespace) {
			ns.Spec.Finalizers = old.Spec.Finalizers
			ns.Status = old.Status
		},
		ValidateUpdate: kube.ValidateNamespaceUpdate,
		Canonicalize:   nameNamespace,
	}),
	Subresources: []*Subresource{
		{
			Name: "finalize", Kind: store.Namespaces.Kind, Verbs: []string{"update"},
			Strategy: strategy(store.Namespaces, "finalize", Rules[*corev1.Namespace]{
				PrepareForUpdate: func(_ context.Context, ns, old *corev1.Namespace) { ns.Status = old.Status },
				ValidateUpdate:   kube.ValidateNamespaceFinalizeUpdate,
				Canonicalize:     nameNamespace,
			}),
		},
		{
			Name: "status", Kind: store.Namespaces.Kind, Verbs: []string{"get", "patch", "update"},
			Strategy: strategy(store.Namespaces, "status", Rules[*corev1.Namespace]{
				PrepareForUpdate: func(_ context.Context, ns, old *corev1.Namespace) { ns.Spec = old.Spec },
				ValidateUpdate:   kube.ValidateNamespaceStatusUpdate,
				Canonicalize:     nameNamespace,
			}),
		},
	},
	beforeDelete: terminateNamespace,
	held:         func(obj store.Object) bool { return len(obj.(*corev1.Namespace).Spec.Finalizers) > 0 },
}

// nameNamespace labels a namespace with its name, which selectors rely on and
// defaulting could not do for one whose name was generated.
func nameNamespace(ns *corev1.Namespace) {
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	ns.Labels[corev1.LabelMetadataName] = ns.Name
}

// terminateNamespace is the first step of a namespace's end.
func terminateNamespace(obj store.Object, now metav1.Time) deletion {
	ns := obj.(*corev1.Namespace)
	if !ns.DeletionTimestamp.IsZero() {
		if len(ns.Spec.Finalizers) > 0 {
			return leave
		}
		return proceed
	}
	ns.DeletionTimestamp = &now
	ns.Status.Phase = corev1.NamespaceTerminating
	return write
}
