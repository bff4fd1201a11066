package daemonset

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func makeSet(surge, unavailable int32) *appsv1.DaemonSet {
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "agent", UID: "set", Generation: 3},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "agent"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "agent"}}},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{
				Type:          appsv1.RollingUpdateDaemonSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: ptr.To(intstr.FromInt32(surge)), MaxUnavailable: ptr.To(intstr.FromInt32(unavailable))},
			},
		},
	}
}

func makeNode(name string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"disk": "ssd"}}, Spec: corev1.NodeSpec{Taints: taints}}
}

func taint(key string, effect corev1.TaintEffect) corev1.Taint {
	return corev1.Taint{Key: key, Effect: effect}
}

func makePod(name, node string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)),
			Labels: map[string]string{"app": "agent", appsv1.DefaultDaemonSetUniqueLabelKey: "new"},
		},
		Spec: corev1.PodSpec{NodeName: node},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func old(p *corev1.Pod)      { p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = "old" }
func notReady(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func leaving(p *corev1.Pod)  { p.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }
func failed(p *corev1.Pod)   { p.Status.Phase = corev1.PodFailed }
func pending(p *corev1.Pod) {
	p.Spec.Affinity, p.Spec.NodeName = onNode(nil, p.Spec.NodeName), ""
	notReady(p)
}

func names(pods []*corev1.Pod) []string {
	list := []string{}
	for _, p := range pods {
		list = append(list, p.Name)
	}
	slices.Sort(list)
	return list
}

func TestPlan(t *testing.T) {
	selective := makeSet(0, 1)
	selective.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "hdd"}
	onDelete := makeSet(0, 1)
	onDelete.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
	n := makeNode
	for _, c := range []struct {
		what                   string
		ds                     *appsv1.DaemonSet
		nodes                  []*corev1.Node
		pods                   []*corev1.Pod
		create, remove, ended  []string
		desired, ready, misled int32
	}{
		{what: "a pod on each node", nodes: []*corev1.Node{n("a"), n("b")}, pods: []*corev1.Pod{makePod("p", "a")}, create: []string{"b"}, desired: 2, ready: 1},
		{what: "one that is not bound yet counts", nodes: []*corev1.Node{n("a")}, pods: []*corev1.Pod{makePod("p", "a", pending)}, desired: 1},
		{what: "not where the selector does not match", ds: selective, nodes: []*corev1.Node{n("a")}, pods: []*corev1.Pod{makePod("p", "a")}, remove: []string{"p"}, misled: 1},
		{what: "not where a taint is that nobody tolerates", nodes: []*corev1.Node{n("a", taint("x", corev1.TaintEffectNoSchedule))}},
		{what: "but one that is there stays", nodes: []*corev1.Node{n("a", taint("x", corev1.TaintEffectNoSchedule))}, pods: []*corev1.Pod{makePod("p", "a")}, misled: 1},
		{what: "unless it may not", nodes: []*corev1.Node{n("a", taint("x", corev1.TaintEffectNoExecute))}, pods: []*corev1.Pod{makePod("p", "a")}, remove: []string{"p"}, misled: 1},
		{what: "troubles of a node do not matter", nodes: []*corev1.Node{n("a", taint(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute), taint(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule))}, create: []string{"a"}, desired: 1},
		{what: "a second pod goes, the younger", nodes: []*corev1.Node{n("a")}, pods: []*corev1.Pod{makePod("p", "a"), makePod("q", "a", func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now) })}, remove: []string{"q"}, desired: 1, ready: 1},
		{what: "a failed pod ends first", nodes: []*corev1.Node{n("a")}, pods: []*corev1.Pod{makePod("p", "a", failed, notReady)}, ended: []string{"p"}, desired: 1},
		{what: "its place is free once it is going", nodes: []*corev1.Node{n("a")}, pods: []*corev1.Pod{makePod("p", "a", failed, notReady, leaving)}, create: []string{"a"}, desired: 1},
		{what: "that of a running one is not", nodes: []*corev1.Node{n("a")}, pods: []*corev1.Pod{makePod("p", "a", leaving)}, desired: 1, ready: 1},
		{what: "one for a node that is gone", nodes: nil, pods: []*corev1.Pod{makePod("p", "gone", pending), makePod("q", "gone")}, remove: []string{"p"}},
		{what: "an update takes one at a time", nodes: []*corev1.Node{n("a"), n("b")}, pods: []*corev1.Pod{makePod("p", "a", old), makePod("q", "b", old)}, remove: []string{"p"}, desired: 2, ready: 2},
		{what: "and waits for the new one", nodes: []*corev1.Node{n("a"), n("b")}, pods: []*corev1.Pod{makePod("p", "a", notReady), makePod("q", "b", old)}, desired: 2, ready: 1},
		{what: "old pods that are not ready go at once", nodes: []*corev1.Node{n("a"), n("b")}, pods: []*corev1.Pod{makePod("p", "a", notReady), makePod("q", "b", old, notReady)}, remove: []string{"q"}, desired: 2},
		{what: "no update unless asked for", ds: onDelete, nodes: []*corev1.Node{n("a")}, pods: []*corev1.Pod{makePod("p", "a", old)}, desired: 1, ready: 1},
		{what: "a surge makes the new one first", ds: makeSet(1, 0), nodes: []*corev1.Node{n("a"), n("b")}, pods: []*corev1.Pod{makePod("p", "a", old), makePod("q", "b", old)}, create: []string{"a"}, desired: 2, ready: 2},
		{what: "waits for it", ds: makeSet(1, 0), nodes: []*corev1.Node{n("a"), n("b")}, pods: []*corev1.Pod{makePod("p", "a", old), makePod("r", "a", notReady), makePod("q", "b", old)}, desired: 2, ready: 2},
		{what: "then removes the old one", ds: makeSet(1, 0), nodes: []*corev1.Node{n("a"), n("b")}, pods: []*corev1.Pod{makePod("p", "a", old), makePod("r", "a"), makePod("q", "b", old)}, remove: []string{"p"}, desired: 2, ready: 2},
	} {
		t.Run(c.what, func(t *testing.T) {
			ds := c.ds
			if ds == nil {
				ds = makeSet(0, 1)
			}
			p := makePlan(ds, "new", c.nodes, c.pods, nil, now)
			for _, list := range []struct {
				what      string
				got, want []string
			}{{"creates on", p.create, c.create}, {"removes", names(p.remove), c.remove}, {"ends", names(p.ended), c.ended}} {
				if !slices.Equal(append([]string{}, list.got...), append([]string{}, list.want...)) {
					t.Errorf("%s %q, want %q", list.what, list.got, list.want)
				}
			}
			if s := p.status; s.DesiredNumberScheduled != c.desired || s.NumberReady != c.ready || s.NumberMisscheduled != c.misled || s.ObservedGeneration != 3 {
				t.Errorf("status %+v, want %d desired, %d ready, %d misscheduled", s, c.desired, c.ready, c.misled)
			}
		})
	}
}

