// Package volumebinding gives claims their volumes: one that is there and fits, or
// a new one, a directory of a node, from the local-path provisioner, which is part
// of this package. Volumes that lose their claim are released, kept or given up. It follows
// upstream's persistent volume controller in what it decides, writes and says.
//
// Which node a volume is to be on, where that waits for a pod, is the scheduler's
// business; directories are made and deleted by agents.
package volumebinding

import (
	"context"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/volume"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
)

// workers bounds the claims and volumes that are looked at together.
const workers = 8

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Caches   *controller.Caches
	Events   *controller.Recorder
	Logger   *slog.Logger
}

// Controller binds claims and volumes.
type Controller struct {
	registry *resource.Registry
	caches   *controller.Caches
	events   controller.Source
	loop     *controller.Loop[object]
}

// object is a claim, or with no namespace a volume.
type object struct{ namespace, name string }

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry, caches: cfg.Caches, events: cfg.Events.Source("persistentvolume-controller")}
	c.loop = controller.NewLoop("volumebinding", workers, cfg.Logger, c.reconcile)
	c.caches.PersistentVolumeClaims.OnChange(c.onClaim)
	c.caches.PersistentVolumes.OnChange(c.onVolume)
	c.caches.StorageClasses.OnChange(func(_, now *storagev1.StorageClass) {
		if now != nil {
			c.addOpen(func(claim *corev1.PersistentVolumeClaim) bool {
				class := volume.GetPersistentVolumeClaimClass(claim)
				return class == now.Name || class == ""
			})
		}
	})
	c.caches.Nodes.OnChange(c.onNode)
	c.caches.Pods.OnChange(c.onPod)
	return c
}

// Run binds until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !c.caches.Synced(ctx) {
		return nil
	}
	return c.loop.Run(ctx)
}

func (c *Controller) onClaim(old, now *corev1.PersistentVolumeClaim) {
	claim := now
	if claim == nil {
		claim = old
	} else {
		c.loop.Add(object{now.Namespace, now.Name})
	}
	if claim.Spec.VolumeName != "" {
		c.loop.Add(object{name: claim.Spec.VolumeName})
	}
	for _, v := range c.caches.PersistentVolumes.ByIndex(controller.ByClaim, claim.Namespace+"/"+claim.Name) {
		c.loop.Add(object{name: v.Name})
	}
}

func (c *Controller) onVolume(old, now *corev1.PersistentVolume) {
	v := now
	if v == nil {
		v = old
		for _, claim := range c.caches.PersistentVolumeClaims.ByIndex(controller.ByVolume, v.Name) {
			c.loop.Add(object{claim.Namespace, claim.Name})
		}
	} else {
		c.loop.Add(object{name: v.Name})
	}
	if ref := v.Spec.ClaimRef; ref != nil {
		c.loop.Add(object{ref.Namespace, ref.Name})
	}
	if now == nil || now.Spec.ClaimRef != nil {
		return
	}
	// It is anybody's: who waits for one, or for this one, may have it.
	for _, claim := range c.caches.PersistentVolumeClaims.ByIndex(controller.ByVolume, now.Name) {
		c.loop.Add(object{claim.Namespace, claim.Name})
	}
	class := volume.GetPersistentVolumeClass(now)
	c.addOpen(func(claim *corev1.PersistentVolumeClaim) bool {
		return volume.GetPersistentVolumeClaimClass(claim) == class
	})
}

// onNode is for claims that wait for a node to say where its volumes are, and for
// volumes whose node is gone for good.
func (c *Controller) onNode(old, now *corev1.Node) {
	switch {
	case now == nil:
		for _, v := range c.caches.PersistentVolumes.List() {
			if v.Annotations[resource.VolumeNodeAnnotation] == old.Name {
				c.loop.Add(object{name: v.Name})
			}
		}
		c.addOpen(func(claim *corev1.PersistentVolumeClaim) bool {
			return claim.Annotations[volume.AnnSelectedNode] == old.Name
		})
	case old == nil || old.Annotations[resource.LocalVolumesAnnotation] != now.Annotations[resource.LocalVolumesAnnotation]:
		c.addOpen(func(claim *corev1.PersistentVolumeClaim) bool {
			return claim.Annotations[volume.AnnSelectedNode] == now.Name
		})
	}
}

