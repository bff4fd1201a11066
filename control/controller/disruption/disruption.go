// Package disruption keeps the status of PodDisruptionBudgets: how many of the pods
// that each selects may go now. Evictions, which are not its business, count down from
// there in the transaction that lets a pod go. It also takes back what conditions of pods
// say of a disruption that does not come.
//
// A status is only written over the very one that it was worked out from, so an
// eviction meanwhile is never undone: it asks for a new look.
package disruption

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const workers = 4

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Caches   *controller.Caches
	Events   *controller.Recorder
	Logger   *slog.Logger
}

// Controller keeps the status of PodDisruptionBudgets.
type Controller struct {
	registry *resource.Registry
	caches   *controller.Caches
	events   controller.Source
	loop     *controller.Loop[types.NamespacedName]
	stale    *controller.Loop[types.NamespacedName] // pods
	// selectors are those of budgets.
	selectors selectors
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry, caches: cfg.Caches, events: cfg.Events.Source("controllermanager")}
	c.loop = controller.NewLoop("disruption", workers, cfg.Logger, c.reconcile)
	c.stale = controller.NewLoop("disruption-stale", 1, cfg.Logger, c.clearStale)
	c.selectors.there = func(budget *policyv1.PodDisruptionBudget) bool {
		now, ok := c.caches.PodDisruptionBudgets.Get(budget.Namespace, budget.Name)
		return ok && now.UID == budget.UID
	}
	c.caches.PodDisruptionBudgets.OnChange(func(old, now *policyv1.PodDisruptionBudget) {
		if now == nil {
			c.selectors.forget(old)
			return
		}
		c.add(now)
	})
	c.caches.Pods.OnChange(c.onPod)
	// Of how many pods there should be, their owners say.
	onScale(c, c.caches.ReplicationControllers, func(o *corev1.ReplicationController) *int32 { return o.Spec.Replicas })
	onScale(c, c.caches.ReplicaSets, func(o *appsv1.ReplicaSet) *int32 { return o.Spec.Replicas })
	onScale(c, c.caches.Deployments, func(o *appsv1.Deployment) *int32 { return o.Spec.Replicas })
	onScale(c, c.caches.StatefulSets, func(o *appsv1.StatefulSet) *int32 { return o.Spec.Replicas })
	return c
}

func onScale[T store.Object](c *Controller, cache *store.Cache[T], replicas func(T) *int32) {
	cache.OnChange(func(old, now T) {
		var none T
		if store.Object(old) == store.Object(none) || store.Object(now) == store.Object(none) || ptr.Equal(replicas(old), replicas(now)) {
			return // pods come and go with their owner
		}
		for _, budget := range c.caches.PodDisruptionBudgets.ByIndex(controller.ByNamespace, now.GetNamespace()) {
			c.add(budget)
		}
	})
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !c.caches.Synced(ctx) {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.loop.Run(ctx) })
	group.Go(func() error { return c.stale.Run(ctx) })
	return group.Wait()
}

func (c *Controller) add(budget *policyv1.PodDisruptionBudget) {
	c.loop.Add(types.NamespacedName{Namespace: budget.Namespace, Name: budget.Name})
}

func (c *Controller) onPod(old, now *corev1.Pod) {
	if now != nil {
		if wait, stale := staleIn(now, time.Now()); stale {
			c.stale.AddAfter(types.NamespacedName{Namespace: now.Namespace, Name: now.Name}, wait)
		}
	}
	if old != nil && now != nil {
		_, was := controller.ReadySince(old)
		_, is := controller.ReadySince(now)
		if was == is && (old.DeletionTimestamp == nil) == (now.DeletionTimestamp == nil) && maps.Equal(old.Labels, now.Labels) &&
			apiequality.Semantic.DeepEqual(old.OwnerReferences, now.OwnerReferences) {
			return
		}
	}
	for _, pod := range []*corev1.Pod{old, now} {
		if pod == nil {
			continue
		}
		for _, budget := range c.caches.PodDisruptionBudgets.ByIndex(controller.ByNamespace, pod.Namespace) {
			if c.selects(budget, pod) {
				c.add(budget)
			}
		}
	}
}

