package resource

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// DaemonSets own a pod on each node.
var DaemonSets = &Kind{
	Spec:       store.DaemonSets,
	Singular:   "daemonset",
	ShortNames: []string{"ds"},
	Categories: []string{"all"},
	Strategy: strategy(store.DaemonSets, "", Rules[*appsv1.DaemonSet]{
		PrepareForCreate: func(_ context.Context, ds *appsv1.DaemonSet) {
			ds.Status = appsv1.DaemonSetStatus{}
			kube.PrepareDaemonSet(ds)
			kube.DropDisabledTemplateFields(ds, nil)
		},
		Validate: kube.ValidateDaemonSet,
		WarningsOnCreate: func(ctx context.Context, ds *appsv1.DaemonSet) []string {
			return kube.TemplateWarnings(ctx, ds, nil)
		},
		PrepareForUpdate: func(_ context.Context, ds, old *appsv1.DaemonSet) {
			ds.Status = old.Status
			kube.DropDisabledTemplateFields(ds, old)
			kube.PrepareDaemonSetUpdate(ds, old)
		},
		ValidateUpdate:   kube.ValidateDaemonSetUpdate,
		WarningsOnUpdate: kube.DaemonSetWarnings,
	}),
	Subresources: []*Subresource{status(store.DaemonSets, Rules[*appsv1.DaemonSet]{
		PrepareForUpdate: func(_ context.Context, ds, old *appsv1.DaemonSet) { ds.Spec = old.Spec },
		ValidateUpdate:   kube.ValidateDaemonSetStatusUpdate,
	})},
}
