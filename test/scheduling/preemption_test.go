package scheduling

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/scheduler"
	"github.com/musterhq/muster/control/scheduler/configuration"
)

// Pods that fit nowhere have the same pods evicted on the same nodes, and the node
// that is chosen is one that upstream could choose: of equals it takes any.
func TestMakesRoomAsUpstream(t *testing.T) {
	all := &roomTold{}
	for seed := range uint64(*clusters) {
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) { compareRooms(t, seed, all) }) {
			return
		}
	}
	t.Logf("%+v", *all)
	if least := *clusters / 10; all.Asked < least || all.Rooms < least || all.Several < least || all.Violations < least || all.Many < least || all.Nominees < least || all.Volumes < least/3 {
		t.Error("too few of some kind to have tested anything")
	}
}

// roomTold counts what the clusters had: pods that fit nowhere, nodes where evictions
// would help, choices among several, evictions that break budgets, several
// evictions on one node, pods asked about while room is made for others, and nodes
// where evictions free volumes.
type roomTold struct{ Asked, Rooms, Several, Violations, Many, Nominees, Volumes int }

// crowded is a cluster of few nodes, with priorities and budgets.
func (m *maker) crowded() scheduler.State {
	s := m.state()
	s.Nodes = s.Nodes[:min(len(s.Nodes), 6)]
	for _, n := range s.Nodes {
		n.Spec.Unschedulable = false
		if !m.sometimes() {
			n.Spec.Taints = nil
		}
		if !m.sometimes() {
			n.Status.Allocatable["cpu"], n.Status.Allocatable["memory"] = resource.MustParse(m.one("4", "8")), resource.MustParse("16Gi")
		}
	}
	held := map[string]bool{}
	for i, p := range s.Pods {
		p.Spec.NodeName = s.Nodes[m.IntN(len(s.Nodes))].Name
		m.rank(p)
		dropClashes(p, held)
		// No two began at once: of pods that are equal in all else, upstream spares any.
		p.Status.StartTime = ptr.To(metav1.NewTime(time.Unix(int64(1_000_000+(i*7919)%1009), 0)))
		if p.DeletionTimestamp != nil && m.often() {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler})
		}
	}
	for _, ns := range s.Namespaces {
		for _, app := range []string{"x", "y", "z"} { // no pod is in two: which of them is spent first is anybody's guess
			if m.often() {
				continue
			}
			b := &policyv1.PodDisruptionBudget{
				ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: app, UID: types.UID(ns.Name + app)},
				Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}},
				Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: int32(m.IntN(3))},
			}
			if m.sometimes() && len(s.Pods) > 0 {
				b.Status.DisruptedPods = map[string]metav1.Time{s.Pods[m.IntN(len(s.Pods))].Name: metav1.Now()}
			}
			s.Budgets = append(s.Budgets, b)
		}
	}
	for m.sometimes() {
		p := m.pod()
		m.rank(p)
		p.Status.NominatedNodeName = s.Nodes[m.IntN(len(s.Nodes))].Name
		m.settle(p, &s)
		s.Pods = append(s.Pods, p)
	}
	return s
}

// dropClashes leaves a placed pod only the host ports that none before it has on its
// node: upstream counts a port once, so of two that could never be there it frees it
// with the first.
func dropClashes(p *corev1.Pod, held map[string]bool) {
	for _, containers := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range containers {
			containers[i].Ports = slices.DeleteFunc(containers[i].Ports, func(port corev1.ContainerPort) bool {
				key := fmt.Sprint(p.Spec.NodeName, port.Protocol, port.HostPort)
				clashes := held[key]
				held[key] = true
				return clashes
			})
		}
	}
}

func (m *maker) rank(p *corev1.Pod) {
	if m.often() {
		p.Spec.Priority = ptr.To(int32(m.IntN(5)-1) * 1000)
	}
}

func compareRooms(t *testing.T, seed uint64, all *roomTold) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m := &maker{Rand: rand.New(rand.NewPCG(seed, 3))}
	state := m.crowded()
	// Upstream takes pods on their way out off the counts of spreading when it tries to
	// evict them, though they were never counted: they meet no constraints here.
	leaving := m.often()
	for _, p := range state.Pods {
		if !leaving {
			p.DeletionTimestamp = nil
		}
	}
	text := file{Profiles: make([]schedulerv1.KubeSchedulerProfile, 1)}.text()
	if !leaving && m.often() {
		text = m.profiles().text()
	}
	read, err := configuration.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	state.Profiles = scheduler.NewProfiles(read, nil)
	theirs, err := ReadUpstream(text)
	if err != nil {
		t.Fatal(err)
	}
	upstream, err := NewUpstream(ctx, state, withDefault(theirs.Profiles))
	if err != nil {
		t.Fatal(err)
	}
	ours := scheduler.NewSnapshot(state)
	for range 8 {
		pod := m.pod()
		pod.Spec.Priority = ptr.To(int32(m.IntN(4)) * 1000)
		if !m.sometimes() {
			pod.Spec.Affinity, pod.Spec.TopologySpreadConstraints, pod.Spec.NodeSelector = nil, nil, nil
		}
		if leaving {
			pod.Spec.TopologySpreadConstraints = nil
		}
		if m.often() {
			pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse(m.one("2", "3500m", "7"))}
		}
		answers := ours.Ask(pod).Nodes
		if slices.ContainsFunc(answers, func(n scheduler.NodeAnswer) bool { return len(n.Refusals) == 0 }) {
			continue
		}
		want, chosen, err := upstream.MakeRoom(ctx, pod)
		if err != nil {
			t.Fatal(err)
		}
		got := ours.MakeRoom(pod)
		all.Asked++
		for _, room := range got {
			all.Rooms++
			if len(room.Victims) > 1 {
				all.Many++
			}
			all.Violations += room.Violations
			at := answers[slices.IndexFunc(answers, func(n scheduler.NodeAnswer) bool { return n.Node == room.Node })]
			if slices.ContainsFunc(at.Refusals, func(r scheduler.Refusal) bool {
				return r.Filter == "VolumeRestrictions" || r.Filter == "NodeVolumeLimits"
			}) {
				all.Volumes++
			}
		}
		if len(got) > 1 {
			all.Several++
		}
		if len(placed(state.Pods)) < len(state.Pods) {
			all.Nominees++
		}
		if difference := differRooms(got, want, chosen); difference != "" {
			t.Fatalf("profiles %s\npod %s\n%s", text, show(pod), difference)
		}
	}
}

func differRooms(got []scheduler.Room, want map[string]scheduler.Room, chosen map[string]bool) string {
	if len(got) != len(want) {
		return fmt.Sprintf("room on %d nodes, want %d: %v, want %v", len(got), len(want), nodesOf(got), slices.Sorted(maps.Keys(want)))
	}
	for i, g := range got {
		w, ok := want[g.Node]
		if !ok || g.Violations != w.Violations || !slices.Equal(namesOf(g.Victims), namesOf(w.Victims)) {
			return fmt.Sprintf("on %s evicts %v, breaking %d budgets, want %v, %d", g.Node, namesOf(g.Victims), g.Violations, namesOf(w.Victims), w.Violations)
		}
		if i == 0 && !chosen[g.Node] {
			return fmt.Sprintf("chooses %s, want one of %v", g.Node, chosen)
		}
	}
	return ""
}

func namesOf(pods []*corev1.Pod) (names []string) {
	for _, p := range pods {
		names = append(names, p.Name)
	}
	return names
}

func nodesOf(rooms []scheduler.Room) (names []string) {
	for _, r := range rooms {
		names = append(names, r.Node)
	}
	return names
}
