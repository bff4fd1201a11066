// Package replication keeps as many pods of each ReplicationController and each
// ReplicaSet running as it asks for. Where they run is the scheduler's business,
// and that they run the agents'.
//
// Both kinds are kept alike: a ReplicationController is looked at as the ReplicaSet
// that it would be (variant). A reconcile waits until the caches show everything
// stored so far, its own writes among it, then plans (makePlan, a pure function)
// and writes. So nothing need be remembered between two, nor handed to the next
// leader, but for what controller.Keeper says.
package replication

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const (
	workers = 8
	// gather is how long pods that become ready, or cease to be, are waited for, so
	// that a status is not written for each of many.
	gather = 20 * time.Millisecond
)

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Caches   *controller.Caches
	Events   *controller.Recorder
	Logger   *slog.Logger
}

// Controller keeps the pods of one kind of sets, T.
type Controller[T store.Object] struct {
	variant[T]
	registry *resource.Registry
	caches   *controller.Caches
	keeper   *controller.Keeper
	loop     *controller.Loop[types.NamespacedName]
}

// NewReplicaSets listens to the caches, which must not run yet.
func NewReplicaSets(cfg Config) *Controller[*appsv1.ReplicaSet] {
	return newController(cfg, replicaSets(cfg.Caches))
}

// NewReplicationControllers listens to the caches, which must not run yet.
func NewReplicationControllers(cfg Config) *Controller[*corev1.ReplicationController] {
	return newController(cfg, replicationControllers(cfg.Caches))
}

func newController[T store.Object](cfg Config, v variant[T]) *Controller[T] {
	c := &Controller[T]{
		variant:  v,
		registry: cfg.Registry,
		caches:   cfg.Caches,
		keeper:   controller.NewKeeper(cfg.Registry, cfg.Events.Source(v.component), v.kind.Spec, v.cache),
	}
	c.loop = controller.NewLoop(v.component, workers, cfg.Logger, c.reconcile)
	c.cache.OnChange(c.onSet)
	c.caches.Pods.OnChange(c.onPod)
	return c
}

// Run reconciles until ctx ends.
func (c *Controller[T]) Run(ctx context.Context) error {
	if !c.caches.Synced(ctx) {
		return nil
	}
	return c.loop.Run(ctx)
}

func (c *Controller[T]) onSet(old, now T) {
	if now, ok := present(now); ok {
		c.loop.Add(types.NamespacedName{Namespace: now.GetNamespace(), Name: now.GetName()})
		return
	}
	c.keeper.Forget(old.GetUID())
}

// present says whether a cache's handler was told an object, not that there is none.
func present[T store.Object](obj T) (T, bool) {
	var none T
	return obj, store.Object(obj) != store.Object(none)
}

func (c *Controller[T]) onPod(old, now *corev1.Pod) {
	wait := time.Duration(0)
	if old != nil && now != nil && sameButReadiness(old, now) {
		since, was := controller.ReadySince(old)
		at, is := controller.ReadySince(now)
		if was == is && since.Equal(at) {
			return // where it runs is of no interest
		}
		wait = gather
	}
	for _, pod := range []*corev1.Pod{old, now} {
		if pod == nil {
			continue
		}
		if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
			if ref.Kind == c.kind.Spec.Kind.Kind && ref.APIVersion == c.kind.Spec.Kind.GroupVersion().String() {
				c.loop.AddAfter(types.NamespacedName{Namespace: pod.Namespace, Name: ref.Name}, wait)
			}
			continue
		}
		if pod != now {
			continue
		}
		for _, obj := range c.cache.ByIndex(controller.ByNamespace, pod.Namespace) {
			if selectorOf(c.view(obj)).Matches(labels.Set(pod.Labels)) {
				c.loop.Add(types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()})
			}
		}
	}
}

// sameButReadiness: a pod counts as before, and for the same owner.
func sameButReadiness(old, now *corev1.Pod) bool {
	was, is := metav1.GetControllerOfNoCopy(old), metav1.GetControllerOfNoCopy(now)
	return old.UID == now.UID && (was == nil) == (is == nil) && (was == nil || was.UID == is.UID) && maps.Equal(old.Labels, now.Labels) &&
		controller.HasFinished(old) == controller.HasFinished(now) && (old.DeletionTimestamp == nil) == (now.DeletionTimestamp == nil)
}

func (c *Controller[T]) reconcile(ctx context.Context, key types.NamespacedName) error {
	obj, ok := c.cache.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	set := c.view(obj)
	p, err := c.plan(ctx, set)
	if err != nil {
		return err
	}
	if len(p.adopt)+len(p.release) > 0 {
		if err := c.keeper.Claim(ctx, obj, p.adopt, p.release, nil); err != nil {
			return err
		}
		if p, err = c.plan(ctx, set); err != nil {
			return err
		}
	}

	var failed error
	reason := ""
	switch {
	case p.create > 0:
		failed, reason = c.keeper.CreateMany(ctx, obj, p.create, func(int) *corev1.Pod { return c.keeper.PodOf(obj, &set.Spec.Template) }), "FailedCreate"
	case len(p.remove) > 0:
		failed, reason = c.keeper.Delete(ctx, obj, p.remove), "FailedDelete"
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if failed == nil && p.more {
		c.loop.Add(key)
	}

	now := p
	if p.create > 0 || len(p.remove) > 0 {
		if now, err = c.plan(ctx, set); err != nil {
			return errors.Join(failed, err)
		}
	}
	setFailure(&now.status, reason, failed, time.Now())
	if !c.tellsTerminating {
		now.status.TerminatingReplicas = nil
	}
	if now.again > 0 {
		c.loop.AddAfter(key, now.again)
	}
	return errors.Join(failed, c.writeStatus(ctx, obj, set.Status, now.status))
}

// plan looks at all pods stored so far. That includes what we wrote, and pods
// older than the set: none of them is taken for missing, or created beside
// one that could be adopted.
func (c *Controller[T]) plan(ctx context.Context, set *appsv1.ReplicaSet) (plan, error) {
	if err := c.caches.Pods.WaitRevision(ctx, c.registry.Store().Revision()); err != nil {
		return plan{}, err
	}
	return makePlan(set,
		c.caches.Pods.ByIndex(controller.ByController, string(set.UID)),
		c.caches.Pods.ByIndex(controller.PodsOnTheirOwn, set.Namespace),
		func() []*corev1.Pod { return c.siblings(set) },
		time.Now()), nil
}

// siblings are the pods of other sets with the same controller: of the other
// revisions of a deployment, that is.
func (c *Controller[T]) siblings(set *appsv1.ReplicaSet) []*corev1.Pod {
	ref := metav1.GetControllerOfNoCopy(set)
	if ref == nil {
		return nil
	}
	var pods []*corev1.Pod
	for _, other := range c.cache.ByIndex(controller.ByController, string(ref.UID)) {
		if other.GetUID() != set.UID {
			pods = append(pods, c.caches.Pods.ByIndex(controller.ByController, string(other.GetUID()))...)
		}
	}
	return pods
}

// writeStatus stores a status that differs from the one the cache shows.
func (c *Controller[T]) writeStatus(ctx context.Context, obj T, before, status appsv1.ReplicaSetStatus) error {
	if apiequality.Semantic.DeepEqual(before, status) {
		return nil
	}
	_, err := controller.WriteStatus(ctx, c.registry, c.kind, obj, func(now T) { c.setStatus(now, status) })
	return err
}
