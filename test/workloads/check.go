package workloads

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/musterhq/muster/control/store"
)

// The promises.
const (
	finalState   = "what users ask for is reached"
	enough       = "never fewer available than asked for"
	notTooMany   = "never more than asked for"
	oneOrdinal   = "never two of one ordinal"
	inOrder      = "ordinals come and go in order"
	countsExact  = "a job's counts are exact"
	onceEach     = "no index succeeds twice"
	onePerNode   = "one daemon per node"
	livingOwner  = "every pod has its living owner"
	nothingLeft  = "nothing is left over"
	neverUnbound = "a pod keeps its node"
)

// Violation is a promise that was broken.
type Violation struct {
	Promise  string
	Revision uint64 // 0: of the whole
	Why      string
}

func (v Violation) String() string {
	if v.Revision == 0 {
		return fmt.Sprintf("%s: %s", v.Promise, v.Why)
	}
	return fmt.Sprintf("%s: revision %d: %s", v.Promise, v.Revision, v.Why)
}

// Check looks at every state that there was.
func Check(events []Event) []Violation {
	c := &checker{
		objects: map[*store.Spec]map[string]store.Object{}, byUID: map[types.UID]store.Object{},
		floors: map[types.UID]*band{}, ceilings: map[types.UID]*band{}, jobs: map[types.UID]*tally{}, broken: map[string]bool{},
	}
	for _, spec := range kinds {
		c.objects[spec] = map[string]store.Object{}
	}
	for _, e := range events {
		c.revision = e.Revision
		c.take(e)
	}
	c.end()
	return c.found
}

type checker struct {
	revision uint64
	objects  map[*store.Spec]map[string]store.Object
	byUID    map[types.UID]store.Object
	// floors and ceilings are what was asked of each deployment or set.
	floors, ceilings map[types.UID]*band
	jobs             map[types.UID]*tally
	broken           map[string]bool // by promise and object: each is told once
	found            []Violation
}

func (c *checker) violated(promise, about, format string, args ...any) {
	if key := promise + about; !c.broken[key] {
		c.broken[key] = true
		c.found = append(c.found, Violation{promise, c.revision, about + ": " + fmt.Sprintf(format, args...)})
	}
}

// band is a bound that follows what is asked for: a new one counts once it was
// kept, and until then whichever of both is wider.
type band struct {
	asked, counts int
	known         bool
}

// floor is the least that there must be, now that so many are there and so many
// are asked for.
func (b *band) floor(asked, are int) int {
	if !b.known {
		b.asked, b.known = asked, true
	}
	if asked != b.asked {
		b.asked, b.counts = asked, min(b.counts, asked)
	}
	if are >= asked {
		b.counts = asked
	}
	return b.counts
}

// ceiling is the most that there may be.
func (b *band) ceiling(asked, are int) int {
	if !b.known {
		b.asked, b.counts, b.known = asked, asked, true
	}
	if asked != b.asked {
		b.asked, b.counts = asked, max(b.counts, asked)
	}
	if are <= asked {
		b.counts = asked
	}
	return b.counts
}

func bandOf(bands map[types.UID]*band, uid types.UID) *band {
	if bands[uid] == nil {
		bands[uid] = &band{}
	}
	return bands[uid]
}

func (c *checker) take(e Event) {
	before := c.objects[e.Spec][e.Key]
	if e.Object == nil {
		delete(c.objects[e.Spec], e.Key)
		if before != nil {
			delete(c.byUID, before.GetUID())
		}
	} else {
		c.objects[e.Spec][e.Key] = e.Object
		c.byUID[e.Object.GetUID()] = e.Object
	}
	if e.Spec == store.Pods {
		was, _ := before.(*corev1.Pod)
		is, _ := e.Object.(*corev1.Pod)
		c.pod(was, is)
	}
	for _, obj := range c.objects[store.Deployments] {
		c.deployment(obj.(*appsv1.Deployment))
	}
	for _, obj := range c.objects[store.ReplicaSets] {
		c.replicas(obj.(*appsv1.ReplicaSet))
	}
	for _, obj := range c.objects[store.StatefulSets] {
		c.stateful(obj.(*appsv1.StatefulSet))
	}
	for _, obj := range c.objects[store.DaemonSets] {
		c.daemons(obj.(*appsv1.DaemonSet))
	}
	if j, ok := e.Object.(*batchv1.Job); ok {
		c.job(j)
	}
}

