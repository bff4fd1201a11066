package admission

import (
	"context"
	"hash/maphash"
	"strconv"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	quota "k8s.io/apiserver/pkg/quota/v1"

	"github.com/musterhq/muster/control/admission/hook"
	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// resourceQuota charges what a write uses to the quotas of its namespace, and
// refuses what they have no room for. A charge is one transaction with the
// write: nobody can use room that another has taken, through whichever control
// node, and a write that fails has used none. Deletes give nothing back here;
// a controller counts (package resourcequota).
type resourceQuota struct {
	store  *store.Store
	table  *store.Table
	quotas *kube.Quotas
	turns  turns
	seen   atomic.Pointer[presence]
	// rehearsing: dry runs are stored, so they are charged.
	rehearsing bool
}

// presence is whether there are quotas at all, as of the last change of one.
type presence struct {
	changed uint64
	some    bool
}

func newResourceQuota(s *store.Store, rehearsing bool) *resourceQuota {
	return &resourceQuota{rehearsing: rehearsing, store: s, table: s.Table(store.ResourceQuotas), quotas: kube.NewQuotas(nil), turns: newTurns()}
}

func (q *resourceQuota) Admit(context.Context, *resource.Attributes) error { return nil }

// Validate takes turns with other charges in the namespace: of writes at once all
// but one would find that the quota has changed, and begin again.
func (q *resourceQuota) Validate(ctx context.Context, a *resource.Attributes) error {
	if a.Namespace == "" || a.Kind == resource.Namespaces || a.Operation != resource.Create && a.Operation != resource.Update {
		return nil
	}
	if !q.any(a.Namespace) {
		return nil
	}
	measure := q.quotas.Of(a.Kind.Spec.Resource)
	if measure == nil {
		return nil
	}
	r := hook.NewRequest(ctx, a)
	if !measure.Handles(r) {
		return nil
	}
	if a.DryRun && !q.rehearsing {
		_, err := q.charge(ctx, a, r, measure)
		return err
	}
	done, err := q.turns.take(ctx, a.Namespace)
	if err != nil {
		return err
	}
	charges, err := q.charge(ctx, a, r, measure)
	if err != nil || len(charges) == 0 {
		done()
		return err
	}
	a.Demands = append(a.Demands, charges...)
	a.Tried = append(a.Tried, done)
	return nil
}

// any says whether the namespace has quotas on this replica. A cluster without
// any finds out without looking at its state.
func (q *resourceQuota) any(namespace string) bool {
	changed := q.table.LastChange(q.store.Revision())
	if seen := q.seen.Load(); seen != nil && seen.changed == changed && !seen.some {
		return false
	}
	view := q.store.View()
	now := &presence{changed: changed}
	for range view.Range(store.ResourceQuotas.Prefix(""), "") {
		now.some = true
		break
	}
	q.seen.Store(now)
	for range view.Range(store.ResourceQuotas.Prefix(namespace), "") {
		return true
	}
	return false
}

// charge makes the quotas as they are to be after the write. A refusal counts
// from a replica that is current only: what it counts as used may have been
// given back.
func (q *resourceQuota) charge(ctx context.Context, a *resource.Attributes, r *hook.Request, measure quota.Evaluator) ([]store.Write, error) {
	for current := false; ; current = true {
		quotas, err := q.list(ctx, a.Namespace)
		if err != nil {
			return nil, err
		}
		charged, err := resourcequota.CheckRequest(quotas, r, measure, nil)
		if apierrors.IsForbidden(err) && !current {
			if err := q.store.ReadBarrier(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		var writes []store.Write
		for i := range charged {
			if quota.Equals(charged[i].Status.Used, quotas[i].Status.Used) {
				continue
			}
			revision, err := strconv.ParseUint(quotas[i].ResourceVersion, 10, 64)
			if err != nil {
				return nil, err
			}
			writes = append(writes, store.Write{Verb: store.Update, Spec: store.ResourceQuotas, Object: &charged[i], Guard: revision})
		}
		return writes, nil
	}
}

func (q *resourceQuota) list(ctx context.Context, namespace string) ([]corev1.ResourceQuota, error) {
	stored, _, err := store.Of[*corev1.ResourceQuota](q.store, store.ResourceQuotas).List(ctx, store.ListOptions{Namespace: namespace})
	quotas := make([]corev1.ResourceQuota, len(stored))
	for i, quota := range stored {
		quotas[i] = *quota
	}
	return quotas, err
}

// turnsMax is how many namespaces have turns of their own; more share them.
const turnsMax = 64

// turns let one write of a namespace go at a time, on this control node.
type turns struct {
	seed   maphash.Seed
	places [turnsMax]chan struct{}
}

func newTurns() turns {
	t := turns{seed: maphash.MakeSeed()}
	for i := range t.places {
		t.places[i] = make(chan struct{}, 1)
	}
	return t
}

// take waits for the namespace's turn and returns how it ends.
func (t *turns) take(ctx context.Context, namespace string) (done func(), err error) {
	place := t.places[maphash.String(t.seed, namespace)%turnsMax]
	select {
	case place <- struct{}{}:
		return func() { <-place }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
