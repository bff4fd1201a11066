// Package servicerepair mends what services hold: addresses and node ports that are
// not written down as theirs, or as those of a service that does not have them. Services
// get and lose both in the transactions that write them, so there is only to mend what
// somebody did by hand, or a saved cluster brought along. What can't be mended, such as an
// address out of all ranges, the service's events tell. What is wrong is package
// resource's business.
package servicerepair

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// after is how long after a change all is looked at, with what else changed by then. One
// look is at all services, as two of them may be wrong only together: some microseconds each.
const after = 3 * time.Second

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Caches   *controller.Caches
	Events   *controller.Recorder
	Logger   *slog.Logger
}

// Controller looks at services, addresses and ranges whenever one of them changes.
type Controller struct {
	cfg       Config
	addresses *store.Cache[*networkingv1.IPAddress]
	ranges    *store.Cache[*networkingv1.ServiceCIDR]
	loop      *controller.Loop[struct{}]
	// told are the events about what only people can mend, so that each is told once. The
	// loop's one worker has it.
	told map[told]bool
}

type told struct {
	about   types.UID
	message string
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	s := cfg.Registry.Store()
	c := &Controller{
		cfg: cfg, told: map[told]bool{},
		addresses: store.NewCache[*networkingv1.IPAddress](s, store.IPAddresses, nil),
		ranges:    store.NewCache[*networkingv1.ServiceCIDR](s, store.ServiceCIDRs, nil),
	}
	c.loop = controller.NewLoop("servicerepair", 1, cfg.Logger, c.reconcile)
	look := func() { c.loop.AddAfter(struct{}{}, after) }
	cfg.Caches.Services.OnChange(func(old, now *corev1.Service) {
		if old == nil || now == nil || old.Spec.Type != now.Spec.Type || old.Spec.HealthCheckNodePort != now.Spec.HealthCheckNodePort ||
			!slices.Equal(old.Spec.ClusterIPs, now.Spec.ClusterIPs) || !apiequality.Semantic.DeepEqual(old.Spec.Ports, now.Spec.Ports) {
			look()
		}
	})
	c.addresses.OnChange(func(_, _ *networkingv1.IPAddress) { look() })
	c.ranges.OnChange(func(old, now *networkingv1.ServiceCIDR) {
		if old == nil || now == nil || !slices.Equal(old.Spec.CIDRs, now.Spec.CIDRs) {
			look()
		}
	})
	look() // node ports may be held that no service has
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.addresses.Run(ctx) })
	group.Go(func() error { return c.ranges.Run(ctx) })
	group.Go(func() error {
		for _, synced := range []<-chan struct{}{c.addresses.Synced(), c.ranges.Synced()} {
			select {
			case <-synced:
			case <-ctx.Done():
			}
		}
		if !c.cfg.Caches.Synced(ctx) {
			return nil
		}
		return c.loop.Run(ctx)
	})
	return group.Wait()
}

func (c *Controller) reconcile(ctx context.Context, _ struct{}) error {
	// Services last: then one that holds something of what was read before is seen.
	s := c.cfg.Registry.Store()
	holdings := resource.ServiceHoldings{Ports: resource.NodePorts(s), Addresses: c.addresses.List(), Ranges: c.ranges.List()}
	if err := c.cfg.Caches.Services.WaitRevision(ctx, s.Revision()); err != nil {
		return err
	}
	holdings.Services = c.cfg.Caches.Services.List()
	repairs, again := holdings.Repairs(s, time.Now())
	if again > 0 {
		c.loop.AddAfter(struct{}{}, again)
	}
	events := c.cfg.Events.Source("ipallocator-repair-controller")
	still, mended := map[told]bool{}, false
	for _, r := range repairs {
		if len(r.Writes) > 0 {
			if _, err := s.Txn(ctx, r.Writes); errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
				// It has changed meanwhile, which asks for another look. Not so a port's claim.
				mended = true
				continue
			} else if err != nil {
				return err
			}
			mended = true
			c.cfg.Logger.Info("mended what a service holds", "reason", r.Reason, "message", r.Message)
		} else {
			key := told{r.About.GetUID(), r.Message}
			still[key] = true
			if c.told[key] {
				continue
			}
		}
		if r.Reason != "" {
			events.Event(r.Spec, r.About, corev1.EventTypeWarning, r.Reason, r.Message)
		}
	}
	c.told = still
	if mended {
		c.loop.AddAfter(struct{}{}, after) // what was freed may be another's
	}
	return nil
}
