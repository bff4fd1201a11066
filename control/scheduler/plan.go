package scheduler

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/controller"
)

// PlanGroup is pods that would be made, all alike.
type PlanGroup struct {
	// Pod is one of them as it would be stored.
	Pod *corev1.Pod
	// Owner is the UID of what keeps them and has pods already, "" for none. Of
	// these as many count as Desired says; with Replaced none, as all would go.
	Owner    types.UID
	Replaced bool
	Desired  int
}

// GroupPlan says where pods of a group would go.
type GroupPlan struct {
	// Present pods stay, Leaving ones would go, Placed are new.
	Present, Leaving int
	Placed           map[string]int // by node
	// Waiting would fit nowhere, for the reason in Why.
	Waiting int
	Why     string
	// Evicted would be, to make room.
	Evicted []*corev1.Pod
}

// planMost bounds the pods of a plan.
const planMost = 20_000

// ErrPlanTooLarge says that a plan has more pods than planMost.
var ErrPlanTooLarge = fmt.Errorf("more than %d pods", planMost)

// Plan works out where pods would go, one group after the other, in a copy of the
// cluster as it is. Pods that wait already are left out, but for those for whom room
// is made.
func (s *Scheduler) Plan(ctx context.Context, groups []PlanGroup) ([]GroupPlan, error) {
	if !s.caches.Synced(ctx) {
		return nil, ctx.Err()
	}
	state := stateOfCaches(s.caches)
	state.Algorithm = Algorithms{s.registry.Store()}.Get()
	state.Profiles = s.readProfiles(&profilesSeen{})
	c := coreOf(NewSnapshot(state).cluster)
	for _, b := range s.caches.PodDisruptionBudgets.List() {
		c.budgets.set(b)
	}
	for _, p := range s.caches.Pods.List() {
		if c.cluster.wants(p) && p.Status.NominatedNodeName != "" {
			c.cluster.nominations.heed(c.cluster.read(p))
		}
	}
	plans := make([]GroupPlan, len(groups))
	total := 0
	for i, g := range groups {
		if total += g.Desired; total > planMost {
			return nil, ErrPlanTooLarge
		}
		plans[i] = c.plan(g, podsKept(s.caches, g.Owner), fmt.Sprint("plan-", i))
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return plans, nil
}

func stateOfCaches(caches *controller.Caches) State {
	return State{
		Nodes: caches.Nodes.List(), Pods: caches.Pods.List(), Namespaces: caches.Namespaces.List(), Services: caches.Services.List(),
		ReplicationControllers: caches.ReplicationControllers.List(), ReplicaSets: caches.ReplicaSets.List(), StatefulSets: caches.StatefulSets.List(),
		Claims: caches.PersistentVolumeClaims.List(), Volumes: caches.PersistentVolumes.List(),
		StorageClasses: caches.StorageClasses.List(), CSINodes: caches.CSINodes.List(),
	}
}

// podsKept are the active pods of an owner, and of the replica sets of a Deployment.
func podsKept(caches *controller.Caches, owner types.UID) (pods []*corev1.Pod) {
	if owner == "" {
		return nil
	}
	owners := []string{string(owner)}
	for _, rs := range caches.ReplicaSets.ByIndex(controller.ByController, string(owner)) {
		owners = append(owners, string(rs.UID))
	}
	for _, uid := range owners {
		for _, p := range caches.Pods.ByIndex(controller.ByController, uid) {
			if controller.IsActive(p) {
				pods = append(pods, p)
			}
		}
	}
	return pods
}

// plan places the pods of a group; names of pods that are made begin with prefix.
func (c *core) plan(g PlanGroup, present []*corev1.Pod, prefix string) GroupPlan {
	plan := GroupPlan{Placed: make(map[string]int), Present: len(present)}
	if g.Replaced {
		for _, p := range present {
			c.removePod(p.UID)
		}
		plan.Present, plan.Leaving = 0, len(present)
	}
	lack := g.Desired - plan.Present
	if lack < 0 {
		plan.Present, plan.Leaving = g.Desired, -lack
	}
	for i := range max(0, lack) {
		pod := g.Pod.DeepCopy()
		pod.Name = fmt.Sprint(prefix, "-", i)
		pod.UID = types.UID(pod.Name)
		pod.Spec.NodeName = ""
		if !c.cluster.wants(pod) {
			plan.Waiting++
			plan.Why = whyLeft(pod)
			continue
		}
		c.setPod(pod)
		c.settlePlan(&plan, pod)
	}
	return plan
}

// whyLeft is why a pod is not decided about.
func whyLeft(pod *corev1.Pod) string {
	if len(pod.Spec.SchedulingGates) > 0 {
		return "has scheduling gates"
	}
	return "is left to scheduler " + pod.Spec.SchedulerName + ", which is no profile here"
}

// settlePlan decides about a pod to the end: who is to be evicted for it is gone
// at once.
func (c *core) settlePlan(plan *GroupPlan, pod *corev1.Pod) {
	for {
		d, ok := c.next()
		switch {
		case !ok:
			return
		case d.entry.pod.UID != pod.UID:
		case d.node != "":
			plan.Placed[d.node]++
			return
		case d.preemption == nil:
			plan.Waiting++
			plan.Why = d.message()
			c.drop(pod.UID)
			return
		default:
			for _, v := range d.preemption.victims {
				c.removePod(v.UID)
				plan.Evicted = append(plan.Evicted, v)
			}
		}
	}
}
