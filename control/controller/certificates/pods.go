package certificates

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// keepPods is how long requests for pods' certificates are kept, as upstream's
// cleaner does: whatever comes of one has come by then.
const keepPods = 15 * time.Minute

// Cleaner deletes old PodCertificateRequests. It keeps none of them, only when each goes.
type Cleaner struct {
	registry *resource.Registry
	loop     *controller.Loop[podRequest]
}

type podRequest struct {
	namespace, name string
	uid             types.UID
}

// NewCleaner prepares a cleaner that writes through the registry.
func NewCleaner(registry *resource.Registry, log *slog.Logger) *Cleaner {
	c := &Cleaner{registry: registry}
	c.loop = controller.NewLoop("podcertificates", 1, log, func(ctx context.Context, r podRequest) error {
		return controller.Delete(ctx, registry, resource.PodCertificateRequests, &certificatesv1.PodCertificateRequest{
			ObjectMeta: metav1.ObjectMeta{Namespace: r.namespace, Name: r.name, UID: r.uid},
		})
	})
	return c
}

// Run works until ctx ends.
func (c *Cleaner) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return controller.Follow(ctx, c.registry.Store().Table(store.PodCertificateRequests), fields.Everything(), func(e store.Event) {
			if e.Type != apiwatch.Added {
				return
			}
			obj, err := store.Decode(store.PodCertificateRequests, e.Item)
			if err != nil {
				return // who lists them hears of it
			}
			c.loop.AddAfter(podRequest{obj.GetNamespace(), obj.GetName(), obj.GetUID()}, time.Until(obj.GetCreationTimestamp().Add(keepPods)))
		})
	})
	group.Go(func() error { return c.loop.Run(ctx) })
	return group.Wait()
}