// pod looks at one step of one pod; either may be nil.
func (c *checker) pod(was, is *corev1.Pod) {
	if was != nil && is != nil && was.UID == is.UID && was.Spec.NodeName != "" && was.Spec.NodeName != is.Spec.NodeName {
		c.violated(neverUnbound, is.Name, "bound to %s, and then to %q", was.Spec.NodeName, is.Spec.NodeName)
	}
	for _, p := range []*corev1.Pod{was, is} {
		if p == nil {
			continue
		}
		if ref := metav1.GetControllerOf(p); ref != nil {
			switch owner := c.byUID[ref.UID].(type) {
			case *appsv1.StatefulSet:
				c.ordinal(owner, was, is)
			case *batchv1.Job:
				c.count(owner, was, is)
			}
			break
		}
	}
}

func (c *checker) podsOf(uid types.UID) []*corev1.Pod {
	var all []*corev1.Pod
	for _, obj := range c.objects[store.Pods] {
		if ref := metav1.GetControllerOf(obj); ref != nil && ref.UID == uid {
			all = append(all, obj.(*corev1.Pod))
		}
	}
	return all
}

func isLive(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

func isReady(p *corev1.Pod) bool {
	return isLive(p) && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func countPods(pods []*corev1.Pod) (live, ready int) {
	for _, p := range pods {
		if isLive(p) {
			live++
		}
		if isReady(p) {
			ready++
		}
	}
	return live, ready
}

func scaled(value *intstr.IntOrString, of int32, up bool) int {
	n, err := intstr.GetScaledValueFromIntOrPercent(value, int(of), up)
	if err != nil {
		return 0
	}
	return n
}

func (c *checker) deployment(d *appsv1.Deployment) {
	if d.DeletionTimestamp != nil {
		return
	}
	var pods []*corev1.Pod
	asked := 0
	for _, obj := range c.objects[store.ReplicaSets] {
		if set := obj.(*appsv1.ReplicaSet); metav1.IsControlledBy(set, d) {
			pods = append(pods, c.podsOf(set.UID)...)
			asked += int(*set.Spec.Replicas)
		}
	}
	_, ready := countPods(pods)
	rolling := d.Spec.Strategy.RollingUpdate
	if least := bandOf(c.floors, d.UID).floor(int(*d.Spec.Replicas)-scaled(rolling.MaxUnavailable, *d.Spec.Replicas, false), ready); ready < least {
		c.violated(enough, "deployment "+d.Name, "%d available, want at least %d of %d", ready, least, *d.Spec.Replicas)
	}
	// As upstream, a surge is counted in what replica sets are asked for: one may make
	// its pods before another has deleted its own.
	if most := bandOf(c.ceilings, d.UID).ceiling(int(*d.Spec.Replicas)+scaled(rolling.MaxSurge, *d.Spec.Replicas, true), asked); asked > most {
		c.violated(notTooMany, "deployment "+d.Name, "%d pods are asked for, want at most %d for %d", asked, most, *d.Spec.Replicas)
	}
}

func (c *checker) replicas(s *appsv1.ReplicaSet) {
	if s.DeletionTimestamp != nil {
		return
	}
	live, _ := countPods(c.podsOf(s.UID))
	if most := bandOf(c.ceilings, s.UID).ceiling(int(*s.Spec.Replicas), live); live > most {
		c.violated(notTooMany, "replica set "+s.Name, "%d pods, want at most %d", live, most)
	}
}

func (c *checker) stateful(s *appsv1.StatefulSet) {
	if s.DeletionTimestamp != nil {
		return
	}
	_, ready := countPods(c.podsOf(s.UID))
	if least := bandOf(c.floors, s.UID).floor(int(*s.Spec.Replicas)-1, ready); ready < least {
		c.violated(enough, "stateful set "+s.Name, "%d ready, want at least %d of %d", ready, least, *s.Spec.Replicas)
	}
}

// ordinal looks at one step of a stateful set's pod.
func (c *checker) ordinal(s *appsv1.StatefulSet, was, is *corev1.Pod) {
	if s.DeletionTimestamp != nil || is == nil {
		return
	}
	own := ordinalOf(is)
	others := map[int]*corev1.Pod{}
	for _, p := range c.podsOf(s.UID) {
		others[ordinalOf(p)] = p
	}
	switch {
	case was == nil:
		for i := range own {
			if others[i] == nil || !isReady(others[i]) {
				c.violated(inOrder, is.Name, "made before %s-%d was ready", s.Name, i)
			}
		}
	case was.DeletionTimestamp == nil && is.DeletionTimestamp != nil && own >= int(*s.Spec.Replicas):
		for i, p := range others {
			if i > own {
				c.violated(inOrder, is.Name, "scaled down before %s was gone", p.Name)
			}
		}
	}
}

func ordinalOf(p *corev1.Pod) int {
	n, err := strconv.Atoi(p.Labels[appsv1.PodIndexLabel])
	if err != nil {
		return -1
	}
	return n
}

func (c *checker) daemons(s *appsv1.DaemonSet) {
	if s.DeletionTimestamp != nil {
		return
	}
	pods := c.podsOf(s.UID)
	_, ready := countPods(pods)
	if least := bandOf(c.floors, s.UID).floor(machines-1, ready); ready < least {
		c.violated(enough, "daemon set "+s.Name, "%d ready, want at least %d of %d", ready, least, machines)
	}
	on := map[string]string{}
	for _, p := range pods {
		if p.Spec.NodeName == "" || !isLive(p) {
			continue
		}
		if other := on[p.Spec.NodeName]; other != "" {
			c.violated(onePerNode, "daemon set "+s.Name, "%s and %s on %s", other, p.Name, p.Spec.NodeName)
		}
		on[p.Spec.NodeName] = p.Name
	}
}

// tally is what became of a job's pods, by what they said themselves.
type tally struct {
	succeeded, failed map[types.UID]bool
	byIndex           map[string]types.UID // that succeeded
}

func (c *checker) tallyOf(j *batchv1.Job) *tally {
	if c.jobs[j.UID] == nil {
		c.jobs[j.UID] = &tally{map[types.UID]bool{}, map[types.UID]bool{}, map[string]types.UID{}}
	}
	return c.jobs[j.UID]
}

// count looks at one step of a job's pod.
func (c *checker) count(j *batchv1.Job, was, is *corev1.Pod) {
	if is == nil {
		return
	}
	t := c.tallyOf(j)
	index, indexed := is.Annotations[batchv1.JobCompletionIndexAnnotation]
	switch is.Status.Phase {
	case corev1.PodSucceeded:
		t.succeeded[is.UID] = true
		if other := t.byIndex[index]; indexed && other != "" && other != is.UID {
			c.violated(onceEach, "job "+j.Name, "index %s by pod %s and by %s", index, other, is.UID)
		}
		t.byIndex[index] = is.UID
	case corev1.PodFailed:
		t.failed[is.UID] = true
	}
	if was != nil || j.DeletionTimestamp != nil {
		return
	}
	live, _ := countPods(c.podsOf(j.UID))
	if most := int(*j.Spec.Parallelism); live > most {
		c.violated(notTooMany, "job "+j.Name, "%d pods at a time, want at most %d", live, most)
	}
	for _, p := range c.podsOf(j.UID) {
		if indexed && p.UID != is.UID && isLive(p) && p.Annotations[batchv1.JobCompletionIndexAnnotation] == index {
			c.violated(onceEach, "job "+j.Name, "index %s is run by %s and by %s", index, p.Name, is.Name)
		}
	}
	if indexed && t.byIndex[index] != "" {
		c.violated(onceEach, "job "+j.Name, "index %s is run again by %s", index, is.Name)
	}
}

// job looks at what a job says of itself.
func (c *checker) job(j *batchv1.Job) {
	t := c.tallyOf(j)
	if s := j.Status; int(s.Succeeded) > len(t.succeeded) || int(s.Failed) > len(t.failed) {
		c.violated(countsExact, "job "+j.Name, "says %d succeeded and %d failed, of %d and %d", s.Succeeded, s.Failed, len(t.succeeded), len(t.failed))
	}
	for _, condition := range j.Status.Conditions {
		if condition.Status != corev1.ConditionTrue {
			continue
		}
		switch condition.Type {
		case batchv1.JobComplete:
			if want := *j.Spec.Completions; j.Status.Succeeded != want || len(t.succeeded) != int(want) {
				c.violated(countsExact, "job "+j.Name, "complete with %d succeeded (%d pods), want %d", j.Status.Succeeded, len(t.succeeded), want)
			}
		case batchv1.JobFailed:
			if want := *j.Spec.BackoffLimit + 1; j.Status.Failed != want || len(t.failed) != int(want) {
				c.violated(countsExact, "job "+j.Name, "failed with %d failed (%d pods), want %d", j.Status.Failed, len(t.failed), want)
			}
		}
	}
}

// end looks at what is left. All users have taken away what they made.
func (c *checker) end() {
	c.revision = 0
	for _, spec := range kinds {
		for _, key := range slices.Sorted(maps.Keys(c.objects[spec])) {
			obj := c.objects[spec][key]
			if ref := metav1.GetControllerOf(obj); ref != nil && c.byUID[ref.UID] == nil {
				c.violated(livingOwner, key, "its %s %s is gone", ref.Kind, ref.Name)
			}
			c.violated(nothingLeft, key, "it is still there")
		}
	}
}
