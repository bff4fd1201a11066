// Package resourcequota counts what is used of resource quotas, and writes it
// into their status: for new and changed quotas, and when objects go that have
// been charged. Charging new objects is admission's business, which does it in
// the transaction that creates them.
//
// A count is exact although objects come and go meanwhile. It is written only if
// the quota is still at the revision from before counting, so nothing has been
// charged since; what has gone since is counted again.
package resourcequota

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/fsm/watch"
)

// Kinds that are counted by what is in them.
const (
	pods     = "pods"
	services = "services"
	claims   = "persistentvolumeclaims"
)

const (
	workers = 4
	// verifyAfter is how long after an object was created its quotas are counted:
	// a control node that has not heard of a quota yet does not charge it.
	verifyAfter = 10 * time.Second
)

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Logger   *slog.Logger
}

// Controller counts.
type Controller struct {
	registry *resource.Registry
	store    *store.Store
	loop     *controller.Loop[key]
	// quotas are the names of quotas by namespace; follow's goroutine alone uses it.
	quotas map[string]map[string]bool
}

type key struct{ namespace, name string }

// New prepares a controller.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry, store: cfg.Registry.Store()}
	c.loop = controller.NewLoop("resourcequota", workers, cfg.Logger, c.reconcile)
	return c
}

// Run counts until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.loop.Run(ctx) })
	g.Go(func() error {
		for {
			err := c.follow(ctx)
			switch {
			case ctx.Err() != nil:
				return nil
			case !errors.Is(err, watch.ErrCompacted):
				return fmt.Errorf("follow what quotas count: %w", err)
			}
		}
	})
	return g.Wait()
}

// follow has every quota counted, and then those that a change may concern,
// until the watch breaks. A quota can count any kind, so everything is watched;
// a change elsewhere than in a namespace with quotas costs a look into a map.
func (c *Controller) follow(ctx context.Context) error {
	c.quotas = map[string]map[string]bool{}
	page, err := c.store.Table(store.ResourceQuotas).List(ctx, store.ListOptions{})
	if err != nil {
		return err
	}
	for _, item := range page.Items {
		c.note(store.ResourceQuotas.SplitKey(item.Key))
	}
	everything, err := c.store.Raw().Watch("", page.Revision)
	if err != nil {
		return err
	}
	for {
		events, _, err := everything.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			kind, rest, _ := strings.Cut(e.Key(), "/")
			namespace, name, _ := strings.Cut(rest, "/")
			if kind == store.ResourceQuotas.Resource.Resource {
				if e.Item == nil {
					delete(c.quotas[namespace], name)
				} else if e.Prev == nil || asksElse(e.Prev.Value, e.Item.Value) {
					c.note(namespace, name)
				}
			}
			if len(c.quotas[namespace]) == 0 {
				continue
			}
			switch {
			case e.Item == nil:
				c.count(namespace, 0)
			case e.Prev == nil:
				c.count(namespace, verifyAfter)
			case replenishes(kind, e.Prev.Value, e.Item.Value):
				c.count(namespace, 0)
			}
		}
	}
}

// note remembers a quota and has it counted.
func (c *Controller) note(namespace, name string) {
	if c.quotas[namespace] == nil {
		c.quotas[namespace] = map[string]bool{}
	}
	c.quotas[namespace][name] = true
	c.loop.Add(key{namespace, name})
}

// count has the quotas of a namespace counted after a while.
func (c *Controller) count(namespace string, after time.Duration) {
	for name := range c.quotas[namespace] {
		c.loop.AddAfter(key{namespace, name}, after)
	}
}

// asksElse says whether more of a quota changed than how much is used.
func asksElse(old, now []byte) bool {
	var was, is corev1.ResourceQuota
	return was.Unmarshal(old) != nil || is.Unmarshal(now) != nil ||
		!apiequality.Semantic.DeepEqual(was.Spec, is.Spec) || !apiequality.Semantic.DeepEqual(is.Status.Hard, is.Spec.Hard)
}

// replenishes says whether a change may have made room.
func replenishes(kind string, old, now []byte) bool {
	type object interface {
		runtime.Object
		Unmarshal([]byte) error
	}
	var was, is object
	switch kind {
	case pods:
		was, is = &corev1.Pod{}, &corev1.Pod{}
	case services:
		was, is = &corev1.Service{}, &corev1.Service{}
	case claims:
		was, is = &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolumeClaim{}
	default:
		return false
	}
	return was.Unmarshal(old) == nil && is.Unmarshal(now) == nil && kube.Replenishes(was, is)
}

// reconcile counts one quota. Whoever charges it meanwhile goes first: the next
// count begins from there.
// Count counts one quota, for a controller that does not run.
func (c *Controller) Count(ctx context.Context, namespace, name string) error {
	return c.reconcile(ctx, key{namespace, name})
}

func (c *Controller) reconcile(ctx context.Context, k key) error {
	stored, err := c.store.Table(store.ResourceQuotas).Get(ctx, k.namespace, k.name)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	version := stored.GetResourceVersion()
	_, _, err = c.registry.Update(ctx, resource.ResourceQuotas, k.namespace, k.name, "status", func(current store.Object) (store.Object, error) {
		return current, c.measure(ctx, current.(*corev1.ResourceQuota))
	}, resource.UpdateOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// measure sets the status to what is used.
func (c *Controller) measure(ctx context.Context, quota *corev1.ResourceQuota) error {
	var resources []schema.GroupResource
	for _, kind := range c.registry.Kinds() {
		if kind.Namespaced() {
			resources = append(resources, kind.Spec.Resource)
		}
	}
	counted, err := kube.NewQuotas(func(resource schema.GroupResource, namespace string) ([]runtime.Object, error) {
		return c.list(ctx, resource, namespace)
	}).Usage(resources, quota)
	if err != nil {
		return err
	}
	// What nothing here counts stays as somebody else has set it.
	used := corev1.ResourceList{}
	for name := range quota.Spec.Hard {
		if amount, ok := counted[name]; ok {
			used[name] = amount
		} else if amount, ok := quota.Status.Used[name]; ok {
			used[name] = amount
		}
	}
	if apiequality.Semantic.DeepEqual(quota.Status.Hard, quota.Spec.Hard) && apiequality.Semantic.DeepEqual(quota.Status.Used, used) {
		return nil
	}
	quota.Status = corev1.ResourceQuotaStatus{Hard: quota.Spec.Hard.DeepCopy(), Used: used}
	return nil
}

// list reads the objects of a resource as far as quotas look into them.
func (c *Controller) list(ctx context.Context, resource schema.GroupResource, namespace string) ([]runtime.Object, error) {
	kind := c.registry.Kind(resource)
	if kind == nil {
		return nil, nil
	}
	page, err := c.store.Table(kind.Spec).List(ctx, store.ListOptions{Namespace: namespace})
	if err != nil {
		return nil, err
	}
	objects := make([]runtime.Object, len(page.Items))
	for i, item := range page.Items {
		switch resource.String() {
		case pods, services, claims:
			if objects[i], err = store.Decode(kind.Spec, item); err != nil {
				return nil, err
			}
		default:
			objects[i] = &metav1.PartialObjectMetadata{} // counts as one
		}
	}
	return objects, nil
}
