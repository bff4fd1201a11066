package kube

import (
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	_ "k8s.io/kubernetes/pkg/apis/storagemigration/install"
	"k8s.io/kubernetes/pkg/apis/storagemigration/validation"
)

// Upstream's rules for storage version migrations, as they are.
var (
	ValidateStorageVersionMigration             = onCreate[*storagemigrationv1.StorageVersionMigration](validation.ValidateStorageVersionMigration)
	ValidateStorageVersionMigrationUpdate       = onUpdate[*storagemigrationv1.StorageVersionMigration](validation.ValidateStorageVersionMigrationUpdate)
	ValidateStorageVersionMigrationStatusUpdate = onUpdate[*storagemigrationv1.StorageVersionMigration](validation.ValidateStorageVersionMigrationStatusUpdate)
)
