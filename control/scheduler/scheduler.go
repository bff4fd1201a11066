// Package scheduler finds a node for every pod that has none: it filters the
// nodes that can take the pod, scores them, and writes the binding. What runs
// the pod there is the agent's business, and what made it a controller's.
//
// One goroutine decides, from its own picture of the cluster (cluster) that
// caches keep current; it never waits for a write. Bindings are written in
// batches, one in flight while the next is decided. See DESIGN.md.
package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const (
	// batchMost bounds how many bindings are written, or decided ahead, at a time.
	batchMost = 512
	// sampleDefault is how many nodes that fit are scored. Upstream scores 100 of
	// up to 100 nodes and half of a thousand; more than a hundred candidates make
	// no placement visibly better.
	sampleDefault = 100
)

// Config is what a scheduler of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Caches   *controller.Caches
	Events   *controller.Recorder
	// Sample is how many nodes that fit are scored for a pod, 0 for the default.
	Sample int
	Logger *slog.Logger
}

// Scheduler places pods whose spec.schedulerName is that of a profile;
// default-scheduler always is one.
type Scheduler struct {
	registry *resource.Registry
	caches   *controller.Caches
	events   *controller.Recorder
	log      *slog.Logger
	sample   int

	inbox     *inbox
	asked     chan func(*core) // questions, see ask
	ended     chan struct{}    // closed when nobody answers them any more
	batches   chan []decision  // to bind; holds one
	bound     chan []outcome   // from bind; holds one
	reports   *reports
	evictions *evictions
	// what is heard, and to be written, of pods' volumes
	volumeNews   *volumeNews
	volumeWrites *volumeWrites
}

// outcome is what became of a decision's write.
type outcome struct {
	decision
	err error
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Scheduler {
	s := &Scheduler{
		registry: cfg.Registry,
		caches:   cfg.Caches,
		events:   cfg.Events,
		log:      cfg.Logger,
		sample:   cfg.Sample,
		inbox:    newInbox(),
		asked:    make(chan func(*core)),
		ended:    make(chan struct{}),
		batches:  make(chan []decision, 1),
		bound:    make(chan []outcome, 1),
	}
	if s.sample <= 0 {
		s.sample = sampleDefault
	}
	s.reports = newReports(s)
	s.volumeWrites = newVolumeWrites(s)
	s.volumeNews = newVolumeNews(s.caches, s.inbox)
	s.evictions = newEvictions(s)
	s.caches.Pods.OnChange(s.inbox.pod)
	s.caches.Nodes.OnChange(s.inbox.node)
	s.inbox.follow(s.caches)
	s.caches.PodDisruptionBudgets.OnChange(s.inbox.budget)
	return s
}

// Run schedules until ctx ends. It runs once.
func (s *Scheduler) Run(ctx context.Context) error {
	defer close(s.ended)
	// Deciding on half of the pods would overfill nodes.
	if !s.caches.Synced(ctx) {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.decide(ctx) })
	g.Go(func() error { return s.bind(ctx) })
	g.Go(func() error { return s.reports.loop.Run(ctx) })
	g.Go(func() error { return s.volumeWrites.loop.Run(ctx) })
	g.Go(func() error { return s.evictions.loop.Run(ctx) })
	g.Go(func() error { return s.followSettings(ctx) })
	return g.Wait()
}