// However pods come and go: an update never has fewer available pods than it may,
// never more pods on a node than two with a surge and one without, and ends.
func TestUpdatesKeepTheirPromise(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 5))
		count := 1 + r.IntN(8)
		surge, unavailable := int32(0), int32(1+r.IntN(3))
		if r.IntN(2) == 0 {
			surge, unavailable = int32(1+r.IntN(3)), 0
		}
		ds := makeSet(surge, unavailable)
		var nodes []*corev1.Node
		var pods []*corev1.Pod
		for i := range count {
			nodes = append(nodes, makeNode(fmt.Sprint("n", i)))
			pods = append(pods, makePod(fmt.Sprint("old", i), fmt.Sprint("n", i), old))
		}
		done := false
		for round := range 300 {
			p := makePlan(ds, "new", nodes, pods, nil, now)
			for _, gone := range p.remove {
				i := slices.Index(pods, gone)
				pods[i] = makePod(gone.Name, gone.Spec.NodeName, leaving, func(p *corev1.Pod) { p.Labels, p.Status = gone.Labels, gone.Status })
			}
			for i, node := range p.create {
				pods = append(pods, makePod(fmt.Sprint("new", round, "-", i), node, notReady))
			}
			available := map[string]bool{}
			on := map[string]int{}
			for _, pod := range pods {
				on[pod.Spec.NodeName]++
				if pod.Status.Conditions[0].Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil {
					available[pod.Spec.NodeName] = true
				}
			}
			if len(available) < count-int(unavailable) {
				t.Fatalf("seed %d: %d nodes are served, want at least %d", seed, len(available), count-int(unavailable))
			}
			for node, n := range on {
				if most := 1 + min(1, int(surge)); n > most {
					t.Fatalf("seed %d: %d pods on %s, want at most %d", seed, n, node, most)
				}
			}
			if p.status.UpdatedNumberScheduled == int32(count) && p.status.NumberAvailable == int32(count) && len(pods) == count {
				done = true
				break
			}
			for i := 0; i < len(pods); i++ { // some go, some become ready
				switch {
				case r.IntN(2) == 0:
				case pods[i].DeletionTimestamp != nil:
					pods = slices.Delete(pods, i, i+1)
				case pods[i].Status.Conditions[0].Status == corev1.ConditionFalse:
					pods[i] = makePod(pods[i].Name, pods[i].Spec.NodeName)
				}
			}
		}
		if !done {
			t.Fatalf("seed %d: the update does not end", seed)
		}
	}
}
