package scheduler

import (
	"cmp"
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/controller"
)

// rollout goes through an outlook step by step, as its controller would if every pod
// that has a node were ready soon: what holds it up is that pods find no place.
type rollout struct {
	*core
	*controller.Outlook
	plan GroupPlan

	made   int                  // how many of Come
	placed int                  // how many of these have a node
	parked map[types.UID]string // those that have none, and why
}

// plan decides about the pods of an outlook.
func (c *core) plan(ctx context.Context, o *controller.Outlook) (GroupPlan, error) {
	r := &rollout{core: c, Outlook: o, parked: map[types.UID]string{}, plan: GroupPlan{Placed: make(map[string]int)}}
	for _, pod := range o.Leave {
		r.leave(pod)
	}
	if len(o.Old) > 0 {
		r.sideBySide(ctx)
	} else {
		r.inTurn(ctx)
	}
	for _, uid := range slices.Sorted(maps.Keys(r.parked)) {
		r.plan.Why = r.parked[uid]
		c.drop(uid)
	}
	r.plan.Waiting, r.plan.Unmade = len(r.parked), len(o.Come)-r.made
	r.plan.Present = len(o.Stay) + r.plan.Left
	return r.plan, ctx.Err()
}

// sideBySide has new pods come as far as there may be more than are wanted, and old
// ones go as far as others do their work, until nothing moves.
func (r *rollout) sideBySide(ctx context.Context) {
	old := slices.SortedStableFunc(slices.Values(r.Old), func(a, b *corev1.Pod) int { return cmp.Compare(works(a), works(b)) })
	working := 0
	for _, pod := range old {
		working += works(pod)
	}
	r.plan.Replaced = len(old)
	least := r.Want() - r.Unavailable
	for moved := true; moved && ctx.Err() == nil; {
		moved = false
		for r.made < len(r.Come) && len(r.Stay)+len(old)+r.made < r.Want()+r.Surge {
			r.make()
			moved = true
		}
		for len(old) > 0 {
			others, left := len(r.Stay)+r.placed, working
			if works(old[0]) == 0 {
				left = len(old) // nobody misses it
			}
			if others+left <= least {
				break
			}
			working -= works(old[0])
			r.leave(old[0])
			r.settle()
			old, moved = old[1:], true
		}
	}
	r.plan.Left = len(old)
}

// works is 1 for a pod that is ready.
func works(pod *corev1.Pod) int {
	if _, ready := controller.ReadySince(pod); ready {
		return 1
	}
	return 0
}

// inTurn has pods come one after the other, some in the place of another.
func (r *rollout) inTurn(ctx context.Context) {
	for _, it := range r.Come {
		if it.Of != nil {
			r.plan.Replaced++
		}
	}
	r.plan.Left = r.plan.Replaced
	beside := 0 // pods without a node that another has not gone for
	for _, it := range r.Come {
		switch {
		case ctx.Err() != nil, r.Ordered && len(r.parked) > 0:
			return
		case it.Of == nil:
			r.make()
		case r.Surge > 0 && beside >= r.Surge, r.Surge == 0 && len(r.parked) >= r.Unavailable:
			return
		case r.Surge > 0 && !r.make():
			beside++
		default:
			r.leave(it.Of)
			r.plan.Left--
			if r.Surge == 0 {
				r.make()
			}
		}
	}
}

// leave takes a pod away.
func (r *rollout) leave(pod *corev1.Pod) {
	r.removePod(pod.UID)
	r.plan.Leaving++
}

// make has the next pod come, and says whether it finds a place.
func (r *rollout) make() bool {
	it := r.Come[r.made]
	r.made++
	for _, claim := range it.Claims {
		r.provide(claim)
	}
	if node := it.Pod.Spec.NodeName; node != "" { // nobody decides
		r.setPod(it.Pod)
		r.plan.Placed[node]++
		r.placed++
		return true
	}
	if !r.cluster.wants(it.Pod) {
		r.parked[it.Pod.UID] = whyLeft(it.Pod)
		return false
	}
	r.setPod(it.Pod)
	r.settle()
	_, waits := r.parked[it.Pod.UID]
	return !waits
}

// settle decides about the pods that wait, to the end: who is to be evicted for one is
// gone at once.
func (r *rollout) settle() {
	for {
		d, ok := r.next()
		if !ok {
			return
		}
		uid := d.entry.pod.UID
		switch {
		case d.node != "":
			r.plan.Placed[d.node]++
			r.placed++
			if why, waited := r.parked[uid]; waited {
				r.plan.Late++
				r.plan.WhyLate = why
				delete(r.parked, uid)
			}
		case d.preemption == nil:
			r.parked[uid] = d.message()
		default:
			for _, v := range d.preemption.victims {
				r.removePod(v.UID)
				r.plan.Evicted = append(r.plan.Evicted, v)
			}
		}
	}
}

// whyLeft is why a pod is not decided about.
func whyLeft(pod *corev1.Pod) string {
	if len(pod.Spec.SchedulingGates) > 0 {
		return "has scheduling gates"
	}
	return "is left to scheduler " + pod.Spec.SchedulerName + ", which is no profile here"
}
