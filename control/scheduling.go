package control

import (
	"context"
	"errors"
	"time"

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
		Leader: s.server.cfg.Name, Pause: pauseMessage(status.Paused), Nodes: uint64(status.Nodes),
		Ready: uint64(status.Ready), BackingOff: uint64(status.BackingOff),
		Unschedulable: uint64(status.Unschedulable), Binding: uint64(status.Binding),
	}, nil
}

func (s scheduling) Pause(ctx context.Context, reason, by string) (*clusterv1.SchedulerPause, bool, error) {
	pause, already, err := s.brake().Pause(ctx, scheduler.Pause{Reason: reason, By: by, Since: time.Now().Truncate(time.Second)})
	return pauseMessage(pause), already, err
}

func (s scheduling) Resume(ctx context.Context) (bool, error) { return s.brake().Resume(ctx) }

func pauseMessage(p *scheduler.Pause) *clusterv1.SchedulerPause {
	if p == nil {
		return nil
	}
	return &clusterv1.SchedulerPause{Reason: p.Reason, By: p.By, Since: p.Since.Unix()}
}

var _ operator.Scheduling = scheduling{}
