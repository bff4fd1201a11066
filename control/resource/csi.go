package resource

import (
	"context"

	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// CSIDrivers are the storage drivers of the cluster.
var CSIDrivers = &Kind{
	Spec:                store.CSIDrivers,
	Singular:            "csidriver",
	ReturnDeletedObject: true,
	Strategy: strategy(store.CSIDrivers, "", Rules[*storagev1.CSIDriver]{
		PrepareForCreate: func(_ context.Context, driver *storagev1.CSIDriver) { kube.DropDisabledCSIDriverFields(driver, nil) },
		Validate:         kube.ValidateCSIDriver,
		WarningsOnCreate: func(_ context.Context, driver *storagev1.CSIDriver) []string {
			return kube.CSIDriverWarnings(driver, nil)
		},
		PrepareForUpdate: func(_ context.Context, driver, old *storagev1.CSIDriver) {
			kube.DropDisabledCSIDriverFields(driver, old)
			// Upstream counts from 0 here.
			if !apiequality.Semantic.DeepEqual(driver.Spec, old.Spec) {
				driver.Generation = old.Generation + 1
			}
		},
		ValidateUpdate: kube.ValidateCSIDriverUpdate,
		WarningsOnUpdate: func(_ context.Context, driver, old *storagev1.CSIDriver) []string {
			return kube.CSIDriverWarnings(driver, old)
		},
		Conditional: true,
	}),
}

// CSINodes say which drivers a node has.
var CSINodes = &Kind{
	Spec:                store.CSINodes,
	Singular:            "csinode",
	ReturnDeletedObject: true,
	Strategy: strategy(store.CSINodes, "", Rules[*storagev1.CSINode]{
		PrepareForCreate: func(_ context.Context, node *storagev1.CSINode) {
			node.Status = storagev1.CSINodeStatus{}
			kube.DropDisabledCSINodeFields(node, nil)
		},
		Validate: kube.ValidateCSINode,
		PrepareForUpdate: func(_ context.Context, node, old *storagev1.CSINode) {
			node.Status = old.Status
			kube.DropDisabledCSINodeFields(node, old)
		},
		ValidateUpdate: kube.ValidateCSINodeUpdate,
		Conditional:    true,
	}),
	Subresources: []*Subresource{status(store.CSINodes, Rules[*storagev1.CSINode]{
		PrepareForUpdate: func(_ context.Context, node, old *storagev1.CSINode) {
			node.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&node.ObjectMeta, &old.ObjectMeta)
			kube.DropDisabledCSINodeFields(node, old)
		},
		ValidateUpdate: kube.ValidateCSINodeStatusUpdate,
		Conditional:    true,
	})},
}

// CSIStorageCapacities say how much a driver has left where.
var CSIStorageCapacities = &Kind{
	Spec:     store.CSIStorageCapacities,
	Singular: "csistoragecapacity",
	Strategy: strategy(store.CSIStorageCapacities, "", Rules[*storagev1.CSIStorageCapacity]{
		Validate: kube.ValidateCSIStorageCapacity,
		WarningsOnCreate: func(_ context.Context, c *storagev1.CSIStorageCapacity) []string {
			return kube.CSIStorageCapacityWarnings(c)
		},
		ValidateUpdate: kube.ValidateCSIStorageCapacityUpdate,
		WarningsOnUpdate: func(_ context.Context, c, _ *storagev1.CSIStorageCapacity) []string {
			return kube.CSIStorageCapacityWarnings(c)
		},
		Conditional: true,
	}),
}
