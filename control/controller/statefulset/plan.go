package statefulset

import (
	"cmp"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
)

// burst bounds how many pods that lack one reconcile makes: a set may want more than
// there is memory for.
const burst = 500

// plan is what brings a set's pods a step further.
type plan struct {
	claims []*corev1.PersistentVolumeClaim // to make, before anything else
	owned  []*corev1.PersistentVolumeClaim // to write with other owners
	create []*corev1.Pod
	mend   []*corev1.Pod // to write with the identity that they lack
	remove []*corev1.Pod
	status appsv1.StatefulSetStatus
	again  time.Duration // when a pod will have been ready long enough, 0 for no such pod
}

// revision is a template and the name that pods of it are labelled with.
type revision struct {
	name     string
	template *corev1.PodTemplateSpec
}

// ordered is a plan being made.
type ordered struct {
	set             *appsv1.StatefulSet
	current, update revision
	claim           func(name string) *corev1.PersistentVolumeClaim // nil for none
	now             time.Time

	replicas  []*corev1.Pod // in order of ordinals; those that lack have no UID
	beyond    int           // how many more lack, which are not in replicas
	condemned []*corev1.Pod // beyond the ordinals, the highest first
	plan      plan
}

// makePlan looks at a set, its revisions, its pods and their claims. It does what
// upstream's updateStatefulSet does in one pass.
func makePlan(set *appsv1.StatefulSet, current, update revision, pods []*corev1.Pod, claim func(name string) *corev1.PersistentVolumeClaim, now time.Time) plan {
	o := &ordered{set: set, current: current, update: update, claim: claim, now: now}
	o.count(pods)
	o.sort(pods, burst)
	if set.DeletionTimestamp == nil && o.keep() && o.shrink() && set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		o.roll()
	}
	return o.plan
}

