package resource

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// ConfigMaps are plain data.
var ConfigMaps = &Kind{
	Spec:       store.ConfigMaps,
	Singular:   "configmap",
	ShortNames: []string{"cm"},
	Strategy: strategy(store.ConfigMaps, "", Rules[*corev1.ConfigMap]{
		Validate:       kube.ValidateConfigMap,
		ValidateUpdate: kube.ValidateConfigMapUpdate,
	}),
}
