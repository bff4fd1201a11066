package scheduler

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/store"
)

const (
	evictionWorkers = 16
	// evictionPause is between two looks whether what has to be written before an
	// eviction is.
	evictionPause = 5 * time.Millisecond
)

// evictions carries out what preemption has decided, beside the decisions. It holds
// each victim once, and tries again until the victim is on its way out or the
// pod that it is for waits there no more. That pod's nomination is written first.
type evictions struct {
	scheduler *Scheduler
	loop      *controller.Loop[types.NamespacedName]

	mu      sync.Mutex
	waiting map[types.NamespacedName]eviction
}

// eviction is a victim, for whom it goes, and from where.
type eviction struct {
	victim    types.UID
	preemptor *corev1.Pod
	node      string
}

func newEvictions(s *Scheduler) *evictions {
	v := &evictions{scheduler: s, waiting: make(map[types.NamespacedName]eviction)}
	v.loop = controller.NewLoop("scheduler-evictions", evictionWorkers, s.log, v.evict)
	return v
}

// makeRoom has the victims of a preemption evicted; it never waits.
func (s *Scheduler) makeRoom(preemptor *corev1.Pod, p *preemption) {
	for _, pod := range p.outranked {
		s.reports.tell(pod, report{nominated: new(string)})
	}
	for _, victim := range p.victims {
		if victim.DeletionTimestamp != nil {
			continue // it goes already
		}
		k := key(victim)
		s.evictions.mu.Lock()
		s.evictions.waiting[k] = eviction{victim.UID, preemptor, p.node}
		s.evictions.mu.Unlock()
		s.evictions.loop.Add(k)
	}
}

func (v *evictions) evict(ctx context.Context, k types.NamespacedName) error {
	v.mu.Lock()
	it, ok := v.waiting[k]
	v.mu.Unlock()
	if !ok {
		return nil
	}
	s := v.scheduler
	wanted := false
	err := s.ask(ctx, func(c *core) {
		wanted = c.evicting[it.victim] == it.preemptor.UID && c.cluster.nominations.node(it.preemptor.UID) == it.node && !s.paused()
		if !wanted {
			c.spared(it.victim, it.preemptor.UID)
		}
	})
	if err != nil || !wanted {
		v.done(k, it)
		return err
	}
	if !s.nominatedTo(it.preemptor, it.node) || !s.boundIfThere(k, it.victim) {
		v.loop.AddAfter(k, evictionPause)
		return nil
	}
	victim, err := s.registry.Preempt(ctx, k.Namespace, k.Name, it.victim,
		fmt.Sprintf("%s: preempting to accommodate a higher priority pod", it.preemptor.Spec.SchedulerName))
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		// It is gone; another may have its name.
	case err != nil:
		return err
	case victim != nil:
		s.log.Debug("pod evicted for another", "victim", k, "pod", key(it.preemptor), "node", it.node)
		s.eventsBy(it.preemptor).Event(store.Pods, victim, corev1.EventTypeNormal, "Preempted",
			fmt.Sprintf("Preempted by pod %s on node %s", it.preemptor.UID, it.node))
	}
	v.done(k, it)
	return nil
}

// nominatedTo says whether the store knows for which node the pod waits. Only then
// would a new leader know, too, and not evict others.
func (s *Scheduler) nominatedTo(pod *corev1.Pod, node string) bool {
	now, ok := s.caches.Pods.Get(pod.Namespace, pod.Name)
	return ok && now.UID == pod.UID && now.Status.NominatedNodeName == node
}

// boundIfThere is false while the binding of a victim is being written.
func (s *Scheduler) boundIfThere(k types.NamespacedName, uid types.UID) bool {
	now, ok := s.caches.Pods.Get(k.Namespace, k.Name)
	return !ok || now.UID != uid || now.Spec.NodeName != ""
}

func (s *Scheduler) paused() bool { return Brake{s.registry.Store()}.Paused() != nil }

func (v *evictions) done(k types.NamespacedName, it eviction) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.waiting[k] == it {
		delete(v.waiting, k)
	}
}
