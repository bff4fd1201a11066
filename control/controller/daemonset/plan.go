package daemonset

import (
	"cmp"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/musterhq/muster/control/controller"
)

// burst bounds how many pods one reconcile makes or deletes.
const burst = 250

// plan is what brings a set's pods to where they should be.
type plan struct {
	adopt, release []*corev1.Pod // before anything else
	create         []string      // nodes that need a pod
	remove         []*corev1.Pod
	ended          []*corev1.Pod // pods that have finished, to be replaced in time
	status         appsv1.DaemonSetStatus
	// again is when a pod will have been ready long enough, 0 for no such pod.
	again time.Duration
}

// daemons is a plan being made.
type daemons struct {
	ds     *appsv1.DaemonSet
	hash   string
	now    time.Time
	nodes  []*corev1.Node
	onNode map[string][]*corev1.Pod // the best first
	fits   map[string]bool          // whether a pod should run on a node
}

// makePlan looks at a set, the hash of its template, all nodes, and the pods that it
// keeps or that nobody does. Pods that are being deleted still hold their node.
func makePlan(ds *appsv1.DaemonSet, hash string, nodes []*corev1.Node, kept, loose []*corev1.Pod, now time.Time) plan {
	var p plan
	var own []*corev1.Pod
	own, p.adopt, p.release = controller.ClaimedPods(ds, controller.SelectorOf(ds.Spec.Selector), kept, loose)
	d := &daemons{ds: ds, hash: hash, now: now, nodes: nodes, onNode: map[string][]*corev1.Pod{}, fits: map[string]bool{}}
	slices.SortFunc(d.nodes, func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	for _, pod := range own {
		if node := targetOf(pod); node != "" && !(controller.HasFinished(pod) && pod.DeletionTimestamp != nil) {
			d.onNode[node] = append(d.onNode[node], pod)
		}
	}
	for _, pods := range d.onNode {
		slices.SortFunc(pods, byAge)
	}
	d.place(&p)
	if len(p.create)+len(p.remove)+len(p.ended) == 0 && ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		d.update(&p)
	}
	p.create = p.create[:min(len(p.create), burst)]
	p.remove = p.remove[:min(len(p.remove), burst)]
	p.status, p.again = d.count()
	return p
}

