package resource

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// StatefulSets own pods that keep their names, and claims made from templates.
var StatefulSets = &Kind{
	Spec:         store.StatefulSets,
	Singular:     "statefulset",
	ShortNames:   []string{"sts"},
	Categories:   []string{"all"},
	Strategy:     strategy(store.StatefulSets, "", statefulSetRules),
	Subresources: []*Subresource{scaleResource, status(store.StatefulSets, statefulSetStatusRules)},
	Scale: &Scale{
		strategy: strategy(store.StatefulSets, scaleSubresource, statefulSetRules),
		Get: func(obj store.Object) (replicas, current int32, selector string) {
			set := obj.(*appsv1.StatefulSet)
			return ptr.Deref(set.Spec.Replicas, 0), set.Status.Replicas, selectorText(set.Spec.Selector)
		},
		Set: func(obj store.Object, replicas int32) { obj.(*appsv1.StatefulSet).Spec.Replicas = &replicas },
	},
}

var statefulSetRules = Rules[*appsv1.StatefulSet]{
	PrepareForCreate: func(_ context.Context, set *appsv1.StatefulSet) {
		set.Status = appsv1.StatefulSetStatus{}
		set.Generation = 1
		kube.DropDisabledStatefulSetFields(set, nil)
		kube.DropDisabledTemplateFields(set, nil)
	},
	Validate: kube.ValidateStatefulSet,
	WarningsOnCreate: func(ctx context.Context, set *appsv1.StatefulSet) []string {
		return append(kube.TemplateWarnings(ctx, set, nil), kube.StatefulSetWarnings(set, false)...)
	},
	PrepareForUpdate: func(_ context.Context, set, old *appsv1.StatefulSet) {
		set.Status = old.Status
		kube.DropDisabledStatefulSetFields(set, old)
		kube.DropDisabledTemplateFields(set, old)
		if !apiequality.Semantic.DeepEqual(set.Spec, old.Spec) {
			set.Generation = old.Generation + 1
		}
	},
	ValidateUpdate: kube.ValidateStatefulSetUpdate,
	WarningsOnUpdate: func(ctx context.Context, set, old *appsv1.StatefulSet) []string {
		var warnings []string
		if set.Generation != old.Generation {
			warnings = kube.TemplateWarnings(ctx, set, old)
		}
		return append(warnings, kube.StatefulSetWarnings(set, true)...)
	},
}

var statefulSetStatusRules = Rules[*appsv1.StatefulSet]{
	PrepareForUpdate: func(_ context.Context, set, old *appsv1.StatefulSet) { set.Spec = old.Spec },
	ValidateUpdate:   kube.ValidateStatefulSetStatusUpdate,
}
