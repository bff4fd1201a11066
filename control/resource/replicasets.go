package resource

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// ReplicaSets own pods.
var ReplicaSets = &Kind{
	Spec:         store.ReplicaSets,
	Singular:     "replicaset",
	ShortNames:   []string{"rs"},
	Categories:   []string{"all"},
	Strategy:     strategy(store.ReplicaSets, "", replicaSetRules),
	Subresources: []*Subresource{scaleResource, status(store.ReplicaSets, replicaSetStatusRules)},
	Scale: &Scale{
		strategy: strategy(store.ReplicaSets, scaleSubresource, replicaSetRules),
		Get: func(obj store.Object) (replicas, current int32, selector string) {
			rs := obj.(*appsv1.ReplicaSet)
			return ptr.Deref(rs.Spec.Replicas, 0), rs.Status.Replicas, selectorText(rs.Spec.Selector)
		},
		Set: func(obj store.Object, replicas int32) { obj.(*appsv1.ReplicaSet).Spec.Replicas = &replicas },
	},
}

var replicaSetRules = Rules[*appsv1.ReplicaSet]{
	PrepareForCreate: func(_ context.Context, rs *appsv1.ReplicaSet) {
		rs.Status = appsv1.ReplicaSetStatus{}
		rs.Generation = 1
		kube.DropDisabledTemplateFields(rs, nil)
	},
	Validate: kube.ValidateReplicaSet,
	WarningsOnCreate: func(ctx context.Context, rs *appsv1.ReplicaSet) []string {
		return append(nameWarning("Pod names and hostnames", rs.Name), kube.TemplateWarnings(ctx, rs, nil)...)
	},
	PrepareForUpdate: func(_ context.Context, rs, old *appsv1.ReplicaSet) {
		rs.Status = old.Status
		kube.DropDisabledTemplateFields(rs, old)
		if !apiequality.Semantic.DeepEqual(rs.Spec, old.Spec) {
			rs.Generation = old.Generation + 1
		}
	},
	ValidateUpdate: kube.ValidateReplicaSetUpdate,
	WarningsOnUpdate: func(ctx context.Context, rs, old *appsv1.ReplicaSet) []string {
		if rs.Generation == old.Generation {
			return nil
		}
		return kube.TemplateWarnings(ctx, rs, old)
	},
}

var replicaSetStatusRules = Rules[*appsv1.ReplicaSet]{
	PrepareForUpdate: func(_ context.Context, rs, old *appsv1.ReplicaSet) {
		rs.Spec = old.Spec
		kube.DropDisabledReplicaSetStatus(&rs.Status, &old.Status)
	},
	ValidateUpdate: kube.ValidateReplicaSetStatusUpdate,
}
