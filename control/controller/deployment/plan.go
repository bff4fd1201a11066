package deployment

import (
	"cmp"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/types"
)

// plan is what brings a deployment a step further.
type plan struct {
	// steps are replica sets to write, in this order: later ones rely on earlier ones.
	steps []step
	// remove are replica sets that history need not keep.
	remove []*appsv1.ReplicaSet
	status appsv1.DeploymentStatus
	// revision is what the deployment is to be annotated with, "" as it is.
	revision string
	// again is when the deadline for progress will have passed, 0 for none.
	again time.Duration
}

// step is a replica set as it is to become.
type step struct {
	set    *appsv1.ReplicaSet
	create bool
	was    int32 // replicas before
}

// rollout is a plan being made. Replica sets that are changed are copied first.
type rollout struct {
	d     *appsv1.Deployment
	fresh *appsv1.ReplicaSet   // of the present template, nil when there is none
	old   []*appsv1.ReplicaSet // of earlier ones, the oldest first
	steps []step
}

// makePlan looks at a deployment, its replica sets, and whether pods of each may
// run. It does what upstream's syncDeployment does in one pass.
func makePlan(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, run func(set types.UID) bool, now time.Time) plan {
	r := &rollout{d: d}
	slices.SortFunc(sets, byAge)
	r.sort(sets)
	status := d.Status.DeepCopy()
	progress := false // whether the pass is part of a rollout, whose progress is judged
	switch {
	case d.DeletionTimestamp != nil:
	case r.selectsAll():
		status.ObservedGeneration = d.Generation
		return plan{status: *status}
	default:
		setPaused(d, status, now)
		r.annotate()
		switch {
		case d.Spec.Paused || r.scaled():
			r.scale()
		case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
			progress = true
			r.recreate(run)
		default:
			progress = true
			r.rollingUpdate()
		}
		noteFresh(r, status, now)
	}

	p := plan{steps: r.steps}
	p.status, p.again = newStatus(r, *status, progress, now)
	if r.fresh != nil {
		p.revision = r.fresh.Annotations[revisionAnnotation]
	}
	// Of a rollout the history is trimmed once it is complete.
	if d.DeletionTimestamp == nil && (d.Spec.Paused || progress && complete(d, &d.Status)) {
		p.remove = r.surplusHistory()
	}
	return p
}

// sort finds the replica set of the present template; of several the oldest is the one.
func (r *rollout) sort(sets []*appsv1.ReplicaSet) {
	for _, set := range sets {
		if r.fresh == nil && equalTemplates(&set.Spec.Template, &r.d.Spec.Template) {
			r.fresh = set
		} else {
			r.old = append(r.old, set)
		}
	}
}

// scaled says that the deployment was given another size since its replica sets
// were last given theirs. Of several with strategy Recreate all but one go anyway.
func (r *rollout) scaled() bool {
	active := r.active()
	if len(active) > 1 && r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return false
	}
	for _, set := range active {
		if desired, ok := annotatedNumber(set, desiredAnnotation); ok && desired != r.want() {
			return true
		}
	}
	return false
}

func (r *rollout) want() int32 {
	if r.d.Spec.Replicas == nil {
		return 1
	}
	return *r.d.Spec.Replicas
}

// selectsAll: an empty selector would make all replica sets there are its own.
func (r *rollout) selectsAll() bool {
	s := r.d.Spec.Selector
	return s == nil || len(s.MatchLabels)+len(s.MatchExpressions) == 0
}

// all are the replica sets, the new one last.
func (r *rollout) all() []*appsv1.ReplicaSet {
	all := slices.Clone(r.old)
	if r.fresh != nil {
		all = append(all, r.fresh)
	}
	return all
}

// active are those that ask for pods.
func (r *rollout) active() []*appsv1.ReplicaSet { return active(r.all()) }

func active(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	var found []*appsv1.ReplicaSet
	for _, set := range sets {
		if replicas(set) > 0 {
			found = append(found, set)
		}
	}
	return found
}

func replicas(set *appsv1.ReplicaSet) int32 {
	if set.Spec.Replicas == nil {
		return 1
	}
	return *set.Spec.Replicas
}

func sum(sets []*appsv1.ReplicaSet, of func(*appsv1.ReplicaSet) int32) (n int32) {
	for _, set := range sets {
		n += of(set)
	}
	return n
}

func available(set *appsv1.ReplicaSet) int32 { return set.Status.AvailableReplicas }

// change puts a copy in the place of set, for f to change, and plans to write it.
func (r *rollout) change(set *appsv1.ReplicaSet, f func(*appsv1.ReplicaSet)) {
	copied := set.DeepCopy()
	was := replicas(set)
	copied.Spec.Replicas = &was
	if copied.Annotations == nil {
		copied.Annotations = map[string]string{}
	}
	f(copied)
	if set == r.fresh {
		r.fresh = copied
	} else {
		r.old[slices.Index(r.old, set)] = copied
	}
	at := slices.IndexFunc(r.steps, func(s step) bool { return s.set == set })
	if at >= 0 { // written once, with all that changes
		r.steps[at].set = copied
		return
	}
	r.steps = append(r.steps, step{set: copied, was: was})
}

// resize gives set a size, and tells it the deployment's, which proportions are
// worked out from. Unless force, that alone is no reason to write it.
func (r *rollout) resize(set *appsv1.ReplicaSet, to int32, force bool) bool {
	desired, most := itoa(r.want()), itoa(r.want()+r.surge())
	resized := replicas(set) != to
	stale := set.Annotations[desiredAnnotation] != desired || set.Annotations[mostAnnotation] != most
	if !resized && !(force && stale) {
		return false
	}
	r.change(set, func(set *appsv1.ReplicaSet) {
		set.Spec.Replicas = &to
		set.Annotations[desiredAnnotation], set.Annotations[mostAnnotation] = desired, most
	})
	return resized
}

// surplusHistory are the oldest revisions beyond what is to be kept, those with
// pods excepted.
func (r *rollout) surplusHistory() []*appsv1.ReplicaSet {
	limit := r.d.Spec.RevisionHistoryLimit
	if limit == nil || *limit == noLimit {
		return nil
	}
	var kept []*appsv1.ReplicaSet
	for _, set := range r.old {
		if set.DeletionTimestamp == nil {
			kept = append(kept, set)
		}
	}
	slices.SortStableFunc(kept, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revisionOf(a), revisionOf(b)) })
	var surplus []*appsv1.ReplicaSet
	for _, set := range kept[:max(0, len(kept)-int(*limit))] {
		if set.Status.Replicas == 0 && replicas(set) == 0 && set.Generation <= set.Status.ObservedGeneration {
			surplus = append(surplus, set)
		}
	}
	return surplus
}

// byAge puts the oldest first, and those of one second in the order of their names.
func byAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}
