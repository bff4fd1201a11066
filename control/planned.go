package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/operator"
	"github.com/musterhq/muster/control/planning"
	"github.com/musterhq/muster/control/scheduler"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func (s scheduling) Plan(ctx context.Context, r *clusterv1.PlanPodsRequest) (*clusterv1.PlanPodsResponse, error) {
	it, err := s.leading()
	if err != nil {
		return nil, err
	}
	objects, err := plannedObjects(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", operator.ErrPlan, err)
	}
	var planned scheduler.Planned
	var of []int
	plans, err := it.Plan(ctx, func(caches *controller.Caches) (scheduler.Planned, error) {
		var err error
		if planned, of, err = planning.Of(caches, objects, time.Now()); err != nil {
			return planned, fmt.Errorf("%w: %w", operator.ErrPlan, err)
		}
		return planned, nil
	})
	if errors.Is(err, scheduler.ErrPlanTooLarge) && !errors.Is(err, operator.ErrPlan) {
		return nil, fmt.Errorf("%w: %w", operator.ErrPlan, err)
	}
	if err != nil {
		return nil, err
	}
	response := &clusterv1.PlanPodsResponse{}
	for i, plan := range plans {
		outlook := planned.Outlooks[i]
		it := &clusterv1.PlannedPods{
			Object: uint32(of[i]), Present: uint32(plan.Present), Leaving: uint32(plan.Leaving), Placed: map[string]uint32{},
			Waiting: uint32(plan.Waiting), Why: plan.Why, Late: uint32(plan.Late), WhyLate: plan.WhyLate,
			Replaced: uint32(plan.Replaced), Left: uint32(plan.Left), Unmade: uint32(plan.Unmade),
			Evicted: victimMessages(plan.Evicted), Notes: outlook.Notes,
		}
		if plan.Replaced > 0 {
			it.Surge, it.Unavailable = uint32(outlook.Surge), uint32(outlook.Unavailable)
		}
		for node, n := range plan.Placed {
			it.Placed[node] = uint32(n)
		}
		response.Groups = append(response.Groups, it)
	}
	return response, nil
}

func plannedObjects(r *clusterv1.PlanPodsRequest) ([]planning.Object, error) {
	objects := make([]planning.Object, len(r.Objects))
	for i, o := range r.Objects {
		objects[i].Object = o.Object
		if len(o.Pod) > 0 {
			objects[i].Like = &corev1.Pod{}
			if err := json.Unmarshal(o.Pod, objects[i].Like); err != nil {
				return nil, fmt.Errorf("object %d: pod: %w", i, err)
			}
		}
		for _, raw := range o.Claims {
			claim := &corev1.PersistentVolumeClaim{}
			if err := json.Unmarshal(raw, claim); err != nil {
				return nil, fmt.Errorf("object %d: claim: %w", i, err)
			}
			objects[i].Claims = append(objects[i].Claims, claim)
		}
	}
	return objects, nil
}
