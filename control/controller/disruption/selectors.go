package disruption

import (
	"sync"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// selectors keeps the selectors of budgets in the form that matches pods. Every change of a
// pod asks every budget of its namespace, and one with ten thousand terms takes
// milliseconds to bring into that form.
type selectors struct {
	// there says that the budget still exists: one that has been looked up before it
	// was deleted may be asked about after it was forgotten.
	there func(*policyv1.PodDisruptionBudget) bool

	mu    sync.Mutex
	known map[types.UID]known
}

type known struct {
	generation int64
	labels.Selector
}

func (s *selectors) of(budget *policyv1.PodDisruptionBudget) labels.Selector {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k, ok := s.known[budget.UID]; ok && k.generation == budget.Generation {
		return k.Selector
	}
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	if err != nil {
		selector = labels.Nothing()
	}
	if !s.there(budget) {
		return selector
	}
	if s.known == nil {
		s.known = map[types.UID]known{}
	}
	s.known[budget.UID] = known{budget.Generation, selector}
	return selector
}

// forget is called when the budget is there no more.
func (s *selectors) forget(budget *policyv1.PodDisruptionBudget) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, budget.UID)
}
