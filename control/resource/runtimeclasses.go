package resource

import (
	"context"

	nodev1 "k8s.io/api/node/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// RuntimeClasses name handlers of the container runtime.
var RuntimeClasses = &Kind{
	Spec:     store.RuntimeClasses,
	Singular: "runtimeclass",
	Strategy: strategy(store.RuntimeClasses, "", Rules[*nodev1.RuntimeClass]{
		Validate:         kube.ValidateRuntimeClass,
		WarningsOnCreate: func(_ context.Context, class *nodev1.RuntimeClass) []string { return kube.RuntimeClassWarnings(class) },
		ValidateUpdate:   kube.ValidateRuntimeClassUpdate,
		WarningsOnUpdate: func(_ context.Context, class, _ *nodev1.RuntimeClass) []string {
			return kube.RuntimeClassWarnings(class)
		},
		Paths:          kube.RuntimeClassPaths,
		CreateOnUpdate: true,
		Conditional:    true,
	}),
}
