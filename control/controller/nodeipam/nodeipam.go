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
	cfg  Config
	loop *controller.Loop[string]
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg}
	// One worker: what one call gives, the next must see.
	c.loop = controller.NewLoop("nodeipam", 1, cfg.Logger, c.reconcile)
	cfg.Caches.Nodes.OnChange(func(_, node *corev1.Node) {
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
	var taken []string
	for _, n := range c.cfg.Caches.Nodes.List() {
		taken = append(taken, n.Spec.PodCIDR)
	}
	free, err := firstFree(c.cfg.PodCIDR, c.cfg.NodeBits, taken)
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
	// The next call plans from the cache: it must hold what was given here.
	revision, err := strconv.ParseUint(stored.GetResourceVersion(), 10, 64)
	if err != nil {
		return err
	}
	return c.cfg.Caches.Nodes.WaitRevision(ctx, revision)
}

// firstFree is the lowest part of cidr of the given prefix length that overlaps
// none of those taken; empty and unreadable ones do not count.
func firstFree(cidr netip.Prefix, bits int, taken []string) (netip.Prefix, error) {
	used := make(map[netip.Addr]bool, len(taken))
	var odd []netip.Prefix
	for _, text := range taken {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
		case p.Bits() == bits:
			used[p.Masked().Addr()] = true
		default:
			odd = append(odd, p)
		}
	}
	for part := netip.PrefixFrom(cidr.Masked().Addr(), bits); cidr.Contains(part.Addr()); {
		if !used[part.Addr()] && !overlapsAny(part, odd) {
			return part, nil
		}
		next, ok := after(part)
		if !ok {
			break
		}
		part = next
	}
	return netip.Prefix{}, fmt.Errorf("pod range %s has no free /%d left for another node", cidr, bits)
}

func overlapsAny(p netip.Prefix, others []netip.Prefix) bool {
	for _, o := range others {
		if p.Overlaps(o) {
			return true
		}
	}
	return false
}

// after is the prefix of the same length that follows p; false past the end of
// the address space.
func after(p netip.Prefix) (netip.Prefix, bool) {
	bytes := p.Addr().AsSlice()
	bit := p.Bits() - 1
	// Add one at the prefix's last bit, with carry.
	carry := 1 << (7 - bit%8)
	for i := bit / 8; i >= 0 && carry > 0; i-- {
		sum := int(bytes[i]) + carry
		bytes[i] = byte(sum)
		carry = sum >> 8
	}
	if carry > 0 {
		return netip.Prefix{}, false
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return netip.PrefixFrom(addr, p.Bits()), true
}
