package resource

import (
	"context"

	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// Leases are how clients choose a leader among them. An update must name the
// version that it changes, or two could hold one lease.
var Leases = &Kind{
	Spec:     store.Leases,
	Singular: "lease",
	Strategy: strategy(store.Leases, "", Rules[*coordinationv1.Lease]{
		PrepareForCreate: func(_ context.Context, lease *coordinationv1.Lease) { kube.DropDisabledLeaseFields(lease, nil) },
		Validate:         kube.ValidateLease,
		PrepareForUpdate: func(_ context.Context, lease, old *coordinationv1.Lease) { kube.DropDisabledLeaseFields(lease, old) },
		ValidateUpdate:   kube.ValidateLeaseUpdate,
		CreateOnUpdate:   true,
		Conditional:      true,
	}),
}
