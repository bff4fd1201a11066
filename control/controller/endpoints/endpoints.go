// Package endpoints says where services are: EndpointSlices, and the older
// Endpoints, for the pods that a service selects; and slices that mirror the
// Endpoints which others write for services that select nothing. Who sends traffic
// there is the business of whoever reads them.
//
// Both are derived: a reconcile works out from the pods what they must say (pure
// functions) and writes what differs. Of a slice that a lost answer made twice, the
// second loses its endpoints to the first, and goes.
package endpoints

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const (
	workers = 8
	// gather is how long changes of pods are gathered: each may be written with all
	// other endpoints of its slice, and of up to a thousand in Endpoints.
	gather = 50 * time.Millisecond
	// byService finds the slices of a service by its namespace and name.
	byService = "service"
	// leaderAnnotation marks Endpoints that old clients elect leaders with.
	leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"
)

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Caches   *controller.Caches
	Events   *controller.Recorder
	Logger   *slog.Logger
}

// Controller keeps EndpointSlices and Endpoints.
type Controller struct {
	registry    *resource.Registry
	caches      *controller.Caches
	events      controller.Source
	sliceEvents controller.Source
	endpoints   *store.Cache[*corev1.Endpoints] //nolint:staticcheck // served all the same
	slices      *store.Cache[*discoveryv1.EndpointSlice]
	loop        *controller.Loop[types.NamespacedName]

	mu sync.Mutex
	// deleted are services whose Endpoints go with them, whoever wrote these.
	deleted map[types.NamespacedName]struct{}
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	s := cfg.Registry.Store()
	c := &Controller{
		registry:    cfg.Registry,
		caches:      cfg.Caches,
		events:      cfg.Events.Source("endpoint-slice-mirroring-controller"),
		sliceEvents: cfg.Events.Source("endpoint-slice-controller"),
		endpoints:   store.NewCache[*corev1.Endpoints](s, store.Endpoints, nil), //nolint:staticcheck // served all the same
		slices: store.NewCache(s, store.EndpointSlices, map[string]func(*discoveryv1.EndpointSlice) []string{
			byService: func(slice *discoveryv1.EndpointSlice) []string {
				return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}
			},
		}),
		deleted: make(map[types.NamespacedName]struct{}),
	}
	c.loop = controller.NewLoop("endpoints", workers, cfg.Logger, c.reconcile)
	c.caches.Services.OnChange(c.onService)
	c.caches.Pods.OnChange(c.onPod)
	c.caches.Nodes.OnChange(c.onNode)
	c.endpoints.OnChange(func(old, now *corev1.Endpoints) { //nolint:staticcheck // served all the same
		for _, e := range []*corev1.Endpoints{old, now} { //nolint:staticcheck // served all the same
			if e != nil {
				c.add(e.Namespace, e.Name)
			}
		}
	})
	c.slices.OnChange(func(old, now *discoveryv1.EndpointSlice) {
		for _, s := range []*discoveryv1.EndpointSlice{old, now} {
			if s != nil && isOurs(s) {
				c.add(s.Namespace, s.Labels[discoveryv1.LabelServiceName])
			}
		}
	})
	return c
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.endpoints.Run(ctx) })
	g.Go(func() error { return c.slices.Run(ctx) })
	g.Go(func() error {
		for _, synced := range []<-chan struct{}{c.endpoints.Synced(), c.slices.Synced()} {
			select {
			case <-synced:
			case <-ctx.Done():
				return nil
			}
		}
		if !c.caches.Synced(ctx) {
			return nil
		}
		return c.loop.Run(ctx)
	})
	return g.Wait()
}

func (c *Controller) add(namespace, name string) {
	c.loop.Add(types.NamespacedName{Namespace: namespace, Name: name})
}

// isOurs says that a slice is written here, and by nobody else.
func isOurs(slice *discoveryv1.EndpointSlice) bool {
	by := slice.Labels[discoveryv1.LabelManagedBy]
	return by == slicedBy || by == mirroredBy
}

func (c *Controller) onService(old, now *corev1.Service) {
	if now != nil {
		c.add(now.Namespace, now.Name)
		return
	}
	key := types.NamespacedName{Namespace: old.Namespace, Name: old.Name}
	c.mu.Lock()
	c.deleted[key] = struct{}{}
	c.mu.Unlock()
	c.loop.Add(key)
}

func (c *Controller) onPod(old, now *corev1.Pod) {
	if old != nil && now != nil && sameEndpoint(old, now) {
		return
	}
	for _, pod := range []*corev1.Pod{old, now} {
		if pod == nil {
			continue
		}
		for _, service := range c.caches.Services.ByIndex(controller.ByNamespace, pod.Namespace) {
			if selects(service, pod) {
				c.loop.AddAfter(types.NamespacedName{Namespace: service.Namespace, Name: service.Name}, gather)
			}
		}
	}
}

