package resource

import (
	appsv1 "k8s.io/api/apps/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// ControllerRevisions are past templates of stateful and daemon sets; only
// their number may change.
var ControllerRevisions = &Kind{
	Spec:     store.ControllerRevisions,
	Singular: "controllerrevision",
	Strategy: strategy(store.ControllerRevisions, "", Rules[*appsv1.ControllerRevision]{
		Validate:       kube.ValidateControllerRevision,
		ValidateUpdate: kube.ValidateControllerRevisionUpdate,
	}),
}