// decide owns the core. It sleeps until something happened.
func (s *Scheduler) decide(ctx context.Context) error {
	core := newCore(s.sample)
	profiles := &profilesSeen{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var ready []decision
	binding := false
	var brake held
	for {
		if err := s.hear(ctx, core, profiles); err != nil {
			return nil // ctx has ended
		}
		now := time.Now()
		next, waiting := core.queue.due(now)
		more := !s.holds(core, &brake, &ready, now)
		if at := brake.tellAt; !at.IsZero() && (!waiting || at.Before(next)) {
			next, waiting = at, true
		}
		if waiting {
			timer.Reset(time.Until(next))
		} else {
			timer.Stop()
		}
		if more {
			ready = append(ready, core.takeDue()...)
		}
		// A bounded stretch, so that news and the binder are not kept waiting.
		for i := 0; more && i < batchMost && len(ready) < batchMost; i++ {
			var d decision
			if d, more = core.next(); !more {
				break
			}
			if len(d.volumes) > 0 {
				s.volumeWrites.add(d)
				continue
			}
			if d.diagnosis == nil {
				ready = append(ready, d)
				continue
			}
			s.reports.tell(d.entry.pod, report{reason: corev1.PodReasonUnschedulable, message: d.message(), nominated: d.nominated})
			if d.preemption != nil {
				s.makeRoom(d.entry.pod, d.preemption)
			}
		}
		if !binding && len(ready) > 0 {
			s.batches <- ready
			ready, binding = nil, true
		}
		if more && len(ready) < batchMost {
			select {
			case <-ctx.Done():
				return nil
			case question := <-s.asked:
				question(core)
			case outcomes := <-s.bound:
				binding = false
				s.settle(core, outcomes)
			default:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.inbox.arrived:
		case <-timer.C:
		case question := <-s.asked:
			question(core)
		case outcomes := <-s.bound:
			binding = false
			s.settle(core, outcomes)
		}
	}
}

// hear tells the core what caches have reported, and what is set. Nodes, namespaces, claims and
// volumes are as new as the pods at least: who cordons a node and then creates a pod finds that it
// does not go there.
func (s *Scheduler) hear(ctx context.Context, core *core, seen *profilesSeen) error {
	pods, written := s.inbox.takePods(), s.volumeWrites.take()
	revision := s.registry.Store().Revision()
	caches := []interface {
		WaitRevision(context.Context, uint64) error
	}{s.caches.Nodes, s.caches.Namespaces, s.caches.StorageClasses, s.caches.PersistentVolumes, s.caches.PersistentVolumeClaims}
	profiles := s.readProfiles(seen)
	if profiles.hardDefaults {
		caches = append(caches, s.caches.Services, s.caches.ReplicationControllers, s.caches.ReplicaSets, s.caches.StatefulSets)
	}
	for _, cache := range caches {
		if err := cache.WaitRevision(ctx, revision); err != nil {
			return err
		}
	}
	core.cluster.algorithm = Algorithms{s.registry.Store()}.Get()
	for _, means := range s.inbox.takeOthers() {
		means(core.cluster)
	}
	core.setProfiles(profiles)
	core.freshen()
	for name, node := range s.inbox.takeNodes() {
		if node == nil {
			core.removeNode(name)
		} else {
			core.setNode(node)
		}
	}
	s.volumeNews.tell(core)
	s.settleVolumes(core, written)
	for _, b := range s.inbox.takeBudgets() {
		if b.gone {
			core.budgets.remove(b.PodDisruptionBudget)
		} else {
			core.budgets.set(b.PodDisruptionBudget)
		}
	}
	for uid, pod := range pods {
		if pod == nil {
			core.removePod(uid)
		} else {
			core.setPod(pod)
		}
	}
	return nil
}

// settle takes back what could not be written. What was written the cache will show.
func (s *Scheduler) settle(core *core, outcomes []outcome) {
	for _, o := range outcomes {
		if o.err != nil {
			core.bindFailed(o.decision, apierrors.IsNotFound(o.err), time.Now())
		}
	}
}

// settleVolumes takes over what became of writes about pods' volumes, and of those
// volumes.
func (s *Scheduler) settleVolumes(core *core, written []outcome) {
	failed := func(d decision, err error) {
		s.volumeWrites.forget(d)
		pod := d.entry.pod
		s.log.Debug("volumes of a pod were not bound", "pod", key(pod), "node", d.node, "err", err)
		if !apierrors.IsConflict(err) {
			s.reports.tell(pod, report{
				reason: corev1.PodReasonSchedulerError, message: fmt.Sprintf("running PreBind plugin %q: %v", volumeBinding{}.name(), err),
			})
		}
	}
	for _, o := range written {
		switch {
		case o.err == nil:
			core.chosen(o.decision)
		case core.volumesFailed(o.decision, time.Now()):
			failed(o.decision, o.err)
		}
	}
	for _, f := range core.checkVolumes(time.Now()) {
		failed(f.decision, f.err)
	}
}

// bind writes batches, one at a time.
func (s *Scheduler) bind(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case batch := <-s.batches:
			s.bound <- s.write(ctx, batch)
		}
	}
}

func (s *Scheduler) write(ctx context.Context, batch []decision) []outcome {
	bindings := make([]resource.Binding, len(batch))
	for i, d := range batch {
		pod := d.entry.pod
		bindings[i] = resource.Binding{Namespace: pod.Namespace, Pod: pod.Name, UID: pod.UID, Node: d.node}
	}
	outcomes := make([]outcome, len(batch))
	for i, err := range s.registry.BindMany(ctx, bindings) {
		d := batch[i]
		outcomes[i] = outcome{d, err}
		pod := d.entry.pod
		switch {
		case err == nil:
			s.eventsBy(pod).Event(store.Pods, pod, corev1.EventTypeNormal, "Scheduled",
				fmt.Sprintf("Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, d.node))
		case ctx.Err() != nil:
		case apierrors.IsNotFound(err), apierrors.IsConflict(err):
			s.log.Debug("pod changed before it was bound", "pod", key(pod), "node", d.node, "err", err)
		default:
			s.log.Warn("binding failed, trying again", "pod", key(pod), "node", d.node, "err", err)
		}
	}
	return outcomes
}

// eventsBy is who says what is decided for the pod: the scheduler that it names.
func (s *Scheduler) eventsBy(pod *corev1.Pod) controller.Source {
	return s.events.Source(pod.Spec.SchedulerName)
}

func key(pod *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}
