package replication

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func makeRC(replicas int32) *corev1.ReplicationController {
	return &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "rc", UID: "rc-uid", Generation: 7},
		Spec: corev1.ReplicationControllerSpec{
			Replicas: ptr.To(replicas),
			Selector: map[string]string{"app": "web"},
			Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web", "tier": "front"}}},
		},
	}
}

func makePod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, UID: types.UID(name),
			Labels:            map[string]string{"app": "web", "tier": "front"},
			CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
		},
		Spec:   corev1.PodSpec{NodeName: "node-of-" + name},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	readyFor(time.Hour)(p)
	for _, f := range change {
		f(p)
	}
	return p
}

func readyFor(d time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-d))}}
	}
}

func notReady(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func leaving(p *corev1.Pod)  { p.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }
func unbound(p *corev1.Pod)  { p.Spec.NodeName = "" }
func phase(ph corev1.PodPhase) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.Phase = ph }
}
func label(name, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels[name] = value }
}
func onNode(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = name } }
func aged(d time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-d)) }
}
func restarted(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n}} }
}
func cost(v string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: v} }
}

func none() []*corev1.Pod { return nil }

func podNames(pods []*corev1.Pod) []string {
	names := []string{}
	for _, p := range pods {
		names = append(names, p.Name)
	}
	return names
}

func TestPlan(t *testing.T) {
	deleting := makeRC(3)
	deleting.DeletionTimestamp = ptr.To(metav1.NewTime(now))
	bare := makeRC(1)
	bare.Spec.Selector = nil
	for _, c := range []struct {
		what            string
		rc              *corev1.ReplicationController
		kept, loose     []*corev1.Pod
		create          int
		remove          []string
		adopt, release  []string
		replicas, ready int32
	}{
		{what: "none yet", rc: makeRC(3), create: 3},
		{what: "as many as asked for", rc: makeRC(2), kept: []*corev1.Pod{makePod("a"), makePod("b")}, replicas: 2, ready: 2},
		{what: "replicas left out means one", rc: func() *corev1.ReplicationController { rc := makeRC(0); rc.Spec.Replicas = nil; return rc }(), create: 1},
		{what: "finished pods are replaced", rc: makeRC(2), kept: []*corev1.Pod{makePod("a", phase(corev1.PodFailed)), makePod("b", phase(corev1.PodSucceeded))}, create: 2},
		{what: "a pod that is being deleted is replaced at once", rc: makeRC(1), kept: []*corev1.Pod{makePod("a", leaving)}, create: 1},
		{what: "a surplus goes", rc: makeRC(1), kept: []*corev1.Pod{makePod("a"), makePod("b", unbound, notReady, phase(corev1.PodPending))}, remove: []string{"b"}, replicas: 2, ready: 1},
		{what: "all go", rc: makeRC(0), kept: []*corev1.Pod{makePod("a")}, remove: []string{"a"}, replicas: 1, ready: 1},
		{what: "a matching pod of nobody is adopted instead of one created", rc: makeRC(2), loose: []*corev1.Pod{makePod("a")}, adopt: []string{"a"}, create: 1, replicas: 1, ready: 1},
		{what: "others of nobody are left alone", rc: makeRC(1), loose: []*corev1.Pod{makePod("a", label("app", "other")), makePod("b", leaving), makePod("c", phase(corev1.PodSucceeded))}, create: 1},
		{what: "an own pod that matches no more is released and replaced", rc: makeRC(1), kept: []*corev1.Pod{makePod("a", label("app", "other"))}, release: []string{"a"}, create: 1},
		{what: "a controller that is being deleted does nothing", rc: deleting, kept: []*corev1.Pod{makePod("a"), makePod("b", label("app", "other"))}, loose: []*corev1.Pod{makePod("c")}, replicas: 1, ready: 1},
		{what: "an empty selector selects nothing", rc: bare, loose: []*corev1.Pod{makePod("a")}, create: 1},
		{what: "not more than a burst", rc: makeRC(2000), create: burst},
	} {
		t.Run(c.what, func(t *testing.T) {
			p := makePlan(asReplicaSet(c.rc), c.kept, c.loose, none, now)
			if p.create != c.create {
				t.Errorf("creates %d, want %d", p.create, c.create)
			}
			for _, list := range []struct {
				what string
				got  []*corev1.Pod
				want []string
			}{{"removes", p.remove, c.remove}, {"adopts", p.adopt, c.adopt}, {"releases", p.release, c.release}} {
				if got := podNames(list.got); !slices.Equal(got, append([]string{}, list.want...)) {
					t.Errorf("%s %q, want %q", list.what, got, list.want)
				}
			}
			if p.status.Replicas != c.replicas || p.status.ReadyReplicas != c.ready {
				t.Errorf("status says %d replicas, %d ready, want %d, %d", p.status.Replicas, p.status.ReadyReplicas, c.replicas, c.ready)
			}
			if p.status.ObservedGeneration != 7 {
				t.Errorf("observed generation %d, want 7", p.status.ObservedGeneration)
			}
			if wantMore := int(*ptrOr(c.rc.Spec.Replicas, 1)) > burst; p.more != wantMore {
				t.Errorf("more is %v, want %v", p.more, wantMore)
			}
		})
	}
}

func ptrOr(p *int32, or int32) *int32 {
	if p == nil {
		return &or
	}
	return p
}

