// Package servicecidr looks after the ranges that services get their addresses
// from: a range says whether it is ready, and one that is deleted stays as long
// as a service has an address that is in no other. Giving addresses out is
// package resource's business; it takes none from a range that is going.
package servicecidr

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// finalizer keeps a range until no address needs it.
const finalizer = "networking.k8s.io/service-cidr-finalizer"

// lookAgain is how often a range that is deleted is looked at while it is needed.
const lookAgain = 5 * time.Second

// What upstream's conditions say.
const (
	isReady  = "Kubernetes Service CIDR is ready"
	isNeeded = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
)

// Config is what a Controller of one leader term needs.
type Config struct {
	Registry *resource.Registry
	Logger   *slog.Logger
}

// Controller judges ranges.
type Controller struct {
	cfg   Config
	cidrs *store.Cache[*networkingv1.ServiceCIDR]
	loop  *controller.Loop[string]
}

// New prepares a controller with copies of its own: there are few ranges.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg, cidrs: store.NewCache[*networkingv1.ServiceCIDR](cfg.Registry.Store(), store.ServiceCIDRs, nil)}
	c.loop = controller.NewLoop("servicecidr", 1, cfg.Logger, c.reconcile)
	c.cidrs.OnChange(func(_, cidr *networkingv1.ServiceCIDR) {
		if cidr != nil {
			c.loop.Add(cidr.Name)
		}
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.cidrs.Run(ctx) })
	group.Go(func() error {
		select {
		case <-c.cidrs.Synced():
			return c.loop.Run(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	return group.Wait()
}

func (c *Controller) reconcile(ctx context.Context, name string) error {
	cidr, ok := c.cidrs.Get("", name)
	if !ok {
		return nil
	}
	condition := metav1.Condition{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: isReady}
	switch {
	case cidr.DeletionTimestamp == nil:
		if !slices.Contains(cidr.Finalizers, finalizer) {
			err := c.update(ctx, name, "", func(cidr *networkingv1.ServiceCIDR) {
				if cidr.DeletionTimestamp == nil && !slices.Contains(cidr.Finalizers, finalizer) {
					cidr.Finalizers = append(cidr.Finalizers, finalizer)
				}
			})
			if err != nil {
				return err
			}
		}
	case !c.needed(cidr):
		return c.update(ctx, name, "", func(cidr *networkingv1.ServiceCIDR) {
			cidr.Finalizers = slices.DeleteFunc(cidr.Finalizers, func(f string) bool { return f == finalizer })
		})
	default:
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating, isNeeded
		c.loop.AddAfter(name, lookAgain)
	}
	if now := meta.FindStatusCondition(cidr.Status.Conditions, condition.Type); now != nil && now.Status == condition.Status && now.Message == condition.Message {
		return nil
	}
	return c.update(ctx, name, "status", func(cidr *networkingv1.ServiceCIDR) {
		meta.SetStatusCondition(&cidr.Status.Conditions, condition)
	})
}

func (c *Controller) update(ctx context.Context, name, subresource string, change func(*networkingv1.ServiceCIDR)) error {
	_, _, err := c.cfg.Registry.Update(ctx, resource.ServiceCIDRs, "", name, subresource, func(current store.Object) (store.Object, error) {
		change(current.(*networkingv1.ServiceCIDR))
		return current, nil
	}, resource.UpdateOptions{FieldManager: "muster-servicecidr"})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// needed says that an address which was given to a service is in this range and
// in no other.
func (c *Controller) needed(cidr *networkingv1.ServiceCIDR) bool {
	mine, others := prefixes(cidr), []netip.Prefix(nil)
	for _, other := range c.cidrs.List() {
		if other.Name != cidr.Name {
			others = append(others, prefixes(other)...)
		}
	}
	for item := range c.cfg.Registry.Store().View().Range(store.IPAddresses.Prefix(""), "") {
		_, name := store.IPAddresses.SplitKey(item.Key)
		ip, err := netip.ParseAddr(name)
		contains := func(p netip.Prefix) bool { return p.Contains(ip) }
		if err == nil && item.Labels.Get(networkingv1.LabelManagedBy) == resource.AddressManager &&
			slices.ContainsFunc(mine, contains) && !slices.ContainsFunc(others, contains) {
			return true
		}
	}
	return false
}

func prefixes(cidr *networkingv1.ServiceCIDR) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range cidr.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			all = append(all, p)
		}
	}
	return all
}
