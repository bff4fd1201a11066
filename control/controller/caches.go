package controller

import (
	"context"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
)

// Indexes of Caches.
const (
	// PodsByNode finds the pods bound to a node by its name.
	PodsByNode = "node"
	// PodsByController finds pods by the UID of the controller that keeps them.
	PodsByController = "controller"
	// PodsOnTheirOwn finds, by namespace, pods that no controller keeps.
	PodsOnTheirOwn = "on-their-own"
	// ByNamespace finds replication controllers by namespace.
	ByNamespace = "namespace"
	// ByOwner finds objects by the UID of each of their owners.
	ByOwner = "owner"
)

// Caches are the decoded copies that the scheduler and all controllers of a
// term share: every object is decoded once however many look at it. Objects in
// them must not be changed.
//
// Order matters: make the caches, make everything that listens to them, then
// Run. Whoever reads waits for Synced first.
type Caches struct {
	Pods                   *store.Cache[*corev1.Pod]
	Nodes                  *store.Cache[*corev1.Node]
	Namespaces             *store.Cache[*corev1.Namespace]
	ReplicationControllers *store.Cache[*corev1.ReplicationController]
}

// NewCaches prepares caches of what s holds; they are empty until Run.
func NewCaches(s *store.Store) *Caches {
	return &Caches{
		Pods: store.NewCache(s, store.Pods, map[string]func(*corev1.Pod) []string{
			PodsByNode: func(p *corev1.Pod) []string {
				if p.Spec.NodeName == "" {
					return nil
				}
				return []string{p.Spec.NodeName}
			},
			PodsByController: func(p *corev1.Pod) []string {
				if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
					return []string{string(ref.UID)}
				}
				return nil
			},
			PodsOnTheirOwn: func(p *corev1.Pod) []string {
				if metav1.GetControllerOfNoCopy(p) != nil {
					return nil
				}
				return []string{p.Namespace}
			},
			ByOwner: owners[*corev1.Pod],
		}),
		Nodes:      store.NewCache[*corev1.Node](s, store.Nodes, nil),
		Namespaces: store.NewCache[*corev1.Namespace](s, store.Namespaces, nil),
		ReplicationControllers: store.NewCache(s, store.ReplicationControllers, map[string]func(*corev1.ReplicationController) []string{
			ByNamespace: func(rc *corev1.ReplicationController) []string { return []string{rc.Namespace} },
			ByOwner:     owners[*corev1.ReplicationController],
		}),
	}
}

func owners[T metav1.Object](obj T) []string {
	var uids []string
	for _, ref := range obj.GetOwnerReferences() {
		uids = append(uids, string(ref.UID))
	}
	return uids
}

// Run keeps the caches current until ctx ends.
func (c *Caches) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.Pods.Run(ctx) })
	g.Go(func() error { return c.Nodes.Run(ctx) })
	g.Go(func() error { return c.Namespaces.Run(ctx) })
	g.Go(func() error { return c.ReplicationControllers.Run(ctx) })
	return g.Wait()
}

// Synced waits until every cache holds what was stored when Run began; false
// when ctx ended before.
func (c *Caches) Synced(ctx context.Context) bool {
	for _, synced := range []<-chan struct{}{
		c.Pods.Synced(), c.Nodes.Synced(), c.Namespaces.Synced(), c.ReplicationControllers.Synced(),
	} {
		select {
		case <-synced:
		case <-ctx.Done():
			return false
		}
	}
	return true
}
