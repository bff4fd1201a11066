// Package nodeipam gives each node its part of the cluster's pod range. A node
// keeps its part for life; that of a deleted node is given out again. How pods
// get addresses from it is the agent's business.
package nodeipam

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// Config is what a Controller of one leader term needs.
type Config struct {
	Registry *resource.Registry
	Caches   *controller.Caches
	// PodCIDR is divided into parts of NodeBits prefix length.
	PodCIDR  netip.Prefix
	NodeBits int
	Logger   *slog.Logger
}

// Controller assigns spec.podCIDR to nodes that have none.
type Controller struct {
	cfg    Config
	ranges *ranges
	loop   *controller.Loop[string]
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg, ranges: newRanges(cfg.PodCIDR, cfg.NodeBits)}
	// One worker: what one call gives, the next must see.
	c.loop = controller.NewLoop("nodeipam", 1, cfg.Logger, c.reconcile)
	cfg.Caches.Nodes.OnChange(func(old, node *corev1.Node) {
		c.ranges.move(rangeOf(old), rangeOf(node))
		if node != nil && node.Spec.PodCIDR == "" {
			c.loop.Add(node.Name)
		}
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !c.cfg.Caches.Synced(ctx) {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.loop.Run(ctx) })
	return group.Wait()
}

func (c *Controller) reconcile(ctx context.Context, name string) error {
	node, ok := c.cfg.Caches.Nodes.Get("", name)
	if !ok || node.Spec.PodCIDR != "" {
		return nil
	}
	free, err := c.ranges.free()
	if err != nil {
		return fmt.Errorf("node %s: %w", name, err)
	}
	kind := c.cfg.Registry.Kind(store.Nodes.Resource)
	stored, _, err := c.cfg.Registry.Update(ctx, kind, "", name, "", func(current store.Object) (store.Object, error) {
		node := current.(*corev1.Node)
		if node.Spec.PodCIDR == "" {
			node.Spec.PodCIDR = free.String()
			node.Spec.PodCIDRs = []string{free.String()}
		}
		return node, nil
	}, resource.UpdateOptions{FieldManager: "muster-nodeipam"})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	// The next call plans from what the cache told: that must hold what was given here.
	revision, err := strconv.ParseUint(stored.GetResourceVersion(), 10, 64)
	if err != nil {
		return err
	}
	return c.cfg.Caches.Nodes.WaitRevision(ctx, revision)
}

func rangeOf(node *corev1.Node) string {
	if node == nil {
		return ""
	}
	return node.Spec.PodCIDR
}
