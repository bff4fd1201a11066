package resource

import (
	"context"

	storagev1 "k8s.io/api/storage/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// StorageClasses are ways in which volumes are made.
var StorageClasses = &Kind{
	Spec:                store.StorageClasses,
	Singular:            "storageclass",
	ShortNames:          []string{"sc"},
	ReturnDeletedObject: true,
	Strategy: strategy(store.StorageClasses, "", Rules[*storagev1.StorageClass]{
		Validate: kube.ValidateStorageClass,
		WarningsOnCreate: func(_ context.Context, class *storagev1.StorageClass) []string {
			return kube.StorageClassWarnings(class)
		},
		ValidateUpdate: kube.ValidateStorageClassUpdate,
		WarningsOnUpdate: func(_ context.Context, class, _ *storagev1.StorageClass) []string {
			return kube.StorageClassWarnings(class)
		},
	}),
}

// VolumeAttributesClasses are parameters of volumes that may be changed later.
var VolumeAttributesClasses = &Kind{
	Spec:                store.VolumeAttributesClasses,
	Singular:            "volumeattributesclass",
	ShortNames:          []string{"vac"},
	ReturnDeletedObject: true,
	Strategy: strategy(store.VolumeAttributesClasses, "", Rules[*storagev1.VolumeAttributesClass]{
		Validate:       kube.ValidateVolumeAttributesClass,
		ValidateUpdate: kube.ValidateVolumeAttributesClassUpdate,
	}),
}
