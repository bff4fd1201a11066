// Package ephemeralvolume makes the claims of pods' ephemeral volumes. A claim goes
// with its pod, which owns it; the garbage collector sees to that.
package ephemeralvolume

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"

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
	Events   *controller.Recorder
	Logger   *slog.Logger
}

// Controller makes the claims.
type Controller struct {
	registry *resource.Registry
	caches   *controller.Caches
	events   controller.Source
	loop     *controller.Loop[types.NamespacedName]
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry, caches: cfg.Caches, events: cfg.Events.Source("ephemeral_volume")}
	c.loop = controller.NewLoop("ephemeralvolume", workers, cfg.Logger, c.reconcile)
	c.caches.Pods.OnChange(func(old, now *corev1.Pod) {
		// Volumes of a pod don't change.
		if now != nil && (old == nil || old.UID != now.UID) {
			c.add(now)
		}
	})
	c.caches.PersistentVolumeClaims.OnChange(func(old, now *corev1.PersistentVolumeClaim) {
		if now != nil {
			return
		}
		for _, pod := range c.caches.Pods.ByIndex(controller.ByClaim, old.Namespace+"/"+old.Name) {
			c.add(pod)
		}
	})
	return c
}

// Run makes claims until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !c.caches.Synced(ctx) {
		return nil
	}
	return c.loop.Run(ctx)
}

func (c *Controller) add(pod *corev1.Pod) {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Ephemeral != nil {
			c.loop.Add(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
			return
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	if err := c.caches.PersistentVolumeClaims.WaitRevision(ctx, c.registry.Store().Revision()); err != nil {
		return err
	}
	pod, ok := c.caches.Pods.Get(key.Namespace, key.Name)
	if !ok || pod.DeletionTimestamp != nil {
		return nil
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral == nil {
			continue
		}
		if err := c.ensure(ctx, pod, v); err != nil {
			if ctx.Err() == nil {
				c.events.Event(store.Pods, pod, corev1.EventTypeWarning, "FailedBinding", fmt.Sprintf("ephemeral volume %s: %v", v.Name, err))
			}
			return fmt.Errorf("ephemeral volume %s: %w", v.Name, err)
		}
	}
	return nil
}

// ensure makes a volume's claim. One of that name that is not the pod's is an error:
// it is somebody's data.
func (c *Controller) ensure(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	name := ephemeral.VolumeClaimName(pod, v)
	if claim, ok := c.caches.PersistentVolumeClaims.Get(pod.Namespace, name); ok {
		return ephemeral.VolumeIsForPod(pod, claim)
	}
	template := v.Ephemeral.VolumeClaimTemplate.DeepCopy()
	_, err := c.registry.Create(ctx, resource.PersistentVolumeClaims, pod.Namespace, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Annotations: template.Annotations, Labels: template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, store.Pods.Kind)},
		},
		Spec: template.Spec,
	}, resource.CreateOptions{})
	if err != nil && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return fmt.Errorf("create PVC %s: %w", name, err)
	}
	return nil
}
