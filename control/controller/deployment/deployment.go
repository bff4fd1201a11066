// Package deployment rolls out what each Deployment asks for: a ReplicaSet for
// each revision of its pod template, of which the newest grows while the others
// shrink. The pods of a ReplicaSet are package replication's business.
//
// What is to be done is worked out on copies of the replica sets (makePlan, a pure
// function) and then written in order. A reconcile that was interrupted anywhere is
// carried on by the next one, also by another leader's: the name of a replica set
// follows from the template, and everything else from what is stored.
package deployment

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const workers = 8

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Caches   *controller.Caches
	Events   *controller.Recorder
	Logger   *slog.Logger
}

// Controller rolls out Deployments.
type Controller struct {
	registry *resource.Registry
	caches   *controller.Caches
	events   controller.Source
	loop     *controller.Loop[types.NamespacedName]
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry, caches: cfg.Caches, events: cfg.Events.Source("deployment-controller")}
	c.loop = controller.NewLoop("deployment", workers, cfg.Logger, c.reconcile)
	c.caches.Deployments.OnChange(func(_, now *appsv1.Deployment) {
		if now != nil {
			c.add(now.Namespace, now.Name)
		}
	})
	c.caches.ReplicaSets.OnChange(c.onReplicaSet)
	c.caches.Pods.OnChange(c.onPod)
	return c
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !c.caches.Synced(ctx) {
		return nil
	}
	return c.loop.Run(ctx)
}

func (c *Controller) add(namespace, name string) {
	c.loop.Add(types.NamespacedName{Namespace: namespace, Name: name})
}

func (c *Controller) onReplicaSet(old, now *appsv1.ReplicaSet) {
	for _, set := range []*appsv1.ReplicaSet{old, now} {
		if set == nil {
			continue
		}
		if ref := metav1.GetControllerOfNoCopy(set); ref != nil {
			if isDeployment(ref) {
				c.add(set.Namespace, ref.Name)
			}
			continue
		}
		if set != now {
			continue
		}
		for _, d := range c.caches.Deployments.ByIndex(controller.ByNamespace, set.Namespace) {
			if controller.SelectorOf(d.Spec.Selector).Matches(labels.Set(set.Labels)) {
				c.add(d.Namespace, d.Name)
			}
		}
	}
}

// onPod is for deployments that wait until no old pod runs any more.
func (c *Controller) onPod(old, now *corev1.Pod) {
	if old == nil || now != nil && !controller.HasFinished(now) {
		return
	}
	ref := metav1.GetControllerOfNoCopy(old)
	if ref == nil || ref.Kind != store.ReplicaSets.Kind.Kind {
		return
	}
	set, ok := c.caches.ReplicaSets.Get(old.Namespace, ref.Name)
	if !ok {
		return
	}
	if ref := metav1.GetControllerOfNoCopy(set); ref != nil && isDeployment(ref) {
		if d, ok := c.caches.Deployments.Get(set.Namespace, ref.Name); ok && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
			c.add(d.Namespace, d.Name)
		}
	}
}

func isDeployment(ref *metav1.OwnerReference) bool {
	return ref.Kind == store.Deployments.Kind.Kind && ref.APIVersion == appsv1.SchemeGroupVersion.String()
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	// What we wrote last, to the status too, is part of what is planned from.
	for _, wait := range []func(context.Context, uint64) error{
		c.caches.Deployments.WaitRevision, c.caches.ReplicaSets.WaitRevision, c.caches.Pods.WaitRevision,
	} {
		if err := wait(ctx, c.registry.Store().Revision()); err != nil {
			return err
		}
	}
	d, ok := c.caches.Deployments.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	owned, adopt, release := c.sets(d)
	if len(adopt)+len(release) > 0 {
		if err := controller.Claim(ctx, c.registry, d, store.Deployments, resource.ReplicaSets, adopt, release, nil); err != nil {
			return err
		}
		return c.reconcile(ctx, key)
	}
	p := makePlan(d, owned, c.podsRun(owned), time.Now())
	if err := c.carryOut(ctx, d, p); err != nil {
		return err
	}
	if p.again > 0 {
		c.loop.AddAfter(key, p.again)
	}
	return nil
}

// sets are the replica sets that d has, and those that it is to adopt or release.
// Other deployments' are not looked at, of which a namespace may have thousands.
func (c *Controller) sets(d *appsv1.Deployment) (owned, adopt, release []*appsv1.ReplicaSet) {
	selector := controller.SelectorOf(d.Spec.Selector)
	for _, set := range c.caches.ReplicaSets.ByIndex(controller.ByController, string(d.UID)) {
		if set.Namespace != d.Namespace {
			continue // an owner is in the same namespace, whatever a reference says
		}
		if selector.Matches(labels.Set(set.Labels)) {
			owned = append(owned, set)
		} else if d.DeletionTimestamp == nil {
			release = append(release, set)
		}
	}
	if d.DeletionTimestamp != nil {
		return owned, nil, release
	}
	for _, set := range c.caches.ReplicaSets.ByIndex(controller.SetsOnTheirOwn, d.Namespace) {
		if set.DeletionTimestamp == nil && selector.Matches(labels.Set(set.Labels)) {
			adopt = append(adopt, set)
		}
	}
	return owned, adopt, release
}

