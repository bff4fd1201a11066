// Package namespace empties namespaces that are being deleted and lets them go.
// That nothing new is created in them meanwhile is admission's business.
package namespace

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const (
	workers = 4
	// gather is how long news of content that is gone is gathered, so that a
	// thousand pods that end do not mean a thousand looks.
	gather = 100 * time.Millisecond
	// recheck is how often content is looked at of which no news comes: objects of
	// kinds without a cache that wait for their finalizers.
	recheck = 5 * time.Second
	// sweep is how long after a namespace is gone what arrived late is removed.
	sweep = time.Second
	// inspect bounds the objects of a kind that are decoded to name their finalizers.
	inspect = 500
)

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Caches   *controller.Caches
	Logger   *slog.Logger
}

// Controller empties namespaces.
type Controller struct {
	registry *resource.Registry
	caches   *controller.Caches
	loop     *controller.Loop[string]
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry, caches: cfg.Caches}
	c.loop = controller.NewLoop("namespace", workers, cfg.Logger, c.reconcile)
	c.caches.Namespaces.OnChange(func(old, now *corev1.Namespace) {
		switch {
		case now == nil:
			c.loop.AddAfter(old.Name, sweep)
		case now.DeletionTimestamp != nil:
			c.loop.Add(now.Name)
		}
	})
	c.caches.Pods.OnChange(func(old, now *corev1.Pod) {
		if now == nil {
			c.contentGone(old.Namespace)
		}
	})
	c.caches.ReplicationControllers.OnChange(func(old, now *corev1.ReplicationController) {
		if now == nil {
			c.contentGone(old.Namespace)
		}
	})
	return c
}

func (c *Controller) contentGone(namespace string) {
	if ns, ok := c.caches.Namespaces.Get("", namespace); ok && ns.DeletionTimestamp != nil {
		c.loop.AddAfter(namespace, gather)
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !c.caches.Synced(ctx) {
		return nil
	}
	return c.loop.Run(ctx)
}

func (c *Controller) reconcile(ctx context.Context, name string) error {
	// Objects of kinds that were defined just now are content, too.
	if err := c.registry.Current(ctx); err != nil {
		return err
	}
	ns, err := store.Of[*corev1.Namespace](c.registry.Store(), store.Namespaces).Get(ctx, "", name)
	if errors.Is(err, store.ErrNotFound) {
		// A create that was admitted before the namespace ended may have been
		// stored after.
		return c.empty(ctx, c.registry.Kinds(), name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))})
	}
	if err != nil {
		return err
	}
	if ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return nil
	}
	// Pods go before what they use and what guards them, such as network policies.
	failure := c.empty(ctx, []*resource.Kind{c.registry.Kind(store.Pods.Resource)}, name, metav1.DeleteOptions{})
	if c.count(c.registry.Kind(store.Pods.Resource), name) == 0 {
		failure = errors.Join(failure, c.empty(ctx, c.registry.Kinds(), name, metav1.DeleteOptions{}))
	}
	left, err := c.remaining(ctx, name)
	if err != nil {
		return err
	}
	if failure == nil && left.none() {
		return c.finalize(ctx, ns)
	}
	if err := c.writeConditions(ctx, ns, conditions(left, failure)); err != nil {
		return err
	}
	c.loop.AddAfter(name, recheck)
	return failure
}

// empty deletes a namespace's objects of some kinds, as far as they can be
// deleted now.
func (c *Controller) empty(ctx context.Context, kinds []*resource.Kind, namespace string, options metav1.DeleteOptions) error {
	options.PropagationPolicy = ptr.To(metav1.DeletePropagationBackground)
	var failures []error
	for _, kind := range kinds {
		if !kind.Namespaced() || c.count(kind, namespace) == 0 {
			continue
		}
		if _, _, err := c.registry.DeleteCollection(ctx, kind, &options, store.ListOptions{Namespace: namespace}); err != nil {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

func (c *Controller) count(kind *resource.Kind, namespace string) int {
	return c.registry.Store().View().Count(kind.Spec.Prefix(namespace))
}

// remaining counts what is left in a namespace.
func (c *Controller) remaining(ctx context.Context, namespace string) (content, error) {
	left := content{resources: make(map[string]int), finalizers: make(map[string]int)}
	for _, kind := range c.registry.Kinds() {
		if !kind.Namespaced() {
			continue
		}
		n := c.count(kind, namespace)
		if n == 0 {
			continue
		}
		left.resources[kind.Spec.Resource.Resource+"."+kind.Spec.Resource.Group] = n
		page, err := c.registry.Store().Table(kind.Spec).List(ctx, store.ListOptions{Namespace: namespace, Limit: inspect})
		if err != nil {
			return content{}, err
		}
		for _, item := range page.Items {
			obj, err := store.Decode(kind.Spec, item)
			if err != nil {
				return content{}, err
			}
			for _, f := range obj.GetFinalizers() {
				left.finalizers[f]++
			}
		}
	}
	return left, nil
}

// finalize takes the finalizer away that has kept an empty namespace.
func (c *Controller) finalize(ctx context.Context, ns *corev1.Namespace) error {
	return c.update(ctx, ns, "finalize", func(now *corev1.Namespace) bool {
		before := len(now.Spec.Finalizers)
		now.Spec.Finalizers = slices.DeleteFunc(now.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
		return len(now.Spec.Finalizers) != before
	})
}

func (c *Controller) writeConditions(ctx context.Context, ns *corev1.Namespace, wanted []corev1.NamespaceCondition) error {
	return c.update(ctx, ns, "status", func(now *corev1.Namespace) bool {
		return merge(&now.Status, wanted, metav1.Now())
	})
}

// errNothing: the namespace is not the one that was looked at, or needs no change.
var errNothing = errors.New("nothing to change")

func (c *Controller) update(ctx context.Context, ns *corev1.Namespace, subresource string, change func(*corev1.Namespace) bool) error {
	_, _, err := c.registry.Update(ctx, resource.Namespaces, "", ns.Name, subresource, func(current store.Object) (store.Object, error) {
		now := current.(*corev1.Namespace)
		if now.UID != ns.UID || !change(now) {
			return nil, errNothing
		}
		return now, nil
	}, resource.UpdateOptions{})
	if errors.Is(err, errNothing) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
