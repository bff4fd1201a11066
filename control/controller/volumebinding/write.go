package volumebinding

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// errNewer: the plan was made from an older version of the object.
var errNewer = errors.New("changed meanwhile")

// carryOut writes what differs from the plan, each time over the very version that
// the plan was made from.
func (c *Controller) carryOut(ctx context.Context, p plan) error {
	if p.volume != nil {
		v, err := c.writeVolume(ctx, p.volume)
		if err != nil {
			return err
		}
		p.volume = v
	}
	if p.claim != nil {
		claim, err := c.writeClaim(ctx, p.claim)
		if err != nil {
			return err
		}
		p.claim = claim
	}
	for _, s := range p.said {
		if s.onVolume {
			c.events.Event(store.PersistentVolumes, p.volume, s.kind, s.reason, s.message)
		} else {
			c.events.Event(store.PersistentVolumeClaims, p.claim, s.kind, s.reason, s.message)
		}
	}
	if p.remove {
		return c.remove(ctx, p.volume)
	}
	return nil
}

func (c *Controller) writeVolume(ctx context.Context, want *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	kind := resource.PersistentVolumes
	was, there := c.caches.PersistentVolumes.Get("", want.Name)
	if want.UID == "" {
		created, err := c.registry.Create(ctx, kind, "", want.DeepCopy(), resource.CreateOptions{})
		if err != nil {
			return nil, fmt.Errorf("create volume %s: %w", want.Name, err)
		}
		was = created.(*corev1.PersistentVolume)
	} else if !there || was.ResourceVersion != want.ResourceVersion {
		return nil, newer(kind, want)
	}
	spec := want.UID != "" && (!apiequality.Semantic.DeepEqual(was.Spec, want.Spec) || !sameMeta(was, want))
	now, err := write(ctx, c.registry, kind, was, "", spec, func(now *corev1.PersistentVolume) {
		now.Spec = want.Spec
		now.Annotations, now.Finalizers = want.Annotations, want.Finalizers
	})
	if err != nil {
		return nil, err
	}
	status := now.Status.Phase != want.Status.Phase || now.Status.Message != want.Status.Message || now.Status.Reason != want.Status.Reason
	return write(ctx, c.registry, kind, now, "status", status, func(now *corev1.PersistentVolume) {
		now.Status.Phase, now.Status.Message, now.Status.Reason = want.Status.Phase, want.Status.Message, want.Status.Reason
	})
}

func (c *Controller) writeClaim(ctx context.Context, want *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error) {
	kind := resource.PersistentVolumeClaims
	was, there := c.caches.PersistentVolumeClaims.Get(want.Namespace, want.Name)
	if !there || was.ResourceVersion != want.ResourceVersion {
		return nil, newer(kind, want)
	}
	spec := !apiequality.Semantic.DeepEqual(was.Spec, want.Spec) || !sameMeta(was, want)
	now, err := write(ctx, c.registry, kind, was, "", spec, func(now *corev1.PersistentVolumeClaim) {
		now.Spec, now.Annotations = want.Spec, want.Annotations
	})
	if err != nil {
		return nil, err
	}
	status := !apiequality.Semantic.DeepEqual(now.Status, want.Status)
	return write(ctx, c.registry, kind, now, "status", status, func(now *corev1.PersistentVolumeClaim) { now.Status = want.Status })
}

func sameMeta(a, b store.Object) bool {
	return apiequality.Semantic.DeepEqual(a.GetAnnotations(), b.GetAnnotations()) && apiequality.Semantic.DeepEqual(a.GetFinalizers(), b.GetFinalizers())
}

// write changes an object, or its status, over the version was, and answers it as it is
// then. A newer version is a conflict: it is looked at again.
func write[T store.Object](ctx context.Context, registry *resource.Registry, kind *resource.Kind, was T, subresource string, differs bool, change func(now T)) (T, error) {
	if !differs {
		return was, nil
	}
	written, _, err := registry.Update(ctx, kind, was.GetNamespace(), was.GetName(), subresource, func(now store.Object) (store.Object, error) {
		if now.GetUID() != was.GetUID() || now.GetResourceVersion() != was.GetResourceVersion() {
			return nil, errNewer
		}
		change(now.(T))
		return now, nil
	}, resource.UpdateOptions{})
	switch {
	case errors.Is(err, errNewer), apierrors.IsNotFound(err):
		return was, newer(kind, was)
	case err != nil:
		return was, fmt.Errorf("%s %s: %w", kind.Singular, was.GetName(), err)
	}
	return written.(T), nil
}

func newer(kind *resource.Kind, obj store.Object) error {
	return apierrors.NewConflict(kind.Spec.Resource, obj.GetName(), errNewer)
}

// remove deletes a volume whose directory nobody can delete, unless the store knows
// its node after all.
func (c *Controller) remove(ctx context.Context, v *corev1.PersistentVolume) error {
	node := v.Annotations[resource.VolumeNodeAnnotation]
	_, err := c.registry.Store().Table(store.Nodes).Get(ctx, "", node)
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err := controller.Delete(ctx, c.registry, resource.PersistentVolumes, v); err != nil {
		return err
	}
	return controller.Change(ctx, c.registry, resource.PersistentVolumes, v, "", resource.WithoutDirectory)
}