// onNode is for the zones that endpoints are in, and pods whose node was not there.
func (c *Controller) onNode(old, now *corev1.Node) {
	if !sameShare(old, now) {
		for _, service := range c.caches.Services.List() {
			if wantsZones(service) {
				c.loop.AddAfter(types.NamespacedName{Namespace: service.Namespace, Name: service.Name}, gather)
			}
		}
	}
	if now == nil || old != nil && old.Labels[corev1.LabelTopologyZone] == now.Labels[corev1.LabelTopologyZone] {
		return
	}
	for _, pod := range c.caches.Pods.ByIndex(controller.PodsByNode, now.Name) {
		c.onPod(nil, pod)
	}
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	for _, wait := range []func(context.Context, uint64) error{
		c.caches.Services.WaitRevision, c.caches.Pods.WaitRevision, c.caches.Nodes.WaitRevision,
		c.endpoints.WaitRevision, c.slices.WaitRevision,
	} {
		if err := wait(ctx, c.registry.Store().Revision()); err != nil {
			return err
		}
	}
	service, exists := c.caches.Services.Get(key.Namespace, key.Name)
	written, _ := c.endpoints.Get(key.Namespace, key.Name)
	var derived, mirrors []*discoveryv1.EndpointSlice
	for _, slice := range c.slices.ByIndex(byService, key.String()) {
		switch slice.Labels[discoveryv1.LabelManagedBy] {
		case slicedBy:
			derived = append(derived, slice)
		case mirroredBy:
			mirrors = append(mirrors, slice)
		}
	}
	if !exists {
		// Slices of pods go with the service, by their owner reference.
		return errors.Join(c.writeSlices(ctx, nil, plan{remove: mirrors}), c.removeLeft(ctx, key, written))
	}
	c.forget(key)
	if service.Spec.Selector == nil {
		p := plan{remove: mirrors}
		if written != nil && mirrored(written) {
			p = c.mirror(written, mirrors)
		}
		return c.writeSlices(ctx, service, p)
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return c.writeSlices(ctx, service, plan{remove: mirrors})
	}
	var pods []*corev1.Pod
	for _, pod := range c.caches.Pods.ByIndex(controller.ByNamespace, key.Namespace) {
		if selects(service, pod) {
			pods = append(pods, pod)
		}
	}
	var shares map[string]float64
	if wantsZones(service) {
		shares = sharesOf(c.caches.Nodes.List())
	}
	p := planSlices(service, pods, c.zone, shares, derived)
	for _, message := range p.unspread {
		c.sliceEvents.Event(store.Services, service, corev1.EventTypeWarning, "TopologyAwareHintsDisabled", message)
	}
	for _, message := range p.spread {
		c.sliceEvents.Event(store.Services, service, corev1.EventTypeNormal, "TopologyAwareHintsEnabled", message)
	}
	p.remove = append(p.remove, mirrors...)
	return errors.Join(c.writeSlices(ctx, service, p), c.writeEndpoints(ctx, written, endpointsOf(service, pods, written)))
}

// zone says where a node is, and whether there is such a node.
func (c *Controller) zone(node string) (string, bool) {
	found, ok := c.caches.Nodes.Get("", node)
	if !ok {
		return "", false
	}
	return found.Labels[corev1.LabelTopologyZone], true
}

func (c *Controller) forget(key types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.deleted, key)
}

// removeLeft deletes what a service that is gone has left: Endpoints that were
// written here, or any if it was seen to go, as upstream does.
func (c *Controller) removeLeft(ctx context.Context, key types.NamespacedName, written *corev1.Endpoints) error { //nolint:staticcheck // served all the same
	c.mu.Lock()
	_, seen := c.deleted[key]
	c.mu.Unlock()
	if written != nil && written.Annotations[leaderAnnotation] == "" && (seen || written.Labels[managedByLabel] == writtenBy) {
		if err := controller.Delete(ctx, c.registry, resource.Endpoints, written); err != nil {
			return fmt.Errorf("endpoints: %w", err)
		}
	}
	c.forget(key)
	return nil
}

// writeSlices writes a plan. Those of a service that is being deleted are not made
// anew.
func (c *Controller) writeSlices(ctx context.Context, service *corev1.Service, p plan) error {
	if service != nil && service.DeletionTimestamp != nil {
		p.create = nil
	}
	for _, slice := range p.create {
		_, err := c.registry.Create(ctx, resource.EndpointSlices, slice.Namespace, slice, resource.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("create endpoint slice: %w", err)
		}
	}
	for _, slice := range p.update {
		if err := controller.Change(ctx, c.registry, resource.EndpointSlices, slice, "", func(now *discoveryv1.EndpointSlice) bool {
			now.Labels, now.Annotations, now.OwnerReferences = slice.Labels, slice.Annotations, slice.OwnerReferences
			now.Endpoints, now.Ports = slice.Endpoints, slice.Ports
			return true
		}); err != nil {
			return err
		}
	}
	for _, slice := range p.remove {
		if err := controller.Delete(ctx, c.registry, resource.EndpointSlices, slice); err != nil {
			return fmt.Errorf("endpoint slice %s: %w", slice.Name, err)
		}
	}
	return nil
}

// selects says that a service sends its traffic to a pod.
func selects(service *corev1.Service, pod *corev1.Pod) bool {
	if len(service.Spec.Selector) == 0 {
		return false
	}
	for name, value := range service.Spec.Selector {
		if has, ok := pod.Labels[name]; !ok || has != value {
			return false
		}
	}
	return true
}

// sameEndpoint says that nothing has changed of what services tell of a pod.
func sameEndpoint(old, now *corev1.Pod) bool {
	_, was := controller.ReadySince(old)
	_, is := controller.ReadySince(now)
	return was == is && sameLabels(old.Labels, now.Labels) &&
		(old.DeletionTimestamp == nil) == (now.DeletionTimestamp == nil) &&
		controller.HasFinished(old) == controller.HasFinished(now) &&
		old.UID == now.UID && old.Spec.NodeName == now.Spec.NodeName &&
		old.Spec.Hostname == now.Spec.Hostname && old.Spec.Subdomain == now.Spec.Subdomain &&
		old.Status.PodIP == now.Status.PodIP && slices.Equal(old.Status.PodIPs, now.Status.PodIPs)
}
