package resource

import (
	"context"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// StorageVersionMigrations ask for objects to be written anew in the version that
// they are stored in now.
var StorageVersionMigrations = &Kind{
	Spec:     store.StorageVersionMigrations,
	Singular: "storageversionmigration",
	Strategy: strategy(store.StorageVersionMigrations, "", Rules[*storagemigrationv1.StorageVersionMigration]{
		PrepareForCreate: func(_ context.Context, m *storagemigrationv1.StorageVersionMigration) {
			m.Status = storagemigrationv1.StorageVersionMigrationStatus{}
		},
		Validate:         kube.ValidateStorageVersionMigration,
		PrepareForUpdate: func(_ context.Context, m, old *storagemigrationv1.StorageVersionMigration) { m.Status = old.Status },
		ValidateUpdate:   kube.ValidateStorageVersionMigrationUpdate,
		Conditional:      true,
	}),
	Subresources: []*Subresource{status(store.StorageVersionMigrations, Rules[*storagemigrationv1.StorageVersionMigration]{
		PrepareForUpdate: func(_ context.Context, m, old *storagemigrationv1.StorageVersionMigration) {
			m.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&m.ObjectMeta, &old.ObjectMeta)
		},
		ValidateUpdate: kube.ValidateStorageVersionMigrationStatusUpdate,
		Conditional:    true,
	})},
}