func first(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

func wanted(set *appsv1.StatefulSet) int { return int(ptr.Deref(set.Spec.Replicas, 1)) }

func inRange(set *appsv1.StatefulSet, ordinal int) bool {
	return ordinal >= first(set) && ordinal < first(set)+wanted(set)
}

// parallel: pods need not wait for each other.
func (o *ordered) parallel() bool {
	return o.set.Spec.PodManagementPolicy == appsv1.ParallelPodManagement
}

// sort finds the place of each pod, and the first ordinals that lack one, up to most.
func (o *ordered) sort(pods []*corev1.Pod, most int) {
	var there []*corev1.Pod
	for _, pod := range pods {
		_, ordinal := nameOf(pod)
		switch {
		case ordinal < 0:
		case inRange(o.set, ordinal):
			there = append(there, pod)
		default:
			o.condemned = append(o.condemned, pod)
		}
	}
	byOrdinal := func(a, b *corev1.Pod) int {
		_, i := nameOf(a)
		_, j := nameOf(b)
		return cmp.Compare(i, j)
	}
	slices.SortFunc(o.condemned, func(a, b *corev1.Pod) int { return byOrdinal(b, a) })
	slices.SortFunc(there, byOrdinal)
	lack := max(0, wanted(o.set)-len(there))
	vacant := min(lack, most)
	o.beyond = lack - vacant
	o.replicas = make([]*corev1.Pod, 0, len(there)+vacant)
	for next := first(o.set); len(there) > 0 || vacant > 0; next++ {
		ordinal := -1
		if len(there) > 0 {
			_, ordinal = nameOf(there[0])
		}
		switch {
		case ordinal == next || vacant == 0:
			o.replicas, there, next = append(o.replicas, there[0]), there[1:], ordinal
		default:
			o.replicas = append(o.replicas, o.newPod(next))
			vacant--
		}
	}
}

// place is how many ordinals come before a pod's.
func (o *ordered) place(pod *corev1.Pod) int {
	_, ordinal := nameOf(pod)
	return ordinal - first(o.set)
}

// newPod makes the pod of an ordinal, below the partition of the revision that is being left.
func (o *ordered) newPod(ordinal int) *corev1.Pod {
	below := first(o.set)
	switch s := o.set.Spec.UpdateStrategy; {
	case s.RollingUpdate != nil:
		below += int(ptr.Deref(s.RollingUpdate.Partition, 0))
	case s.Type == appsv1.RollingUpdateStatefulSetStrategyType:
		below += int(o.set.Status.CurrentReplicas)
	}
	if ordinal < below {
		return podOf(o.set, o.current, ordinal)
	}
	return podOf(o.set, o.update, ordinal)
}

func exists(pod *corev1.Pod) bool { return pod.UID != "" }

func (o *ordered) available(pod *corev1.Pod) bool {
	left, ready := controller.AvailableIn(pod, o.set.Spec.MinReadySeconds, o.now)
	return ready && left <= 0
}

// healthy pods run, are available, and are not being deleted.
func (o *ordered) healthy(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && o.available(pod) && pod.DeletionTimestamp == nil
}

// keep makes the pods that lack and replaces those that have finished, in order of
// their ordinals. It is false when the others have to wait.
func (o *ordered) keep() bool {
	for _, pod := range o.replicas {
		if !o.keepOne(pod) && !o.parallel() {
			return false
		}
	}
	return true
}

func (o *ordered) keepOne(pod *corev1.Pod) bool {
	switch {
	case !exists(pod):
		if o.ensureClaims(pod) {
			o.plan.create = append(o.plan.create, pod)
		}
		return false
	case controller.HasFinished(pod):
		if pod.DeletionTimestamp == nil {
			o.plan.remove = append(o.plan.remove, pod)
		}
		return false
	}
	if pod.Status.Phase == corev1.PodPending {
		o.ensureClaims(pod)
	}
	if !o.parallel() && !o.healthy(pod) {
		return false
	}
	o.own(pod)
	if !isAsNamed(o.set, pod) {
		mended := pod.DeepCopy()
		setIdentity(mended)
		o.plan.mend = append(o.plan.mend, mended)
	}
	return true
}

// shrink removes pods beyond the ordinals, the highest first, and each once those
// before it are well, unless it is what ails.
func (o *ordered) shrink() bool {
	for _, pod := range o.condemned {
		o.own(pod)
	}
	ailing := o.ailing()
	for _, pod := range o.condemned {
		switch {
		case o.parallel():
			if pod.DeletionTimestamp == nil {
				o.plan.remove = append(o.plan.remove, pod)
			}
		case pod.DeletionTimestamp != nil, !o.healthy(pod) && pod != ailing:
			return false
		default:
			o.plan.remove = append(o.plan.remove, pod)
			return false
		}
	}
	return true
}

// ailing is the lowest pod that is not well, nil for none.
func (o *ordered) ailing() *corev1.Pod {
	for _, pod := range o.replicas {
		if !o.healthy(pod) {
			return pod
		}
	}
	for _, pod := range slices.Backward(o.condemned) {
		if !o.healthy(pod) {
			return pod
		}
	}
	return nil
}

// roll removes pods of earlier revisions above the partition, the highest first, as many
// as may be unavailable at a time; they are made anew in the place that is free then.
func (o *ordered) roll() {
	partition, most := o.rolling()
	room := most - o.beyond
	for _, pod := range o.replicas {
		if !o.available(pod) || pod.DeletionTimestamp != nil {
			room--
		}
	}
	stale := func(pod *corev1.Pod) bool {
		return exists(pod) && pod.Labels[appsv1.StatefulSetRevisionLabel] != o.update.name && pod.DeletionTimestamp == nil &&
			!slices.Contains(o.plan.remove, pod)
	}
	candidates := slices.DeleteFunc(slices.Clone(o.replicas), func(pod *corev1.Pod) bool { return o.place(pod) < partition })
	slices.Reverse(candidates)
	if o.parallel() {
		// Nobody misses those that are not available, however many.
		for _, pod := range candidates {
			if stale(pod) && !o.available(pod) {
				o.plan.remove = append(o.plan.remove, pod)
			}
		}
	}
	for _, pod := range candidates {
		if room > 0 && stale(pod) {
			o.plan.remove = append(o.plan.remove, pod)
			room--
		}
	}
}

// rolling is from which place on pods are of the present revision, and how many of
// them may be unavailable at a time.
func (o *ordered) rolling() (partition, most int) {
	r := o.set.Spec.UpdateStrategy.RollingUpdate
	if r == nil {
		return 0, 1
	}
	one := intstr.FromInt32(1)
	// What does not parse is refused when it is stored.
	scaled, err := intstr.GetScaledValueFromIntOrPercent(ptr.To(ptr.Deref(r.MaxUnavailable, one)), wanted(o.set), false)
	if err != nil {
		scaled = 1
	}
	return int(ptr.Deref(r.Partition, 0)), max(1, scaled)
}

// count works out the status from the pods that there are.
func (o *ordered) count(pods []*corev1.Pod) {
	s := appsv1.StatefulSetStatus{
		ObservedGeneration: o.set.Generation,
		CurrentRevision:    o.current.name,
		UpdateRevision:     o.update.name,
		CollisionCount:     ptr.To(ptr.Deref(o.set.Status.CollisionCount, 0)),
		Conditions:         o.set.Status.Conditions,
	}
	for _, pod := range pods {
		s.Replicas++
		left, ready := controller.AvailableIn(pod, o.set.Spec.MinReadySeconds, o.now)
		if ready && pod.Status.Phase == corev1.PodRunning {
			s.ReadyReplicas++
			if left <= 0 {
				s.AvailableReplicas++
			} else if o.plan.again == 0 || left < o.plan.again {
				o.plan.again = left
			}
		}
		if pod.DeletionTimestamp != nil {
			continue
		}
		if pod.Labels[appsv1.StatefulSetRevisionLabel] == o.current.name {
			s.CurrentReplicas++
		}
		if pod.Labels[appsv1.StatefulSetRevisionLabel] == o.update.name {
			s.UpdatedReplicas++
		}
	}
	want := int32(wanted(o.set))
	if s.UpdatedReplicas == want && s.ReadyReplicas == want && s.Replicas == want {
		s.CurrentReplicas, s.CurrentRevision = s.UpdatedReplicas, s.UpdateRevision
	}
	o.plan.status = s
}
