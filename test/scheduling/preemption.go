package scheduling

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/defaultpreemption"

	"github.com/musterhq/muster/control/scheduler"
)

// MakeRoom answers as Muster's Snapshot does, by kube-scheduler's own preemption: what
// it would evict on every node, in no particular order, and which nodes it could
// choose; it chooses any of those that it holds for equal.
func (u *Upstream) MakeRoom(ctx context.Context, pod *corev1.Pod) (rooms map[string]scheduler.Room, chosen map[string]bool, err error) {
	p := u.of(pod)
	preemption := p.plugins["DefaultPreemption"].(*defaultpreemption.DefaultPreemption)
	state := framework.NewCycleState()
	refused, err := p.refuse(ctx, state, pod, u.nodes)
	if err != nil {
		return nil, nil, err
	}
	nominated := refused.Get(pod.Status.NominatedNodeName)
	if ok, _ := preemption.PodEligibleToPreemptOthers(ctx, pod, nominated); !ok {
		return nil, nil, nil
	}
	nodes, err := refused.NodesForStatusCode(p.framework.SnapshotSharedLister().NodeInfos(), fwk.Unschedulable)
	if err != nil || len(nodes) == 0 {
		return nil, nil, err
	}
	budgets, err := preemption.Evaluator.PdbLister.List(labels.Everything())
	if err != nil {
		return nil, nil, err
	}
	candidates, _, err := preemption.Evaluator.DryRunPreemption(ctx, state, pod, nodes, budgets, 0, int32(len(nodes)))
	if err != nil {
		return nil, nil, err
	}
	rooms, chosen = map[string]scheduler.Room{}, map[string]bool{}
	for _, c := range candidates {
		rooms[c.Name()] = scheduler.Room{Node: c.Name(), Victims: c.Victims().Pods, Violations: int(c.Victims().NumPDBViolations)}
	}
	for range 4 * len(candidates) { // in another order each time
		chosen[preemption.Evaluator.SelectCandidate(ctx, candidates).Name()] = true
	}
	return rooms, chosen, nil
}

// refuse asks the filters as a search for a node does: those of a node end at the
// first that refuses.
func (p *upstreamProfile) refuse(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, nodes []fwk.NodeInfo) (*framework.NodeToStatus, error) {
	refused := framework.NewDefaultNodeToStatus()
	among, status, _ := p.framework.RunPreFilterPlugins(ctx, state, pod)
	switch {
	case status.IsRejected():
		refused.SetAbsentNodesStatus(status)
		return refused, nil
	case !status.IsSuccess():
		return nil, status.AsError()
	}
	for _, n := range nodes {
		if name := n.Node().Name; !among.AllNodes() && !among.NodeNames.Has(name) {
			continue // as the absent ones: it can't be resolved
		}
		switch status := p.framework.RunFilterPluginsWithNominatedPods(ctx, state, pod, n); {
		case status.IsRejected():
			refused.Set(n.Node().Name, status)
		case status.IsSuccess():
			return nil, fmt.Errorf("%s takes the pod", n.Node().Name)
		default:
			return nil, status.AsError()
		}
	}
	return refused, nil
}

// nominator tells which pods room is made for on a node, of those that a profile is
// for: nobody hears of others' nominations.
type nominator map[string][]fwk.PodInfo

func newNominator(pods []*corev1.Pod, profiles []config.KubeSchedulerProfile) (nominator, error) {
	m := nominator{}
	for _, pod := range pods {
		ours := slices.ContainsFunc(profiles, func(p config.KubeSchedulerProfile) bool { return p.SchedulerName == pod.Spec.SchedulerName })
		if node := pod.Status.NominatedNodeName; ours && pod.Spec.NodeName == "" && node != "" {
			info, err := framework.NewPodInfo(pod)
			if err != nil {
				return nil, err
			}
			m[node] = append(m[node], info)
		}
	}
	return m, nil
}

func (m nominator) NominatedPodsForNode(node string) []fwk.PodInfo { return m[node] }

// Nothing changes while it is asked.

func (m nominator) AddNominatedPod(klog.Logger, fwk.PodInfo, *fwk.NominatingInfo) {}
func (m nominator) DeleteNominatedPodIfExists(*corev1.Pod)                        {}
func (m nominator) UpdateNominatedPod(klog.Logger, *corev1.Pod, fwk.PodInfo)      {}