func TestPlanCountsAvailablePodsAndSaysWhenThereAreMore(t *testing.T) {
	rc := makeRC(3)
	rc.Spec.MinReadySeconds = 10
	p := makePlan(asReplicaSet(rc), []*corev1.Pod{
		makePod("long", readyFor(time.Minute)),
		makePod("just", readyFor(10*time.Second)),
		makePod("soon", readyFor(7*time.Second), label("tier", "")),
		makePod("later", readyFor(2*time.Second)),
		makePod("never", notReady),
	}, nil, none, now)
	if got := p.status; got.AvailableReplicas != 2 || got.ReadyReplicas != 4 || got.FullyLabeledReplicas != 4 {
		t.Errorf("available %d, ready %d, fully labelled %d, want 2, 4, 4", got.AvailableReplicas, got.ReadyReplicas, got.FullyLabeledReplicas)
	}
	if p.again != 3*time.Second {
		t.Errorf("look again in %v, want 3s", p.again)
	}
}

// Each pair differs in what it names; the first must go before the second, from
// either order.
func TestRank(t *testing.T) {
	for _, c := range []struct {
		what          string
		first, second *corev1.Pod
		others        []*corev1.Pod
	}{
		{what: "unbound before bound", first: makePod("b", unbound), second: makePod("a", phase(corev1.PodPending), notReady)},
		{what: "pending before unknown", first: makePod("b", phase(corev1.PodPending)), second: makePod("a", phase(corev1.PodUnknown))},
		{what: "unknown before running", first: makePod("b", phase(corev1.PodUnknown)), second: makePod("a", notReady)},
		{what: "not ready before ready", first: makePod("b", notReady, cost("5")), second: makePod("a")},
		{what: "cheaper before dearer", first: makePod("b"), second: makePod("a", cost("1"), onNode("n"))},
		{what: "negative cost before none", first: makePod("b", cost("-1")), second: makePod("a")},
		{what: "crowded before alone", first: makePod("b", onNode("n"), restarted(0)), second: makePod("a", restarted(3)), others: []*corev1.Pod{makePod("c", onNode("n"), cost("9"))}},
		{what: "ready for less time before longer", first: makePod("b", readyFor(time.Second)), second: makePod("a", readyFor(time.Minute), restarted(3))},
		{what: "restarted more before less", first: makePod("b", restarted(3)), second: makePod("a", restarted(2), aged(time.Second))},
		{what: "younger before older", first: makePod("b", aged(time.Second)), second: makePod("a", aged(time.Minute))},
		{what: "about the same age: by uid", first: makePod("a", aged(11*time.Minute)), second: makePod("b", aged(10*time.Minute))},
	} {
		t.Run(c.what, func(t *testing.T) {
			for _, pods := range [][]*corev1.Pod{{c.first, c.second}, {c.second, c.first}} {
				pods = append(pods, c.others...)
				rank(pods, pods, now)
				if at, after := slices.Index(pods, c.first), slices.Index(pods, c.second); at > after {
					t.Errorf("%s goes after %s: %q", c.first.Name, c.second.Name, podNames(pods))
				}
			}
		})
	}
}

// Whatever the pods are: after the plan is carried out as many are active as
// asked for, none of somebody else's was touched, and a ready pod never goes
// while one that is not ready stays.
func TestPlanAlwaysMeetsItsCount(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		rc := makeRC(int32(r.IntN(12)))
		change := func(p *corev1.Pod) {
			for _, f := range []func(*corev1.Pod){leaving, unbound, notReady, phase(corev1.PodPending), phase(corev1.PodFailed), phase(corev1.PodSucceeded), label("app", "other"), readyFor(time.Duration(r.IntN(1000)) * time.Second), restarted(int32(r.IntN(3))), onNode("shared")} {
				if r.IntN(5) == 0 {
					f(p)
				}
			}
		}
		var kept, loose []*corev1.Pod
		for i := range r.IntN(12) {
			kept = append(kept, makePod(fmt.Sprintf("kept-%d", i), change))
		}
		for i := range r.IntN(4) {
			loose = append(loose, makePod(fmt.Sprintf("loose-%d", i), change))
		}
		p := makePlan(asReplicaSet(rc), kept, loose, none, now)

		left := map[string]*corev1.Pod{}
		for _, pod := range append(slices.Clone(kept), p.adopt...) {
			if controller.IsActive(pod) && pod.Labels["app"] == "web" {
				left[pod.Name] = pod
			}
		}
		if int(p.status.Replicas) != len(left) {
			t.Fatalf("seed %d: status says %d replicas, want %d", seed, p.status.Replicas, len(left))
		}
		for _, pod := range p.remove {
			if left[pod.Name] == nil {
				t.Fatalf("seed %d: removes %s, which does not count", seed, pod.Name)
			}
			delete(left, pod.Name)
		}
		if got := len(left) + p.create; got != int(*rc.Spec.Replicas) {
			t.Fatalf("seed %d: %d pods after the plan, want %d", seed, got, int(*rc.Spec.Replicas))
		}
		if p.create > 0 && len(p.remove) > 0 {
			t.Fatalf("seed %d: creates and removes", seed)
		}
		for _, gone := range p.remove {
			if _, ready := controller.ReadySince(gone); !ready || gone.Spec.NodeName == "" || gone.Status.Phase == corev1.PodPending {
				continue
			}
			for _, stays := range left {
				if _, ready := controller.ReadySince(stays); !ready {
					t.Fatalf("seed %d: removes %s, ready, and keeps %s, which is not", seed, gone.Name, stays.Name)
				}
			}
		}
	}
}
