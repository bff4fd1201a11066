// Package serviceaccount gives each namespace the service account that its pods
// run as when they name none. What else there is in a namespace is its users'
// business.
package serviceaccount

import (
	"context"
	"log/slog"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	apiwatch "k8s.io/apimachinery/pkg/watch"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const name = "default"

// Config is what a Controller of one leader term needs.
type Config struct {
	Registry *resource.Registry
	Caches   *controller.Caches
	Logger   *slog.Logger
}

// Controller makes default service accounts.
type Controller struct {
	cfg  Config
	loop *controller.Loop[string] // of namespaces
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg}
	c.loop = controller.NewLoop("serviceaccount", 2, cfg.Logger, c.reconcile)
	cfg.Caches.Namespaces.OnChange(func(_, namespace *corev1.Namespace) {
		if namespace != nil {
			c.loop.Add(namespace.Name)
		}
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !c.cfg.Caches.Synced(ctx) {
		return nil
	}
	accounts := c.cfg.Registry.Store().Table(store.ServiceAccounts)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.loop.Run(ctx) })
	group.Go(func() error {
		return controller.Follow(ctx, accounts, fields.OneTermEqualSelector("metadata.name", name), func(e store.Event) {
			if e.Type == apiwatch.Deleted {
				namespace, _ := store.ServiceAccounts.SplitKey(e.Item.Key)
				c.loop.Add(namespace)
			}
		})
	})
	return group.Wait()
}

func (c *Controller) reconcile(ctx context.Context, namespace string) error {
	ns, ok := c.cfg.Caches.Namespaces.Get("", namespace)
	if !ok || ns.Status.Phase == corev1.NamespaceTerminating {
		return nil
	}
	return Ensure(ctx, c.cfg.Registry, namespace)
}

// Ensure makes the service account of a namespace if it is not there.
func Ensure(ctx context.Context, registry *resource.Registry, namespace string) error {
	if _, _, err := registry.Store().Table(store.ServiceAccounts).GetItem(namespace, name); err == nil {
		return nil
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	_, err := registry.Create(ctx, resource.ServiceAccounts, namespace, account, resource.CreateOptions{})
	if apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}