// onPod has claims say which pods wait, once a pod is known to.
func (c *Controller) onPod(old, now *corev1.Pod) {
	if now == nil || !isUnschedulable(now) || old != nil && isUnschedulable(old) {
		return
	}
	for _, name := range controller.ClaimsOf(now) {
		c.loop.Add(object{now.Namespace, name})
	}
}

func isUnschedulable(pod *corev1.Pod) bool {
	for i := range pod.Status.Conditions {
		if cond := &pod.Status.Conditions[i]; cond.Type == corev1.PodScheduled {
			return cond.Status == corev1.ConditionFalse
		}
	}
	return false
}

// addOpen has those claims without a volume looked at that are as asked.
func (c *Controller) addOpen(is func(*corev1.PersistentVolumeClaim) bool) {
	for _, claim := range c.caches.PersistentVolumeClaims.ByIndex(controller.ByVolume, "") {
		if is(claim) {
			c.loop.Add(object{claim.Namespace, claim.Name})
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, o object) error {
	if err := c.current(ctx); err != nil {
		return err
	}
	if o.namespace == "" {
		v, ok := c.caches.PersistentVolumes.Get("", o.name)
		if !ok {
			return nil
		}
		return c.carryOut(ctx, planVolume(view{c.caches}, v))
	}
	claim, ok := c.caches.PersistentVolumeClaims.Get(o.namespace, o.name)
	if !ok {
		return nil
	}
	p, err := planClaim(view{c.caches}, claim)
	if err != nil {
		return err
	}
	if p.claim == nil {
		p.claim = claim // that events are about
	}
	return c.carryOut(ctx, p)
}

// current waits until the caches show what is stored.
func (c *Controller) current(ctx context.Context) error {
	revision := c.registry.Store().Revision()
	for _, cache := range []interface {
		WaitRevision(context.Context, uint64) error
	}{c.caches.PersistentVolumeClaims, c.caches.PersistentVolumes, c.caches.StorageClasses, c.caches.Nodes} {
		if err := cache.WaitRevision(ctx, revision); err != nil {
			return err
		}
	}
	return nil
}

// view is the cluster as caches show it.
type view struct{ caches *controller.Caches }

func (v view) claim(namespace, name string) *corev1.PersistentVolumeClaim {
	claim, _ := v.caches.PersistentVolumeClaims.Get(namespace, name)
	return claim
}

func (v view) volume(name string) *corev1.PersistentVolume {
	found, _ := v.caches.PersistentVolumes.Get("", name)
	return found
}

func (v view) candidates(claim *corev1.PersistentVolumeClaim) []*corev1.PersistentVolume {
	volumes := v.caches.PersistentVolumes
	return append(volumes.ByIndex(controller.ByClaim, claim.Namespace+"/"+claim.Name), volumes.ByIndex(controller.ByClaim, "")...)
}

func (v view) class(name string) *storagev1.StorageClass {
	class, _ := v.caches.StorageClasses.Get("", name)
	return class
}

func (v view) classes() []*storagev1.StorageClass { return v.caches.StorageClasses.List() }

func (v view) node(name string) *corev1.Node {
	node, _ := v.caches.Nodes.Get("", name)
	return node
}

func (v view) waiting(claim *corev1.PersistentVolumeClaim) (pods []string) {
	for _, pod := range v.caches.Pods.ByIndex(controller.ByClaim, claim.Namespace+"/"+claim.Name) {
		if pod.Spec.NodeName == "" && !controller.HasFinished(pod) {
			pods = append(pods, pod.Name)
		}
	}
	return pods
}
