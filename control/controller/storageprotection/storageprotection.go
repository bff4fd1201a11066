// Package storageprotection lets volumes and claims go that were deleted and are
// not used any more. Admission gives each a finalizer; here it is taken off: from a
// claim once no pod that has a node uses it, from a volume once it is not bound,
// from an attributes class once no claim or volume names it.
package storageprotection

import (
	"context"
	"log/slog"
	"slices"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const workers = 4

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Caches   *controller.Caches
	Logger   *slog.Logger
}

// Controller takes the finalizers off.
type Controller struct {
	registry *resource.Registry
	pods     *store.Cache[*corev1.Pod]
	claims   *store.Cache[*corev1.PersistentVolumeClaim]
	volumes  *store.Cache[*corev1.PersistentVolume]
	classes  *store.Cache[*storagev1.VolumeAttributesClass]
	loop     *controller.Loop[object]
}

type object struct {
	kind            *resource.Kind
	namespace, name string
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	c := &Controller{
		registry: cfg.Registry,
		pods:     cfg.Caches.Pods,
		claims:   cfg.Caches.PersistentVolumeClaims,
		volumes:  cfg.Caches.PersistentVolumes,
		classes:  store.NewCache[*storagev1.VolumeAttributesClass](cfg.Registry.Store(), store.VolumeAttributesClasses, nil),
	}
	c.loop = controller.NewLoop("storageprotection", workers, cfg.Logger, c.reconcile)
	c.claims.OnChange(func(old, now *corev1.PersistentVolumeClaim) {
		if now != nil && now.DeletionTimestamp != nil {
			c.loop.Add(object{resource.PersistentVolumeClaims, now.Namespace, now.Name})
		}
		for _, claim := range []*corev1.PersistentVolumeClaim{old, now} {
			if claim != nil {
				c.free(claim.Spec.VolumeAttributesClassName, claim.Status.CurrentVolumeAttributesClassName)
			}
		}
	})
	c.volumes.OnChange(func(old, now *corev1.PersistentVolume) {
		if now != nil && now.DeletionTimestamp != nil {
			c.loop.Add(object{resource.PersistentVolumes, "", now.Name})
		}
		if old != nil {
			c.free(old.Spec.VolumeAttributesClassName)
		}
	})
	c.classes.OnChange(func(_, now *storagev1.VolumeAttributesClass) {
		if now != nil && now.DeletionTimestamp != nil {
			c.loop.Add(object{resource.VolumeAttributesClasses, "", now.Name})
		}
	})
	c.pods.OnChange(func(old, now *corev1.Pod) {
		// A pod cannot change what it uses; it can go, or end.
		if old != nil && (now == nil || ended(now)) {
			for _, name := range controller.ClaimsOf(old) {
				c.loop.Add(object{resource.PersistentVolumeClaims, old.Namespace, name})
			}
		}
	})
	return c
}

// free has attributes classes looked at that may not be named any more.
func (c *Controller) free(names ...*string) {
	for _, name := range names {
		if class, ok := c.classes.Get("", ptr.Deref(name, "")); ok && class.DeletionTimestamp != nil {
			c.loop.Add(object{resource.VolumeAttributesClasses, "", class.Name})
		}
	}
}

// Run protects until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.classes.Run(ctx) })
	g.Go(func() error {
		for _, synced := range []<-chan struct{}{c.pods.Synced(), c.claims.Synced(), c.volumes.Synced(), c.classes.Synced()} {
			select {
			case <-synced:
			case <-ctx.Done():
				return nil
			}
		}
		return c.loop.Run(ctx)
	})
	return g.Wait()
}

func (c *Controller) reconcile(ctx context.Context, o object) error {
	var finalizer string
	switch o.kind {
	case resource.PersistentVolumeClaims:
		claim, ok := c.claims.Get(o.namespace, o.name)
		if !ok || claim.DeletionTimestamp == nil || c.claimUsed(claim) {
			return nil
		}
		finalizer = resource.ClaimProtection
	case resource.PersistentVolumes:
		volume, ok := c.volumes.Get("", o.name)
		if !ok || volume.DeletionTimestamp == nil || volume.Status.Phase == corev1.VolumeBound {
			return nil
		}
		finalizer = resource.VolumeProtection
	case resource.VolumeAttributesClasses:
		class, ok := c.classes.Get("", o.name)
		if !ok || class.DeletionTimestamp == nil || c.classUsed(class) {
			return nil
		}
		finalizer = resource.AttributesClassProtection
	}
	_, _, err := c.registry.Update(ctx, o.kind, o.namespace, o.name, "", func(current store.Object) (store.Object, error) {
		if current.GetDeletionTimestamp() != nil {
			current.SetFinalizers(slices.DeleteFunc(current.GetFinalizers(), func(f string) bool { return f == finalizer }))
		}
		return current, nil
	}, resource.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// claimUsed says whether a pod that has a node uses the claim. One that has none
// yet will not get to a node with a claim that is being deleted.
func (c *Controller) claimUsed(claim *corev1.PersistentVolumeClaim) bool {
	for _, pod := range c.pods.ByIndex(controller.ByClaim, claim.Namespace+"/"+claim.Name) {
		if pod.Spec.NodeName != "" && !ended(pod) {
			return true
		}
	}
	return false
}

func (c *Controller) classUsed(class *storagev1.VolumeAttributesClass) bool {
	for _, claim := range c.claims.List() {
		if ptr.Deref(claim.Spec.VolumeAttributesClassName, "") == class.Name || ptr.Deref(claim.Status.CurrentVolumeAttributesClassName, "") == class.Name {
			return true
		}
	}
	for _, volume := range c.volumes.List() {
		if ptr.Deref(volume.Spec.VolumeAttributesClassName, "") == class.Name {
			return true
		}
	}
	return false
}

// ended says that no container of the pod runs any more, or will.
func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}
