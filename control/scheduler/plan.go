package scheduler

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/controller"
)

// GroupPlan says what would become of an object's pods.
type GroupPlan struct {
	// Present pods stay, Leaving ones would go, Placed are new.
	Present, Leaving int
	Placed           map[string]int // by node
	// Waiting would fit nowhere, for the reason in Why.
	Waiting int
	Why     string
	// Evicted would be, to make room.
	Evicted []*corev1.Pod

	// Replaced are the pods that a rollout is to replace.
	Replaced int
	// Late find a place only once others of the object have gone, for the reason in WhyLate.
	Late    int
	WhyLate string
	// Left are those that stay, and Unmade the pods that do not come to be made, because a
	// rollout stops when pods find no place; none if it comes to its end.
	Left, Unmade int
}

// PlanMost bounds the pods of a plan. Who makes outlooks keeps to it, too: an object may ask
// for more pods than there is memory for.
const PlanMost = 20_000

// ErrPlanTooLarge says that a plan has more pods than PlanMost.
var ErrPlanTooLarge = fmt.Errorf("more than %d pods", PlanMost)

// Planned is what a plan is about.
type Planned struct {
	Outlooks []controller.Outlook
	// Also are objects that there would be, in place of those of their names.
	Also State
}

// Plan works out what would become of pods, one outlook after the other, in a copy of
// the cluster as it is; outlooks are made of the caches. Pods that wait already are left
// out, but for those for whom room is made.
func (s *Scheduler) Plan(ctx context.Context, make func(*controller.Caches) (Planned, error)) ([]GroupPlan, error) {
	if !s.caches.Synced(ctx) {
		return nil, ctx.Err()
	}
	planned, err := make(s.caches)
	if err != nil {
		return nil, err
	}
	state := stateOfCaches(s.caches)
	state.also(planned.Also)
	state.Algorithm = Algorithms{s.registry.Store()}.Get()
	state.Profiles = s.readProfiles(&profilesSeen{})
	c := coreOf(NewSnapshot(state).cluster)
	for _, claim := range planned.Also.Claims {
		c.provide(claim)
	}
	for _, b := range s.caches.PodDisruptionBudgets.List() {
		c.budgets.set(b)
	}
	for _, p := range s.caches.Pods.List() {
		if c.cluster.wants(p) && p.Status.NominatedNodeName != "" {
			c.cluster.nominations.heed(c.cluster.read(p))
		}
	}
	var plans []GroupPlan
	total := 0
	for i := range planned.Outlooks {
		o := &planned.Outlooks[i]
		if total += o.Want(); total > PlanMost {
			return nil, ErrPlanTooLarge
		}
		plan, err := c.plan(ctx, o)
		if err != nil {
			return nil, err
		}
		plans = append(plans, plan)
	}
	return plans, nil
}

// also adds objects, which count instead of those with their names that are there:
// what is counted later stands. Claims are for core.provide.
func (s *State) also(more State) {
	s.Nodes, s.Namespaces, s.Services = append(s.Nodes, more.Nodes...), append(s.Namespaces, more.Namespaces...), append(s.Services, more.Services...)
	s.ReplicationControllers, s.ReplicaSets = append(s.ReplicationControllers, more.ReplicationControllers...), append(s.ReplicaSets, more.ReplicaSets...)
	s.StatefulSets = append(s.StatefulSets, more.StatefulSets...)
	s.Volumes, s.StorageClasses = append(s.Volumes, more.Volumes...), append(s.StorageClasses, more.StorageClasses...)
}

func stateOfCaches(caches *controller.Caches) State {
	return State{
		Nodes: caches.Nodes.List(), Pods: caches.Pods.List(), Namespaces: caches.Namespaces.List(), Services: caches.Services.List(),
		ReplicationControllers: caches.ReplicationControllers.List(), ReplicaSets: caches.ReplicaSets.List(), StatefulSets: caches.StatefulSets.List(),
		Claims: caches.PersistentVolumeClaims.List(), Volumes: caches.PersistentVolumes.List(),
		StorageClasses: caches.StorageClasses.List(), CSINodes: caches.CSINodes.List(), CSIDrivers: caches.CSIDrivers.List(),
		CSIStorageCapacities: caches.CSIStorageCapacities.List(), VolumeAttachments: caches.VolumeAttachments.List(),
	}
}
