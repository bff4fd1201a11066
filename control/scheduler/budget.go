package scheduler

import (
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// budgets are the pod disruption budgets. Preemption heeds them where it can: it
// breaks one only if there is no other way to make room.
type budgets map[string]map[types.UID]*budget // by namespace

type budget struct {
	selector  labels.Selector
	allowed   int32
	disrupted map[string]metav1.Time // pods that are counted as gone already
}

func (b budgets) set(pdb *policyv1.PodDisruptionBudget) {
	selector, err := metav1.LabelSelectorAsSelector(pdb.Spec.Selector)
	if err != nil || selector.Empty() { // matches nothing, as upstream has it
		b.remove(pdb)
		return
	}
	if b[pdb.Namespace] == nil {
		b[pdb.Namespace] = make(map[types.UID]*budget)
	}
	b[pdb.Namespace][pdb.UID] = &budget{selector: selector, allowed: pdb.Status.DisruptionsAllowed, disrupted: pdb.Status.DisruptedPods}
}

func (b budgets) remove(pdb *policyv1.PodDisruptionBudget) {
	delete(b[pdb.Namespace], pdb.UID)
	if len(b[pdb.Namespace]) == 0 {
		delete(b, pdb.Namespace)
	}
}

// violating says for each pod whether its eviction would break a budget, were all
// of them evicted in this order; nil if none would.
func (b budgets) violating(pods []*podInfo) []bool {
	if len(b) == 0 {
		return nil
	}
	var violates []bool
	spent := make(map[*budget]int32)
	for i, p := range pods {
		if len(p.pod.Labels) == 0 {
			continue
		}
		for _, it := range b[p.pod.Namespace] {
			if _, gone := it.disrupted[p.pod.Name]; gone || !it.selector.Matches(labels.Set(p.pod.Labels)) {
				continue
			}
			if spent[it]++; spent[it] > it.allowed {
				if violates == nil {
					violates = make([]bool, len(pods))
				}
				violates[i] = true
			}
		}
	}
	return violates
}
