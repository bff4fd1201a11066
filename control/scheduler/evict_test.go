package scheduler_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	test "github.com/musterhq/muster/control/controller/controllertest"
	kinds "github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/scheduler"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

// sized is a pod that asks for cores and has a priority.
func sized(name, cores string, priority int32) *corev1.Pod {
	p := test.Pod(name)
	p.Spec.Priority = ptr.To(priority)
	p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](2)
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cores)}
	return p
}

// agents end pods that are to go a second after they were told, until ctx ends.
func agents(m *test.Term) func(context.Context) error {
	return func(ctx context.Context) error {
		for ctx.Err() == nil {
			for _, p := range test.List[*corev1.Pod](m, store.Pods) {
				if p.DeletionTimestamp != nil {
					_, _, _ = m.Registry.Delete(ctx, kinds.Pods, p.Namespace, p.Name, metav1.NewDeleteOptions(0))
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
		return nil
	}
}

// The whole way: the low pod is told why it goes, the event says for whom, the high
// one is nominated, waits, and gets the room.
func TestPreemptionRunsItsCourse(t *testing.T) { synctest.Test(t, testPreemptionRunsItsCourse) }

func testPreemptionRunsItsCourse(t *testing.T) {
	s := storetest.New(t)
	m := begin(t, s)
	for i := range 2 {
		test.Create(m, kinds.Nodes, test.Node(fmt.Sprintf("n%d", i)))
	}
	for i := range 2 {
		p := sized(fmt.Sprintf("low%d", i), "3", int32(i))
		p.Labels = map[string]string{"app": p.Name}
		test.Create(m, kinds.Pods, p)
	}
	wantBound(t, m, 2)
	// The least important pod has a budget that is used up.
	test.Create(m, kinds.PodDisruptionBudgets, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "low0"}}},
	})
	m.Settled(200 * time.Millisecond)
	high := test.Create(m, kinds.Pods, sized("high", "4", 9))
	m.Settled(200 * time.Millisecond)

	victim, _ := test.Get[*corev1.Pod](m, store.Pods, "default", "low1")
	node := victim.Spec.NodeName
	var why *corev1.PodCondition
	for i := range victim.Status.Conditions {
		if c := &victim.Status.Conditions[i]; c.Type == corev1.DisruptionTarget {
			why = c
		}
	}
	if victim.DeletionTimestamp == nil || *victim.DeletionGracePeriodSeconds != 2 || why == nil || why.Status != corev1.ConditionTrue ||
		why.Reason != "PreemptionByScheduler" || why.Message != "default-scheduler: preempting to accommodate a higher priority pod" {
		t.Errorf("victim %+v, condition %+v; want it to go and to say why", victim.ObjectMeta, why)
	}
	now, _ := test.Get[*corev1.Pod](m, store.Pods, "default", "high")
	if c := condition(now); now.Status.NominatedNodeName != node || c == nil || !strings.HasSuffix(c.Message,
		" preemption: found a potential placement for pod on node "+node+", preempting 1 victims") {
		t.Errorf("nominated to %q with condition %+v, want %s", now.Status.NominatedNodeName, c, node)
	}
	test.Eventually(t, func() string {
		for _, e := range test.List[*corev1.Event](m, store.Events) {
			if e.Reason == "Preempted" && e.InvolvedObject.Name == "low1" && e.Message == fmt.Sprintf("Preempted by pod %s on node %s", high.UID, node) {
				return ""
			}
		}
		return "no Preempted event"
	})
	before := m.Settled(200 * time.Millisecond)
	time.Sleep(time.Minute)
	if after := s.Revision(); after != before {
		t.Errorf("%d writes while the victim takes its time, want none", after-before)
	}
	test.Eventually(t, func() string {
		if other, ok := test.Get[*corev1.Pod](m, store.Pods, "default", "low0"); !ok || other.DeletionTimestamp != nil {
			t.Error("the pod with a budget goes too")
		}
		return ""
	})
	m.Delete(kinds.Pods, "default", "low1", *metav1.NewDeleteOptions(0))
	test.Eventually(t, func() string {
		p, _ := test.Get[*corev1.Pod](m, store.Pods, "default", "high")
		if p.Spec.NodeName != node || p.Status.NominatedNodeName != "" {
			return fmt.Sprintf("high is on %q, nominated to %q; want it on %s", p.Spec.NodeName, p.Status.NominatedNodeName, node)
		}
		return ""
	})
}

// A leader may die at any step of several preemptions. In the end the important
// pods run, and no more of the others had to go than was needed.
func TestNextLeaderGoesOnPreempting(t *testing.T) {
	test.LeaderDiesAtAnyWrite(t, 8, func(t *testing.T, user *test.Term) {
		for i := range 3 {
			test.Create(user, kinds.Nodes, test.Node(fmt.Sprintf("n%d", i)))
			for j := range 2 {
				p := sized(fmt.Sprintf("low%d%d", i, j), "2", 0)
				p.Spec.NodeName = fmt.Sprintf("n%d", i)
				test.Create(user, kinds.Pods, p)
			}
		}
		for i := range 2 {
			test.Create(user, kinds.Pods, sized(fmt.Sprintf("high%d", i), "2", 5))
		}
		user.Run(agents(user))
	}, func(m *test.Term) {
		m.Run(scheduler.New(scheduler.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run)
	}, func(t *testing.T, m *test.Term) {
		test.Eventually(t, func() string {
			low := 0
			for _, p := range test.List[*corev1.Pod](m, store.Pods) {
				if strings.HasPrefix(p.Name, "low") {
					low++
				} else if p.Spec.NodeName == "" {
					return p.Name + " waits"
				}
			}
			if low != 4 {
				return fmt.Sprintf("%d pods of low priority left, want 4", low)
			}
			return ""
		})
	})
}
