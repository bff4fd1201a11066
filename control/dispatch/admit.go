package dispatch

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/store"
)

// admit registers the node and returns it as stored, with its pod range, once
// this replica holds all that was committed before.
func (s *session) admit(ctx context.Context, registered *corev1.Node) (*corev1.Node, error) {
	for attempt := 0; ; attempt++ {
		err := s.register(ctx, registered)
		if err == nil {
			break
		}
		if errors.Is(err, errReplacedMachine) {
			return nil, status.Error(codes.PermissionDenied, err.Error())
		}
		if permanent(err) {
			return nil, status.Errorf(codes.InvalidArgument, "register node %s: %v", registered.Name, err)
		}
		s.d.log.Warn("node not registered yet", "node", registered.Name, "error", err)
		if err := pause(ctx, attempt); err != nil {
			return nil, err
		}
	}
	for attempt := 0; ; attempt++ {
		err := s.d.desired.caughtUp(ctx)
		if err == nil {
			break
		}
		if err := pause(ctx, attempt); err != nil {
			return nil, err
		}
	}
	nodes := store.Of[*corev1.Node](s.d.cfg.Store, store.Nodes)
	for {
		node, err := nodes.Get(ctx, "", registered.Name)
		if err != nil {
			return nil, err
		}
		if node.Spec.PodCIDR != "" {
			return node, nil
		}
		// The leader's controller gives the range a moment after the node appears.
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-s.nodeMoved:
		}
	}
}

// register registers the node once this replica has it for certain that the
// name is still this machine's.
func (s *session) register(ctx context.Context, registered *corev1.Node) error {
	if err := s.d.cfg.Store.ReadBarrier(ctx); err != nil {
		return err
	}
	if !s.d.cfg.Owns(s.node, s.key) {
		return errReplacedMachine
	}
	return s.d.register(ctx, registered)
}

// pause waits 100 ms, doubling to 1 s.
func pause(ctx context.Context, attempt int) error {
	return sleep(ctx, min(100*time.Millisecond<<min(attempt, 4), time.Second))
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
