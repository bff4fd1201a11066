package deployment

import (
	"cmp"
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// fences are how many pods there may be beyond those wanted, and how many may
// lack. Shares round up and down; were both none, nothing could move, so one may lack.
func (r *rollout) fences() (surge, unavailable int32) {
	rolling := r.d.Spec.Strategy.RollingUpdate
	if r.d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || rolling == nil {
		return 0, 0
	}
	zero := intstr.FromInt32(0)
	// What does not parse is refused when it is stored, and counts as 0.
	up, _ := intstr.GetScaledValueFromIntOrPercent(ptr.To(ptr.Deref(rolling.MaxSurge, zero)), int(r.want()), true)
	down, _ := intstr.GetScaledValueFromIntOrPercent(ptr.To(ptr.Deref(rolling.MaxUnavailable, zero)), int(r.want()), false)
	if up == 0 && down == 0 {
		down = 1
	}
	return int32(up), min(int32(down), r.want())
}

func (r *rollout) surge() int32       { surge, _ := r.fences(); return surge }
func (r *rollout) unavailable() int32 { _, unavailable := r.fences(); return unavailable }

// rollingUpdate lets the new replica set grow, and the old ones shrink, as far as
// the fences allow.
func (r *rollout) rollingUpdate() {
	r.ensureFresh()
	if replicas(r.fresh) != r.want() && r.resize(r.fresh, min(r.want(), r.freshSize()), false) {
		return
	}
	r.shrinkOld()
}

// freshSize is how large the new replica set may be while the others have the
// size that they have.
func (r *rollout) freshSize() int32 {
	if r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return r.want()
	}
	has := int32(0)
	if r.fresh != nil {
		has = replicas(r.fresh)
	}
	room := r.want() + r.surge() - sum(r.all(), replicas)
	return has + max(0, min(room, r.want()-has))
}

// shrinkOld takes from the old replica sets, the oldest first: pods that are not
// available, which nobody misses, then as many as available ones are to spare.
func (r *rollout) shrinkOld() {
	if sum(r.old, replicas) == 0 {
		return
	}
	least := r.want() - r.unavailable()
	// Pods of the new replica set that are not available yet count against it.
	spare := sum(r.all(), replicas) - least - (replicas(r.fresh) - available(r.fresh))
	if spare <= 0 {
		return
	}
	for _, set := range slices.Clone(r.old) {
		n := min(spare, replicas(set)-available(set))
		if n > 0 && r.resize(set, replicas(set)-n, false) {
			spare -= n
		}
	}
	spare = sum(r.all(), left) - least
	for _, set := range slices.Clone(r.old) {
		n := min(spare, replicas(set))
		if n > 0 && r.resize(set, replicas(set)-n, false) {
			spare -= n
		}
	}
}

// left is how many available pods the set has when it has done as it was told: its
// status may still count those that it was told to take away, which upstream counts
// too, and takes as many too many from the next set.
func left(set *appsv1.ReplicaSet) int32 { return min(available(set), replicas(set)) }

// recreate lets no pod of the new replica set run beside one of an old.
func (r *rollout) recreate(run func(set types.UID) bool) {
	shrunk := false
	for _, set := range slices.Clone(r.old) {
		shrunk = r.resize(set, 0, false) || shrunk
	}
	if shrunk {
		return
	}
	for _, set := range r.old {
		if set.Status.Replicas > 0 || run(set.UID) {
			return
		}
	}
	r.ensureFresh()
	r.resize(r.fresh, r.want(), false)
}

// scale gives the replica sets sizes that fit the deployment's new one, without
// moving a rollout on.
func (r *rollout) scale() {
	active := r.active()
	switch {
	case len(active) == 0:
		if newest := r.newest(); newest != nil {
			r.resize(newest, r.want(), false)
		}
	case len(active) == 1:
		r.resize(active[0], r.want(), true)
	case r.saturated():
		for _, set := range r.old {
			if replicas(set) > 0 {
				r.resize(set, 0, false)
			}
		}
	case r.d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType:
		r.scaleInProportion(active)
	}
}

func (r *rollout) newest() *appsv1.ReplicaSet {
	if r.fresh != nil {
		return r.fresh
	}
	if len(r.old) > 0 {
		return r.old[len(r.old)-1]
	}
	return nil
}

// saturated: the new replica set has all pods that are wanted, available, and was
// told so.
func (r *rollout) saturated() bool {
	if r.fresh == nil {
		return false
	}
	desired, ok := annotatedNumber(r.fresh, desiredAnnotation)
	return ok && desired == r.want() && replicas(r.fresh) == r.want() && available(r.fresh) == r.want()
}

// scaleInProportion spreads what is to be added or taken over the active replica
// sets, larger ones first; of equal ones the newer grow first and the older shrink
// first. What rounding leaves is the largest one's.
func (r *rollout) scaleInProportion(active []*appsv1.ReplicaSet) {
	allowed := int32(0)
	if r.want() > 0 {
		allowed = r.want() + r.surge()
	}
	add := allowed - sum(active, replicas)
	slices.SortStableFunc(active, func(a, b *appsv1.ReplicaSet) int {
		age := byAge(a, b)
		if add > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(replicas(b), replicas(a)), age)
	})
	sizes, added := make([]int32, len(active)), int32(0)
	for i, set := range active {
		n := int32(0)
		switch {
		case add > 0:
			n = min(r.share(set), add-added)
		case add < 0:
			n = max(r.share(set), add-added)
		}
		sizes[i] = replicas(set) + n
		added += n
	}
	sizes[0] = max(0, sizes[0]+add-added)
	for i, set := range active {
		r.resize(set, sizes[i], true)
	}
}

// share is by how much a replica set would grow if all did by the same factor.
func (r *rollout) share(set *appsv1.ReplicaSet) int32 {
	if r.want() == 0 {
		return -replicas(set)
	}
	before, ok := annotatedNumber(set, mostAnnotation)
	if !ok || before == 0 {
		// Somebody has taken the annotation away. What there is comes close.
		if before = r.d.Status.Replicas; before == 0 {
			return 0
		}
	}
	size := float64(replicas(set)) * float64(r.want()+r.surge()) / float64(before)
	return int32(math.Round(size)) - replicas(set)
}