// podsRun says of each replica set, by UID, whether pods of it may run.
func (c *Controller) podsRun(sets []*appsv1.ReplicaSet) func(types.UID) bool {
	return func(set types.UID) bool {
		for _, pod := range c.caches.Pods.ByIndex(controller.ByController, string(set)) {
			if !controller.HasFinished(pod) {
				return true
			}
		}
		return false
	}
}

// carryOut writes a plan: replica sets in order, then the deployment's status.
func (c *Controller) carryOut(ctx context.Context, d *appsv1.Deployment, p plan) error {
	for _, s := range p.steps {
		if s.create {
			if done, err := c.create(ctx, d, s.set); !done || err != nil {
				return err
			}
		} else if err := controller.Change(ctx, c.registry, resource.ReplicaSets, s.set, "", func(now *appsv1.ReplicaSet) bool {
			for name, value := range s.set.Annotations {
				metav1.SetMetaDataAnnotation(&now.ObjectMeta, name, value)
			}
			now.Spec.Replicas, now.Spec.MinReadySeconds = s.set.Spec.Replicas, s.set.Spec.MinReadySeconds
			return true
		}); err != nil {
			return err
		}
		if s.was != *s.set.Spec.Replicas {
			way := "up"
			if s.was > *s.set.Spec.Replicas {
				way = "down"
			}
			c.events.Event(store.Deployments, d, corev1.EventTypeNormal, "ScalingReplicaSet",
				fmt.Sprintf("Scaled %s replica set %s from %d to %d", way, s.set.Name, s.was, *s.set.Spec.Replicas))
		}
	}
	for _, set := range p.remove {
		if err := controller.Delete(ctx, c.registry, resource.ReplicaSets, set); err != nil {
			return fmt.Errorf("replica set %s: %w", set.Name, err)
		}
	}
	return c.writeStatus(ctx, d, p.status, p.revision)
}

// create makes the replica set of a new revision; false when that cannot be now,
// and the deployment says why. Another set of its name is either the very one, stored
// by a write whose answer was lost, or a collision: two templates with the same hash.
// Then the count of collisions goes up, which the next hash takes in.
func (c *Controller) create(ctx context.Context, d *appsv1.Deployment, set *appsv1.ReplicaSet) (bool, error) {
	_, err := c.registry.Create(ctx, resource.ReplicaSets, d.Namespace, set, resource.CreateOptions{})
	switch {
	case err == nil:
		return true, nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return false, nil
	case apierrors.IsAlreadyExists(err):
		there, e := store.Of[*appsv1.ReplicaSet](c.registry.Store(), store.ReplicaSets).Get(ctx, d.Namespace, set.Name)
		if e != nil || metav1.IsControlledBy(there, d) && equalTemplates(&d.Spec.Template, &there.Spec.Template) {
			return false, err // the next reconcile sees it
		}
		status := d.Status.DeepCopy()
		status.CollisionCount = ptr.To(ptr.Deref(status.CollisionCount, 0) + 1)
		return false, c.writeStatus(ctx, d, *status, "")
	case ctx.Err() != nil:
		return false, err
	}
	message := fmt.Sprintf("Failed to create new replica set %q: %v", set.Name, err)
	c.events.Event(store.Deployments, d, corev1.EventTypeWarning, reasonCreateFailed, message)
	if hasDeadline(d) {
		status := d.Status.DeepCopy()
		setCondition(status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonCreateFailed, message, time.Now()))
		if e := c.writeStatus(ctx, d, *status, ""); e != nil {
			return false, e
		}
	}
	return false, err
}

// writeStatus stores a status, and with it the revision unless that is "", if
// they differ from what the cache shows.
func (c *Controller) writeStatus(ctx context.Context, d *appsv1.Deployment, status appsv1.DeploymentStatus, revision string) error {
	if revision == "" {
		revision = d.Annotations[revisionAnnotation]
	}
	if apiequality.Semantic.DeepEqual(d.Status, status) && d.Annotations[revisionAnnotation] == revision {
		return nil
	}
	_, err := controller.WriteStatus(ctx, c.registry, resource.Deployments, d, func(now *appsv1.Deployment) {
		now.Status = status
		if revision != "" {
			metav1.SetMetaDataAnnotation(&now.ObjectMeta, revisionAnnotation, revision)
		}
	})
	return err
}
