package resource

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// Events may be created by a PUT, which is how recorders repeat one.
var Events = &Kind{
	Spec:       store.Events,
	Singular:   "event",
	ShortNames: []string{"ev"},
	Strategy: strategy(store.Events, "", Rules[*corev1.Event]{
		Validate:       kube.ValidateEvent,
		ValidateUpdate: kube.ValidateEventUpdate,
		CreateOnUpdate: true,
		Dependents:     rest.Unsupported,
	}),
}
