// Package replication keeps as many pods of each ReplicationController running
// as it asks for. Where they run is the scheduler's business, and that they run
// the agents'.
//
// A reconcile waits until the caches show everything stored so far, its own
// writes among it, then plans (makePlan, a pure function) and writes. So nothing
// need be remembered between two, nor handed to the next leader. The one thing remembered, within a term, are the names of pods
// whose creation had no certain outcome: they are tried again under the same
// name, so that a write which took effect after all is not done twice.
package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const (
	workers = 8
	// writers bounds the pods of one controller that are created or deleted at a time.
	writers = 64
)

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Caches   *controller.Caches
	Events   *controller.Recorder
	Logger   *slog.Logger
}

// Controller keeps the pods of ReplicationControllers.
type Controller struct {
	registry *resource.Registry
	caches   *controller.Caches
	events   controller.Source
	loop     *controller.Loop[types.NamespacedName]

	mu sync.Mutex
	// unsure are names of pods, by the UID of their controller, whose creation
	// ended without an answer.
	unsure map[types.UID][]string
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	c := &Controller{
		registry: cfg.Registry,
		caches:   cfg.Caches,
		events:   cfg.Events.Source("replication-controller"),
		unsure:   make(map[types.UID][]string),
	}
	c.loop = controller.NewLoop("replication", workers, cfg.Logger, c.reconcile)
	c.caches.ReplicationControllers.OnChange(c.onController)
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

func (c *Controller) onController(old, now *corev1.ReplicationController) {
	if now != nil {
		c.loop.Add(types.NamespacedName{Namespace: now.Namespace, Name: now.Name})
		return
	}
	c.mu.Lock()
	delete(c.unsure, old.UID)
	c.mu.Unlock()
}

func (c *Controller) onPod(old, now *corev1.Pod) {
	for _, pod := range []*corev1.Pod{old, now} {
		if pod == nil {
			continue
		}
		if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
			if ref.Kind == store.ReplicationControllers.Kind.Kind && ref.APIVersion == "v1" {
				c.loop.Add(types.NamespacedName{Namespace: pod.Namespace, Name: ref.Name})
			}
			continue
		}
		if pod != now {
			continue
		}
		for _, rc := range c.caches.ReplicationControllers.ByIndex(controller.ByNamespace, pod.Namespace) {
			if labels.SelectorFromSet(rc.Spec.Selector).Matches(labels.Set(pod.Labels)) {
				c.loop.Add(types.NamespacedName{Namespace: rc.Namespace, Name: rc.Name})
			}
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	rc, ok := c.caches.ReplicationControllers.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	p, err := c.plan(ctx, rc)
	if err != nil {
		return err
	}
	if len(p.adopt)+len(p.release) > 0 {
		if err := c.claim(ctx, rc, p); err != nil {
			return err
		}
		if p, err = c.plan(ctx, rc); err != nil {
			return err
		}
	}

	var failed error
	reason := ""
	switch {
	case p.create > 0:
		failed, reason = c.create(ctx, rc, p.create), "FailedCreate"
	case len(p.remove) > 0:
		failed, reason = c.remove(ctx, rc, p.remove), "FailedDelete"
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if failed == nil && p.more {
		c.loop.Add(key)
	}

	now, err := c.plan(ctx, rc)
	if err != nil {
		return errors.Join(failed, err)
	}
	setFailure(&now.status, reason, failed, time.Now())
	if now.again > 0 {
		c.loop.AddAfter(key, now.again)
	}
	return errors.Join(failed, c.writeStatus(ctx, rc, now.status))
}

// plan plans from pods as they are stored now: with everything that was written
// here before, and not older than the controller. Without that, pods would be
// created twice, or in place of others that could be adopted.
func (c *Controller) plan(ctx context.Context, rc *corev1.ReplicationController) (plan, error) {
	if err := c.caches.Pods.WaitRevision(ctx, c.registry.Store().Revision()); err != nil {
		return plan{}, err
	}
	return makePlan(rc,
		c.caches.Pods.ByIndex(controller.PodsByController, string(rc.UID)),
		c.caches.Pods.ByIndex(controller.PodsOnTheirOwn, rc.Namespace),
		time.Now()), nil
}

// errChanged: the object is no longer one that the plan was made for. What
// changed it asks for a new plan.
var errChanged = errors.New("changed meanwhile")

// claim makes the controller the owner of the pods to adopt, and lets go of
// those to release.
func (c *Controller) claim(ctx context.Context, rc *corev1.ReplicationController, p plan) error {
	if len(p.adopt) > 0 {
		// A controller that was deleted, and perhaps made anew, must not gather
		// pods: its cache may not show it yet.
		current, err := c.registry.Store().Table(store.ReplicationControllers).Get(ctx, rc.Namespace, rc.Name)
		if errors.Is(err, store.ErrNotFound) || err == nil && (current.GetUID() != rc.UID || current.GetDeletionTimestamp() != nil) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	update := func(pod *corev1.Pod, change func(*corev1.Pod) error) error {
		_, _, err := c.registry.Update(ctx, resource.Pods, pod.Namespace, pod.Name, "", func(current store.Object) (store.Object, error) {
			now := current.(*corev1.Pod)
			if now.UID != pod.UID {
				return nil, errChanged
			}
			return now, change(now)
		}, resource.UpdateOptions{})
		if errors.Is(err, errChanged) || apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("pod %s: %w", pod.Name, err)
		}
		return nil
	}
	var g errgroup.Group
	g.SetLimit(writers)
	for _, pod := range p.adopt {
		g.Go(func() error {
			return update(pod, func(now *corev1.Pod) error {
				if metav1.GetControllerOfNoCopy(now) != nil || now.DeletionTimestamp != nil {
					return errChanged
				}
				now.OwnerReferences = append(now.OwnerReferences, *ownerReference(rc))
				return nil
			})
		})
	}
	for _, pod := range p.release {
		g.Go(func() error {
			return update(pod, func(now *corev1.Pod) error {
				kept := now.OwnerReferences[:0]
				for _, ref := range now.OwnerReferences {
					if ref.UID != rc.UID {
						kept = append(kept, ref)
					}
				}
				now.OwnerReferences = kept
				return nil
			})
		})
	}
	return g.Wait()
}

// writeStatus stores a status that differs from the one the cache shows.
func (c *Controller) writeStatus(ctx context.Context, rc *corev1.ReplicationController, status corev1.ReplicationControllerStatus) error {
	if apiequality.Semantic.DeepEqual(rc.Status, status) {
		return nil
	}
	_, _, err := c.registry.Update(ctx, resource.ReplicationControllers, rc.Namespace, rc.Name, "status", func(current store.Object) (store.Object, error) {
		now := current.(*corev1.ReplicationController)
		if now.UID != rc.UID {
			return nil, errChanged
		}
		now.Status = status
		return now, nil
	}, resource.UpdateOptions{})
	if errors.Is(err, errChanged) || apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	return nil
}

func ownerReference(rc *corev1.ReplicationController) *metav1.OwnerReference {
	return metav1.NewControllerRef(rc, store.ReplicationControllers.Kind)
}
