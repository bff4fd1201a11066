package disruption

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func makeBudget(spec policyv1.PodDisruptionBudgetSpec) *policyv1.PodDisruptionBudget {
	spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	return &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Generation: 2}, Spec: spec}
}

func makePods(ready, others, leaving int) (pods []*corev1.Pod) {
	for i := range ready + others + leaving {
		p := test.Pod(fmt.Sprint("p", i))
		status := corev1.ConditionFalse
		if i < ready {
			status = corev1.ConditionTrue
		}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
		if i >= ready+others {
			p.DeletionTimestamp = ptr.To(metav1.NewTime(now))
		}
		pods = append(pods, p)
	}
	return pods
}

func TestStatus(t *testing.T) {
	least := func(v intstr.IntOrString) policyv1.PodDisruptionBudgetSpec {
		return policyv1.PodDisruptionBudgetSpec{MinAvailable: &v}
	}
	lacking := func(v intstr.IntOrString) policyv1.PodDisruptionBudgetSpec {
		return policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &v}
	}
	for _, c := range []struct {
		what                               string
		spec                               policyv1.PodDisruptionBudgetSpec
		pods                               []*corev1.Pod
		owners                             int32
		healthy, desired, pod, disruptions int32
	}{
		{what: "a number", spec: least(intstr.FromInt32(2)), pods: makePods(3, 1, 1), healthy: 3, desired: 2, pod: 5, disruptions: 1},
		{what: "not enough", spec: least(intstr.FromInt32(4)), pods: makePods(3, 1, 0), healthy: 3, desired: 4, pod: 4},
		{what: "a share rounds up", spec: least(intstr.FromString("50%")), pods: makePods(4, 0, 0), owners: 5, healthy: 4, desired: 3, pod: 5, disruptions: 1},
		{what: "how many may lack", spec: lacking(intstr.FromInt32(1)), pods: makePods(4, 1, 0), owners: 5, healthy: 4, desired: 4, pod: 5},
		{what: "all may", spec: lacking(intstr.FromInt32(9)), pods: makePods(4, 0, 0), owners: 5, healthy: 4, pod: 5, disruptions: 4},
		{what: "no pods, no disruptions", spec: least(intstr.FromInt32(0))},
	} {
		t.Run(c.what, func(t *testing.T) {
			s, _ := makeStatus(makeBudget(c.spec), c.pods, expected{count: c.owners}, now)
			if s.CurrentHealthy != c.healthy || s.DesiredHealthy != c.desired || s.ExpectedPods != c.pod || s.DisruptionsAllowed != c.disruptions || s.ObservedGeneration != 2 {
				t.Errorf("status %+v, want %d healthy of %d, %d desired, %d disruptions", s, c.healthy, c.pod, c.desired, c.disruptions)
			}
			want := metav1.ConditionFalse
			if c.disruptions > 0 {
				want = metav1.ConditionTrue
			}
			if s.Conditions[0].Status != want {
				t.Errorf("condition %+v, want %s", s.Conditions[0], want)
			}
		})
	}
}

// A pod that was given leave to go does not count as healthy for two minutes, and
// then again if it has stayed.
func TestPodsGivenLeaveDoNotCount(t *testing.T) {
	b := makeBudget(policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(1))})
	b.Status.DisruptedPods = map[string]metav1.Time{"p0": metav1.NewTime(now), "gone": metav1.NewTime(now)}
	s, again := makeStatus(b, makePods(3, 0, 0), expected{}, now.Add(time.Minute))
	if s.CurrentHealthy != 2 || len(s.DisruptedPods) != 1 || again < time.Minute || again > time.Minute+time.Second {
		t.Errorf("%d healthy, disrupted %v, looks again in %v, want 2, p0, and a minute", s.CurrentHealthy, s.DisruptedPods, again)
	}
	if s, _ := makeStatus(b, makePods(3, 0, 0), expected{}, now.Add(time.Minute+again)); s.CurrentHealthy != 3 || len(s.DisruptedPods) != 0 {
		t.Errorf("%d healthy, disrupted %v, want 3 and none", s.CurrentHealthy, s.DisruptedPods)
	}
}

func TestFollowsPodsAndTheirOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		m.Run(New(Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run)
		d := test.Create(m, resource.Deployments, test.Deployment("web", 4))
		set := test.ReplicaSet("web-1", 4)
		set.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(d, store.Deployments.Kind)}
		set = test.Create(m, resource.ReplicaSets, set)
		for i := range 4 {
			p := test.Pod(fmt.Sprint("p", i))
			p.Labels = map[string]string{"app": "web"}
			p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, store.ReplicaSets.Kind)}
			m.SetReady(test.Create(m, resource.Pods, p), true)
		}
		b := makeBudget(policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr.To(intstr.FromString("25%"))})
		test.Create(m, resource.PodDisruptionBudgets, b)
		wantAllowed := func(want int32) {
			t.Helper()
			test.Eventually(t, func() string {
				b, _ := test.Get[*policyv1.PodDisruptionBudget](m, store.PodDisruptionBudgets, "default", "web")
				if s := b.Status; s.DisruptionsAllowed != want || s.ObservedGeneration != b.Generation {
					return fmt.Sprintf("status %+v, want %d disruptions", s, want)
				}
				return ""
			})
		}
		wantAllowed(1)
		p, _ := test.Get[*corev1.Pod](m, store.Pods, "default", "p0")
		m.SetReady(p, false)
		wantAllowed(0)
		m.SetReady(p, true)
		wantAllowed(1)
		test.Change(m, resource.Deployments, "default", "web", "", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To(int32(5)) })
		time.Sleep(time.Second)
		wantAllowed(1) // 4 of 5, of which 2 may lack
		b, _ = test.Get[*policyv1.PodDisruptionBudget](m, store.PodDisruptionBudgets, "default", "web")
		if b.Status.ExpectedPods != 5 || b.Status.DesiredHealthy != 3 {
			t.Errorf("status %+v, want 5 expected and 3 desired", b.Status)
		}
		before := m.Settled(time.Second)
		time.Sleep(24 * time.Hour)
		if after := m.Registry.Store().Revision(); after != before {
			t.Errorf("%d writes while nothing happened", after-before)
		}
	})
}
