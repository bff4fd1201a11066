package resource

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// Deployments own replica sets.
var Deployments = &Kind{
	Spec:         store.Deployments,
	Singular:     "deployment",
	ShortNames:   []string{"deploy"},
	Categories:   []string{"all"},
	Strategy:     strategy(store.Deployments, "", deploymentRules),
	Subresources: []*Subresource{scaleResource, status(store.Deployments, deploymentStatusRules)},
	Scale: &Scale{
		strategy: strategy(store.Deployments, scaleSubresource, deploymentRules),
		Get: func(obj store.Object) (replicas, current int32, selector string) {
			d := obj.(*appsv1.Deployment)
			return ptr.Deref(d.Spec.Replicas, 0), d.Status.Replicas, selectorText(d.Spec.Selector)
		},
		Set: func(obj store.Object, replicas int32) { obj.(*appsv1.Deployment).Spec.Replicas = &replicas },
	},
}

var deploymentRules = Rules[*appsv1.Deployment]{
	PrepareForCreate: func(_ context.Context, d *appsv1.Deployment) {
		d.Status = appsv1.DeploymentStatus{}
		d.Generation = 1
		kube.DropDisabledTemplateFields(d, nil)
	},
	Validate: kube.ValidateDeployment,
	WarningsOnCreate: func(ctx context.Context, d *appsv1.Deployment) []string {
		return append(nameWarning("Pod names and hostnames", d.Name), kube.TemplateWarnings(ctx, d, nil)...)
	},
	PrepareForUpdate: func(_ context.Context, d, old *appsv1.Deployment) {
		d.Status = old.Status
		kube.DropDisabledTemplateFields(d, old)
		// Annotations count: they are copied to the replica sets.
		if !apiequality.Semantic.DeepEqual(d.Spec, old.Spec) || !apiequality.Semantic.DeepEqual(d.Annotations, old.Annotations) {
			d.Generation = old.Generation + 1
		}
	},
	ValidateUpdate: kube.ValidateDeploymentUpdate,
	WarningsOnUpdate: func(ctx context.Context, d, old *appsv1.Deployment) []string {
		if d.Generation == old.Generation {
			return nil
		}
		return kube.TemplateWarnings(ctx, d, old)
	},
}

var deploymentStatusRules = Rules[*appsv1.Deployment]{
	PrepareForUpdate: func(_ context.Context, d, old *appsv1.Deployment) {
		d.Spec, d.Labels = old.Spec, old.Labels
		kube.DropDisabledDeploymentStatus(&d.Status, &old.Status)
	},
	ValidateUpdate: kube.ValidateDeploymentStatusUpdate,
}
