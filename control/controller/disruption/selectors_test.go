package disruption

import (
	"fmt"
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

// A selector of ten thousand terms is what anybody may write; it must cost its author and not
// the pods of everybody.
func TestAHugeSelectorIsReadOnce(t *testing.T) {
	m := test.Begin(t, storetest.New(t))
	c := New(Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger})
	m.Run(c.Run)
	huge := makeBudget(policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(1))})
	for i := range 10_000 {
		huge.Spec.Selector.MatchExpressions = append(huge.Spec.Selector.MatchExpressions, metav1.LabelSelectorRequirement{
			Key: fmt.Sprint("k", i), Operator: metav1.LabelSelectorOpNotIn, Values: []string{"v"},
		})
	}
	huge.Generation = 0
	test.Create(m, resource.PodDisruptionBudgets, huge)
	for i := range 50 {
		pod := test.Pod(fmt.Sprint("p", i))
		pod.Labels = map[string]string{"app": "web"}
		m.SetReady(test.Create(m, resource.Pods, pod), true)
	}
	test.Eventually(t, func() string {
		now, _ := test.Get[*policyv1.PodDisruptionBudget](m, store.PodDisruptionBudgets, "default", "web")
		if now.Status.DisruptionsAllowed != 49 {
			return fmt.Sprintf("%d disruptions allowed, want 49", now.Status.DisruptionsAllowed)
		}
		return ""
	})
	now, _ := test.Get[*policyv1.PodDisruptionBudget](m, store.PodDisruptionBudgets, "default", "web")
	reads := testing.AllocsPerRun(10, func() { c.selectors.of(now) })
	if reads > 10 {
		t.Errorf("%.0f allocations to find a selector that is known, want next to none", reads)
	}
	m.Delete(resource.PodDisruptionBudgets, "default", "web")
	test.Eventually(t, func() string {
		c.selectors.mu.Lock()
		defer c.selectors.mu.Unlock()
		if n := len(c.selectors.known); n > 0 {
			return fmt.Sprintf("%d selectors known of budgets that are gone", n)
		}
		return ""
	})
	// A pass that began before the budget was deleted may still ask.
	if c.selectors.of(now); len(c.selectors.known) > 0 {
		t.Error("the selector of a deleted budget is remembered")
	}
}