// byAge puts bound pods first, then older ones.
func byAge(a, b *corev1.Pod) int {
	bound := func(p *corev1.Pod) int {
		if p.Spec.NodeName != "" {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(bound(a), bound(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// place finds nodes without a pod, and pods that are too many or in the wrong place.
func (d *daemons) place(p *plan) {
	where := newFit(d.ds)
	known := map[string]bool{}
	for _, node := range d.nodes {
		known[node.Name] = true
		run, stay := where.on(node)
		d.fits[node.Name] = run
		pods := d.onNode[node.Name]
		switch {
		case run && len(pods) == 0:
			p.create = append(p.create, node.Name)
		case stay:
			d.placeOn(p, node.Name, run, pods)
		default:
			for _, pod := range pods {
				if pod.DeletionTimestamp == nil {
					p.remove = append(p.remove, pod)
				}
			}
		}
	}
	for _, node := range slices.Sorted(maps.Keys(d.onNode)) {
		for _, pod := range d.onNode[node] {
			if !known[node] && pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil {
				p.remove = append(p.remove, pod) // nobody will ever bind it
			}
		}
	}
}

// placeOn leaves one pod on a node, or where pods may surge one of each revision.
func (d *daemons) placeOn(p *plan, node string, run bool, pods []*corev1.Pod) {
	var running []*corev1.Pod
	for _, pod := range pods {
		switch {
		case pod.DeletionTimestamp != nil:
		case controller.HasFinished(pod):
			p.ended = append(p.ended, pod)
		default:
			running = append(running, pod)
		}
	}
	surges := d.surge(1) > 0
	switch {
	case len(running) == 0 && surges && run && !slices.ContainsFunc(p.ended, func(e *corev1.Pod) bool { return targetOf(e) == node }):
		p.create = append(p.create, node)
		return
	case len(running) <= 1:
		return
	case !surges:
		p.remove = append(p.remove, running[1:]...)
		return
	}
	var fresh, old *corev1.Pod
	for _, pod := range running {
		switch {
		case d.isFresh(pod) && fresh == nil:
			fresh = pod
		case !d.isFresh(pod) && old == nil:
			old = pod
		default:
			p.remove = append(p.remove, pod)
		}
	}
	if fresh != nil && old != nil {
		if _, ready := controller.ReadySince(old); !ready || d.available(fresh) {
			p.remove = append(p.remove, old)
		}
	}
}

// update replaces pods of earlier revisions, as many at a time as may be missing, or
// as may be there beside the old ones.
func (d *daemons) update(p *plan) {
	desired := 0
	for _, node := range d.nodes {
		if d.fits[node.Name] {
			desired++
		}
	}
	surge, unavailable := d.surge(desired), d.unavailable(desired)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	if surge > 0 {
		d.updateBeside(p, desired, surge)
		return
	}
	missing := 0
	var candidates []*corev1.Pod
	for _, node := range d.places() {
		fresh, old, ok := d.revisionsOn(node)
		switch {
		case !ok || (fresh == nil) == (old == nil):
			missing++
		case fresh != nil:
			if !d.available(fresh) {
				missing++
			}
		case !d.available(old):
			p.remove = append(p.remove, old) // nobody misses it
			missing++
		default:
			candidates = append(candidates, old)
		}
	}
	p.remove = append(p.remove, candidates[:max(0, min(unavailable-missing, len(candidates)))]...)
}

func (d *daemons) updateBeside(p *plan, desired, surge int) {
	surging, available := 0, 0
	var candidates []string
	var misplaced []*corev1.Pod
	for _, node := range d.places() {
		fresh, old, ok := d.revisionsOn(node)
		if !ok {
			surging++
			continue
		}
		if has := cmp.Or(old, fresh); has != nil && d.available(has) {
			available++
		}
		switch {
		case old == nil:
		case fresh != nil && d.available(fresh):
			p.remove = append(p.remove, old)
		case fresh != nil:
			surging++
		case !d.fits[node] && !d.available(old):
			p.remove = append(p.remove, old)
		case !d.fits[node]:
			misplaced = append(misplaced, old)
		case !d.available(old):
			p.create = append(p.create, node)
		default:
			candidates = append(candidates, node)
		}
	}
	p.remove = append(p.remove, misplaced[:max(0, min(available-desired, len(misplaced)))]...)
	p.create = append(p.create, candidates[:max(0, min(surge-surging, len(candidates)))]...)
}

// places are the nodes that have a pod or should.
func (d *daemons) places() []string {
	all := map[string]bool{}
	for node := range d.onNode {
		all[node] = true
	}
	for node, fits := range d.fits {
		if fits {
			all[node] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// revisionsOn are the pods on a node, of this revision and of another; not ok when
// there are several of one.
func (d *daemons) revisionsOn(node string) (fresh, old *corev1.Pod, ok bool) {
	for _, pod := range d.onNode[node] {
		if pod.DeletionTimestamp != nil {
			continue
		}
		which := &old
		if d.isFresh(pod) {
			which = &fresh
		}
		if *which != nil {
			return nil, nil, false
		}
		*which = pod
	}
	return fresh, old, true
}

func (d *daemons) isFresh(pod *corev1.Pod) bool {
	generation := d.ds.Annotations[appsv1.DeprecatedTemplateGeneration]
	return pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == d.hash || generation != "" && pod.Labels[generationLabel] == generation
}

func (d *daemons) available(pod *corev1.Pod) bool {
	left, ready := controller.AvailableIn(pod, d.ds.Spec.MinReadySeconds, d.now)
	return ready && left <= 0
}

func (d *daemons) surge(of int) int {
	if r := d.ds.Spec.UpdateStrategy.RollingUpdate; r != nil && d.ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		return scaled(r.MaxSurge, of)
	}
	return 0
}

func (d *daemons) unavailable(of int) int {
	if r := d.ds.Spec.UpdateStrategy.RollingUpdate; r != nil {
		return scaled(r.MaxUnavailable, of)
	}
	return 0
}

// scaled rounds up; what does not parse is refused when it is stored, and counts as 0.
func scaled(n *intstr.IntOrString, of int) int {
	if n == nil {
		return 0
	}
	count, _ := intstr.GetScaledValueFromIntOrPercent(n, of, true)
	return count
}

func (d *daemons) count() (appsv1.DaemonSetStatus, time.Duration) {
	status := appsv1.DaemonSetStatus{
		ObservedGeneration: d.ds.Generation,
		CollisionCount:     d.ds.Status.CollisionCount,
		Conditions:         d.ds.Status.Conditions,
	}
	again := time.Duration(0)
	for _, node := range d.nodes {
		pods := d.onNode[node.Name]
		switch {
		case !d.fits[node.Name]:
			if len(pods) > 0 {
				status.NumberMisscheduled++
			}
			continue
		case len(pods) == 0:
			status.DesiredNumberScheduled++
			continue
		}
		status.DesiredNumberScheduled++
		status.CurrentNumberScheduled++
		if d.isFresh(pods[0]) {
			status.UpdatedNumberScheduled++
		}
		left, ready := controller.AvailableIn(pods[0], d.ds.Spec.MinReadySeconds, d.now)
		if ready {
			status.NumberReady++
		}
		if ready && left <= 0 {
			status.NumberAvailable++
		}
		// Of two on a node the other may be the one that an update waits for.
		for _, pod := range pods {
			if left, ready := controller.AvailableIn(pod, d.ds.Spec.MinReadySeconds, d.now); ready && left > 0 && (again == 0 || left < again) {
				again = left
			}
		}
	}
	status.NumberUnavailable = status.DesiredNumberScheduled - status.NumberAvailable
	return status, again
}
