package resource

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// ReplicationControllers own pods: see Dependents in their rules.
var ReplicationControllers = &Kind{
	Spec:       store.ReplicationControllers,
	Singular:   "replicationcontroller",
	ShortNames: []string{"rc"},
	Categories: []string{"all"},
	Strategy:   strategy(store.ReplicationControllers, "", replicationControllerRules),
	Subresources: []*Subresource{
		scaleResource,
		{
			Name: "status", Kind: store.ReplicationControllers.Kind, Verbs: []string{"get", "patch", "update"},
			Strategy: strategy(store.ReplicationControllers, "status", Rules[*corev1.ReplicationController]{
				PrepareForUpdate: func(_ context.Context, rc, old *corev1.ReplicationController) { rc.Spec = old.Spec },
				ValidateUpdate:   kube.ValidateReplicationControllerStatusUpdate,
			}),
		},
	},
	Scale: &Scale{
		strategy: strategy(store.ReplicationControllers, scaleSubresource, replicationControllerRules),
		Get: func(obj store.Object) (replicas, current int32, selector string) {
			rc := obj.(*corev1.ReplicationController)
			if rc.Spec.Replicas != nil {
				replicas = *rc.Spec.Replicas
			}
			return replicas, rc.Status.Replicas, labels.SelectorFromSet(rc.Spec.Selector).String()
		},
		Set: func(obj store.Object, replicas int32) { obj.(*corev1.ReplicationController).Spec.Replicas = &replicas },
	},
}

var replicationControllerRules = Rules[*corev1.ReplicationController]{
	PrepareForCreate: func(_ context.Context, rc *corev1.ReplicationController) {
		rc.Status = corev1.ReplicationControllerStatus{}
		rc.Generation = 1
		kube.DropDisabledTemplateFields(rc, nil)
	},
	Validate: kube.ValidateReplicationController,
	WarningsOnCreate: func(ctx context.Context, rc *corev1.ReplicationController) []string {
		return append(nameWarning("Pod names and hostnames", rc.Name), kube.TemplateWarnings(ctx, rc, nil)...)
	},
	PrepareForUpdate: func(_ context.Context, rc, old *corev1.ReplicationController) {
		rc.Status = old.Status
		kube.DropDisabledTemplateFields(rc, old)
		if !apiequality.Semantic.DeepEqual(rc.Spec, old.Spec) {
			rc.Generation = old.Generation + 1
		}
	},
	ValidateUpdate: kube.ValidateReplicationControllerUpdate,
	WarningsOnUpdate: func(ctx context.Context, rc, old *corev1.ReplicationController) []string {
		if rc.Generation == old.Generation {
			return nil
		}
		return kube.TemplateWarnings(ctx, rc, old)
	},
	// A delete that does not say leaves the pods running: what core/v1 did
	// before there were policies. kubectl always says.
	Dependents: rest.OrphanDependents,
}

// nameWarning warns of a name that is legal for the object and yet no host name.
func nameWarning(usedIn, name string) []string {
	messages := validation.IsDNS1123Label(name)
	if len(messages) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("metadata.name: this is used in %s, which can result in surprising behavior; a DNS label is recommended: %v", usedIn, messages)}
}
