package control

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/control/operator"
	"github.com/musterhq/muster/control/scheduler"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// scheduling is the scheduler as operators ask for it: the brake is the
// cluster's, the rest the leader's.
type scheduling struct{ server *Server }

func (s scheduling) brake() scheduler.Brake { return scheduler.Brake{Store: s.server.store} }

// leading is the scheduler of this node's term.
func (s scheduling) leading() (*scheduler.Scheduler, error) {
	if it := s.server.scheduler.Load(); it != nil {
		return it, nil
	}
	return nil, consensus.ErrNotLeader
}

func (s scheduling) Status(ctx context.Context) (*clusterv1.SchedulerStatusResponse, error) {
	it, err := s.leading()
	if err != nil {
		return nil, err
	}
	status, err := it.Status(ctx)
	if errors.Is(err, scheduler.ErrEnded) {
		return nil, consensus.ErrNotLeader
	}
	if err != nil {
		return nil, err
	}
	return &clusterv1.SchedulerStatusResponse{
		Leader: s.server.cfg.Name, Pause: pauseMessage(status.Paused), Algorithm: string(status.Algorithm), Nodes: uint64(status.Nodes),
		Ready: uint64(status.Ready), BackingOff: uint64(status.BackingOff),
		Unschedulable: uint64(status.Unschedulable), Binding: uint64(status.Binding),
	}, nil
}

func (s scheduling) Pause(ctx context.Context, reason, by string) (*clusterv1.SchedulerPause, bool, error) {
	pause, already, err := s.brake().Pause(ctx, scheduler.Pause{Reason: reason, By: by, Since: time.Now().Truncate(time.Second)})
	return pauseMessage(pause), already, err
}

func (s scheduling) Resume(ctx context.Context) (bool, error) { return s.brake().Resume(ctx) }

func (s scheduling) Explain(ctx context.Context, namespace, name string) (*clusterv1.ExplainPodResponse, error) {
	it, err := s.leading()
	if err != nil {
		return nil, err
	}
	x, err := it.Explain(ctx, namespace, name)
	switch {
	case errors.Is(err, scheduler.ErrNoPod):
		return nil, operator.ErrNoPod
	case errors.Is(err, scheduler.ErrEnded):
		return nil, consensus.ErrNotLeader
	case err != nil:
		return nil, err
	}
	return explanationMessage(x), nil
}

func explanationMessage(x *scheduler.Explanation) *clusterv1.ExplainPodResponse {
	response := &clusterv1.ExplainPodResponse{
		Namespace: x.Pod.Namespace, Name: x.Pod.Name, Uid: string(x.Pod.UID), Priority: ptr.Deref(x.Pod.Spec.Priority, 0),
		State: string(x.State), Node: x.Node, NominatedNode: x.Nominated, SchedulerName: x.Pod.Spec.SchedulerName,
		Pause: pauseMessage(x.Pause), Best: x.Answer.Best, Closest: x.Closest,
	}
	for _, gate := range x.Pod.Spec.SchedulingGates {
		response.Gates = append(response.Gates, gate.Name)
	}
	for _, n := range x.Answer.Nodes {
		it := &clusterv1.ExplainedNode{Name: n.Node, Needs: x.Needs[n.Node], Total: n.Total}
		for _, r := range n.Refusals {
			it.Refusals = append(it.Refusals, &clusterv1.ExplainedRefusal{Filter: r.Filter, Reasons: r.Reasons})
		}
		for _, score := range n.Scores {
			it.Scores = append(it.Scores, &clusterv1.ExplainedScore{Name: score.Name, Score: score.Normalized, Weighted: score.Weighted})
		}
		response.Nodes = append(response.Nodes, it)
	}
	if x.Answer.Best == "" {
		response.Preemption = &clusterv1.ExplainedPreemption{
			Why: x.Preemption.Why, Node: x.Preemption.Node, Violations: uint32(x.Preemption.Violations), Victims: victimMessages(x.Preemption.Victims),
		}
	}
	return response
}

func victimMessages(pods []*corev1.Pod) (victims []*clusterv1.ExplainedVictim) {
	for _, v := range pods {
		victims = append(victims, &clusterv1.ExplainedVictim{Namespace: v.Namespace, Name: v.Name, Priority: ptr.Deref(v.Spec.Priority, 0)})
	}
	return victims
}

func (s scheduling) SetAlgorithm(ctx context.Context, algorithm string) error {
	return scheduler.Algorithms{Store: s.server.store}.Set(ctx, scheduler.Algorithm(algorithm))
}

func pauseMessage(p *scheduler.Pause) *clusterv1.SchedulerPause {
	if p == nil {
		return nil
	}
	return &clusterv1.SchedulerPause{Reason: p.Reason, By: p.By, Since: p.Since.Unix()}
}

var _ operator.Scheduling = scheduling{}
