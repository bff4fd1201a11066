package kube

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	"k8s.io/kubernetes/pkg/apis/coordination/validation"
	"k8s.io/kubernetes/pkg/features"
)

// Upstream's rules for leases, as they are.
var (
	ValidateLease       = onCreate[*coordinationv1.Lease](validation.ValidateLease)
	ValidateLeaseUpdate = onUpdate[*coordinationv1.Lease](validation.ValidateLeaseUpdate)
)

// DropDisabledLeaseFields drops what a lease uses of coordinated leader election
// while that is disabled and old, which is nil for a new lease, did not use it.
func DropDisabledLeaseFields(lease, old *coordinationv1.Lease) {
	if utilfeature.DefaultFeatureGate.Enabled(features.CoordinatedLeaderElection) {
		return
	}
	if old == nil || old.Spec.Strategy == nil {
		lease.Spec.Strategy = nil
	}
	if old == nil || old.Spec.PreferredHolder == nil {
		lease.Spec.PreferredHolder = nil
	}
}
