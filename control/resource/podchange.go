package resource

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/store"
)

// podChange is a small change of a pod that the control plane itself makes, and
// that needs none of the rules for what users write.
type podChange struct {
	namespace, name string
	// apply changes the pod or refuses. It runs again after a lost race.
	apply func(pod *corev1.Pod) error
}

// changePods makes many such changes with one batch of guarded writes, and
// answers for each. Those that lose a race, or are refused by a state that
// turns out to be old, go round again together.
func (r *Registry) changePods(ctx context.Context, dryRun bool, changes []podChange) []error {
	errs := make([]error, len(changes))
	open := make([]int, len(changes)) // indexes of changes not yet settled
	for i := range open {
		open[i] = i
	}
	for try, current := 1, false; len(open) > 0; try++ {
		if dryRun && !current {
			if err := r.store.ReadBarrier(ctx); err != nil {
				return fill(errs, open, err)
			}
			current = true
		}
		writes, written, doubtful := r.planPods(ctx, changes, open, errs)
		var lost []int
		if !dryRun {
			for n, result := range r.store.Batch(ctx, writes) {
				i := written[n]
				errs[i] = Pods.apiError(result.Err, changes[i].name)
				if errors.Is(result.Err, store.ErrConflict) && try < updateTries {
					lost = append(lost, i)
				}
			}
		}
		open = lost
		if current || len(doubtful) == 0 {
			continue
		}
		if err := r.store.ReadBarrier(ctx); err != nil {
			return fill(errs, append(open, doubtful...), err)
		}
		current = true
		open = append(open, doubtful...)
	}
	return errs
}

// planPods makes the writes of the open changes, and the index of the change
// that each is for. doubtful are those that this node's replica refuses, with
// their errors in errs.
func (r *Registry) planPods(ctx context.Context, changes []podChange, open []int, errs []error) (writes []store.Write, written, doubtful []int) {
	pods := store.Of[*corev1.Pod](r.store, store.Pods)
	for _, i := range open {
		c := changes[i]
		pod, err := pods.Get(ctx, c.namespace, c.name)
		var guard uint64
		if err == nil {
			guard, err = revision(pod)
		}
		if err == nil {
			err = c.apply(pod)
		}
		if errs[i] = Pods.apiError(err, c.name); err != nil {
			doubtful = append(doubtful, i)
			continue
		}
		writes = append(writes, store.Write{Verb: store.Update, Spec: store.Pods, Object: pod, Guard: guard})
		written = append(written, i)
	}
	return writes, written, doubtful
}

func fill(errs []error, at []int, err error) []error {
	for _, i := range at {
		errs[i] = err
	}
	return errs
}
