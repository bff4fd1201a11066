package scheduler

import (
	"context"
	"errors"
)

// ErrEnded says that the term of the scheduler is over.
var ErrEnded = errors.New("this node does not lead any more")

// ask has the decider run f between two decisions. f sees everything as it is and
// must not keep the core; all pods wait for it.
func (s *Scheduler) ask(ctx context.Context, f func(*core)) error {
	done := make(chan struct{})
	select {
	case s.asked <- func(c *core) { f(c); close(done) }:
	case <-s.ended:
		return ErrEnded
	case <-ctx.Done():
		return ctx.Err()
	}
	<-done
	return nil
}

// Status is what the scheduler has to do.
type Status struct {
	// Paused is nil while pods are given to nodes.
	Paused    *Pause
	Algorithm Algorithm
	Nodes     int
	// Pods that wait for their turn, after a write that failed, and for room.
	Ready, BackingOff, Unschedulable int
	// Binding pods have a node of which the caches do not tell yet.
	Binding int
}

// Status says what there is to do now.
func (s *Scheduler) Status(ctx context.Context) (Status, error) {
	status := Status{Paused: Brake{s.registry.Store()}.Paused(), Algorithm: Algorithms{s.registry.Store()}.Get()}
	err := s.ask(ctx, func(c *core) {
		status.Nodes = len(c.cluster.order)
		status.Ready, status.BackingOff, status.Unschedulable = len(c.queue.ready), len(c.queue.later), c.queue.parked.len()
		for _, p := range c.cluster.pods {
			if p.assumed {
				status.Binding++
			}
		}
	})
	return status, err
}
