// Package podgc deletes pods that nothing else will: those bound to nodes that
// do not exist, those that were deleted before they had a node, and the oldest
// of very many that have finished.
package podgc

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const (
	// graceDefault is how long a node may be missing before its pods are: it may
	// have been deleted by mistake, and its agent registers it again.
	graceDefault = 20 * time.Second
	// finishedMostDefault is how many finished pods are kept, as upstream.
	finishedMostDefault = 12_500

	workers = 16
	writers = 32
)

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Caches   *controller.Caches
	// Grace is how long pods outlive their node's object, 0 for the default.
	Grace time.Duration
	// FinishedMost is how many finished pods are kept, 0 for the default.
	FinishedMost int
	Logger       *slog.Logger
}

// Controller deletes such pods.
type Controller struct {
	registry     *resource.Registry
	caches       *controller.Caches
	grace        time.Duration
	finishedMost int
	pods         *controller.Loop[types.NamespacedName]
	finished     *controller.Loop[struct{}]

	mu       sync.Mutex
	ended    map[types.UID]struct{} // pods that have finished
	homeless map[types.UID]time.Time
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	c := &Controller{
		registry:     cfg.Registry,
		caches:       cfg.Caches,
		grace:        cmp.Or(cfg.Grace, graceDefault),
		finishedMost: cmp.Or(cfg.FinishedMost, finishedMostDefault),
		ended:        make(map[types.UID]struct{}),
		homeless:     make(map[types.UID]time.Time),
	}
	c.pods = controller.NewLoop("podgc", workers, cfg.Logger, c.reconcile)
	c.finished = controller.NewLoop("podgc-finished", 1, cfg.Logger, c.trim)
	c.caches.Pods.OnChange(c.onPod)
	c.caches.Nodes.OnChange(c.onNode)
	return c
}

// Run collects until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	// Before all nodes are known every pod seems homeless.
	if !c.caches.Synced(ctx) {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.pods.Run(ctx) })
	g.Go(func() error { return c.finished.Run(ctx) })
	return g.Wait()
}

func (c *Controller) onPod(old, now *corev1.Pod) {
	if now == nil {
		c.mu.Lock()
		delete(c.ended, old.UID)
		delete(c.homeless, old.UID)
		c.mu.Unlock()
		return
	}
	if hasFinished(now) {
		c.mu.Lock()
		c.ended[now.UID] = struct{}{}
		many := len(c.ended) > c.finishedMost
		c.mu.Unlock()
		if many {
			c.finished.Add(struct{}{})
		}
	}
	node, exists := c.caches.Nodes.Get("", now.Spec.NodeName)
	if now.Spec.NodeName != "" && !exists || leavesForGood(now, node) {
		c.pods.Add(types.NamespacedName{Namespace: now.Namespace, Name: now.Name})
	}
}

func (c *Controller) onNode(old, now *corev1.Node) {
	back := now != nil && old == nil
	if now != nil && !back && !outOfService(now) {
		return
	}
	for _, pod := range c.caches.Pods.ByIndex(controller.PodsByNode, cmp.Or(now, old).Name) {
		if back {
			c.mu.Lock()
			delete(c.homeless, pod.UID)
			c.mu.Unlock()
			if !outOfService(now) {
				continue
			}
		}
		c.pods.Add(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
	}
}

// leavesForGood says whether a pod that is being deleted has nobody to finish
// that: it has no node, or an administrator has said that its node will not run
// again what it ran (the taint out-of-service).
func leavesForGood(pod *corev1.Pod, node *corev1.Node) bool {
	return pod.DeletionTimestamp != nil && (pod.Spec.NodeName == "" || node != nil && outOfService(node))
}

func outOfService(node *corev1.Node) bool {
	tainted := slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
	return tainted && !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func hasFinished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	pod, ok := c.caches.Pods.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	node, exists := c.caches.Nodes.Get("", pod.Spec.NodeName)
	if leavesForGood(pod, node) {
		return c.remove(ctx, pod)
	}
	if pod.Spec.NodeName == "" || exists {
		return nil
	}
	if left := c.homelessFor(pod.UID, time.Now()); left > 0 {
		c.pods.AddAfter(key, left)
		return nil
	}
	// The cache may not know a node that has just come back.
	if _, _, err := c.registry.Store().Table(store.Nodes).GetItem("", pod.Spec.NodeName); err == nil {
		return nil
	}
	return c.remove(ctx, pod)
}

// homelessFor notes that a pod's node is missing and returns how long the pod
// has left.
func (c *Controller) homelessFor(pod types.UID, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	since, known := c.homeless[pod]
	if !known {
		since = now
		c.homeless[pod] = now
	}
	return c.grace - now.Sub(since)
}

// trim deletes the oldest finished pods above the limit.
func (c *Controller) trim(ctx context.Context, _ struct{}) error {
	var ended []*corev1.Pod
	for _, pod := range c.caches.Pods.List() {
		if hasFinished(pod) {
			ended = append(ended, pod)
		}
	}
	var g errgroup.Group
	g.SetLimit(writers)
	for _, pod := range surplus(ended, c.finishedMost) {
		g.Go(func() error { return c.remove(ctx, pod) })
	}
	return g.Wait()
}

// surplus are the pods to delete so that most are left, the oldest first. It
// reorders pods.
func surplus(pods []*corev1.Pod, most int) []*corev1.Pod {
	if len(pods) <= most {
		return nil
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.UID, b.UID))
	})
	return pods[:len(pods)-most]
}

// remove deletes a pod without grace: there is nobody to wait for.
func (c *Controller) remove(ctx context.Context, pod *corev1.Pod) error {
	_, _, err := c.registry.Delete(ctx, resource.Pods, pod.Namespace, pod.Name, &metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To(int64(0)),
		Preconditions:      &metav1.Preconditions{UID: &pod.UID},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