// selects: without a selector a budget selects nothing, with an empty one everything.
func (c *Controller) selects(budget *policyv1.PodDisruptionBudget, pod *corev1.Pod) bool {
	return c.selectors.of(budget).Matches(labels.Set(pod.Labels))
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	for _, wait := range []func(context.Context, uint64) error{
		c.caches.PodDisruptionBudgets.WaitRevision, c.caches.Pods.WaitRevision, c.caches.Deployments.WaitRevision,
		c.caches.ReplicaSets.WaitRevision, c.caches.StatefulSets.WaitRevision, c.caches.ReplicationControllers.WaitRevision,
	} {
		if err := wait(ctx, c.registry.Store().Revision()); err != nil {
			return err
		}
	}
	// The budget before its pods: then all evictions that it tells of are seen in these.
	budget, ok := c.caches.PodDisruptionBudgets.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	var pods []*corev1.Pod
	for _, pod := range c.caches.Pods.ByIndex(controller.ByNamespace, key.Namespace) {
		if c.selects(budget, pod) {
			pods = append(pods, pod)
		}
	}
	if len(pods) == 0 {
		c.events.Event(store.PodDisruptionBudgets, budget, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	var owners expected
	if needsOwners(&budget.Spec) {
		var err error
		if owners, err = c.expect(ctx, pods); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			c.events.Event(store.PodDisruptionBudgets, budget, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed",
				fmt.Sprintf("Failed to calculate the number of expected pods: %v", err))
			return c.writeStatus(ctx, budget, failedStatus(budget, err, time.Now()))
		}
	}
	if owners.unmanaged {
		c.events.Event(store.PodDisruptionBudgets, budget, corev1.EventTypeWarning, "UnmanagedPods",
			fmt.Sprintf("Pods selected by this PodDisruptionBudget (selector: %v) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", budget.Spec.Selector))
	}
	status, again := makeStatus(budget, pods, owners, time.Now())
	if again > 0 {
		c.loop.AddAfter(key, again)
	}
	return c.writeStatus(ctx, budget, status)
}

// expect adds up what the owners of pods ask for.
func (c *Controller) expect(ctx context.Context, pods []*corev1.Pod) (expected, error) {
	var e expected
	scales := map[types.UID]int32{}
	for _, pod := range pods {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil {
			e.unmanaged = true
			continue
		}
		if _, known := scales[ref.UID]; known {
			continue
		}
		owner, replicas, err := c.scale(ctx, pod.Namespace, ref)
		if err != nil {
			return e, err
		}
		if owner == "" {
			return e, fmt.Errorf("found no controllers for pod %q", pod.Name)
		}
		// A deployment counts once, whichever of its replica sets the pods are of.
		if _, counted := scales[owner]; !counted {
			e.count += replicas
		}
		scales[owner], scales[ref.UID] = replicas, replicas
	}
	return e, nil
}

// scale finds who decides how many pods there are beside one, and how many. The owner is
// "" if it is gone.
func (c *Controller) scale(ctx context.Context, namespace string, ref *metav1.OwnerReference) (types.UID, int32, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return "", 0, err
	}
	if gv.Group == appsv1.GroupName && ref.Kind == store.ReplicaSets.Kind.Kind {
		set, ok := c.caches.ReplicaSets.Get(namespace, ref.Name)
		if !ok || set.UID != ref.UID {
			return "", 0, nil
		}
		up := metav1.GetControllerOfNoCopy(set)
		if up == nil || up.Kind != store.Deployments.Kind.Kind {
			return set.UID, ptr.Deref(set.Spec.Replicas, 1), nil
		}
		if d, ok := c.caches.Deployments.Get(namespace, up.Name); ok && d.UID == up.UID {
			return d.UID, ptr.Deref(d.Spec.Replicas, 1), nil
		}
		return "", 0, nil
	}
	for _, kind := range c.registry.Kinds() {
		if kind.Spec.Kind.Kind != ref.Kind || kind.Spec.Kind.Group != gv.Group {
			continue
		}
		if kind.Scale == nil {
			return "", 0, fmt.Errorf("%s does not implement the scale subresource", kind.Spec.Resource)
		}
		obj, err := c.registry.Store().Table(kind.Spec).Get(ctx, namespace, ref.Name)
		if err != nil || obj.GetUID() != ref.UID {
			return "", 0, nil
		}
		replicas, _, _ := kind.Scale.Get(obj)
		return ref.UID, replicas, nil
	}
	return "", 0, fmt.Errorf("no matches for kind %q in version %q", ref.Kind, ref.APIVersion)
}

func (c *Controller) writeStatus(ctx context.Context, budget *policyv1.PodDisruptionBudget, status policyv1.PodDisruptionBudgetStatus) error {
	if apiequality.Semantic.DeepEqual(budget.Status, status) {
		return nil
	}
	_, err := controller.WriteStatus(ctx, c.registry, resource.PodDisruptionBudgets, budget, func(now *policyv1.PodDisruptionBudget) { now.Status = status })
	return err
}
