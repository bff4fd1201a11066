package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/storage/names"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// create makes n pods, in batches that double: when pods cannot be made, for
// lack of a quota say, one attempt finds out and not hundreds.
func (c *Controller) create(ctx context.Context, rc *corev1.ReplicationController, n int) error {
	var failed error
	for batch := 1; n > 0 && failed == nil; batch *= 2 {
		var g errgroup.Group
		g.SetLimit(writers)
		for range min(batch, n) {
			g.Go(func() error { return c.createOne(ctx, rc) })
		}
		failed = g.Wait()
		n -= batch
	}
	return failed
}

func (c *Controller) createOne(ctx context.Context, rc *corev1.ReplicationController) error {
	pod := podOf(rc)
	name, again := c.takeUnsure(rc)
	if !again {
		name = names.SimpleNameGenerator.GenerateName(pod.GenerateName)
	}
	pod.Name = name
	_, err := c.registry.Create(ctx, resource.Pods, rc.Namespace, pod, resource.CreateOptions{})
	switch {
	case err == nil:
		c.events.Event(store.ReplicationControllers, rc, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: "+name)
		return nil
	case apierrors.IsAlreadyExists(err):
		// Ours, if the attempt without an answer took effect. Otherwise the name
		// is somebody's, and the next attempt uses another.
		there, e := c.registry.Store().Table(store.Pods).Get(ctx, rc.Namespace, name)
		if e == nil && again && metav1.IsControlledBy(there, rc) {
			return nil
		}
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // the controller goes the same way
	case !definite(err):
		c.addUnsure(rc, name)
	}
	if ctx.Err() == nil {
		c.events.Event(store.ReplicationControllers, rc, corev1.EventTypeWarning, "FailedCreate", "Error creating: "+err.Error())
	}
	return fmt.Errorf("create pod: %w", err)
}

// definite says that a write was refused. Anything else, the log's errors that
// is, may have taken effect.
func definite(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status)
}

func (c *Controller) takeUnsure(rc *corev1.ReplicationController) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := c.unsure[rc.UID]
	if len(left) == 0 {
		return "", false
	}
	if c.unsure[rc.UID] = left[1:]; len(left) == 1 {
		delete(c.unsure, rc.UID)
	}
	return left[0], true
}

func (c *Controller) addUnsure(rc *corev1.ReplicationController, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Of a controller that is gone nothing is tried again.
	if now, ok := c.caches.ReplicationControllers.Get(rc.Namespace, rc.Name); ok && now.UID == rc.UID {
		c.unsure[rc.UID] = append(c.unsure[rc.UID], name)
	}
}

// podOf makes the pod that the controller's template describes.
func podOf(rc *corev1.ReplicationController) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace:       rc.Namespace,
		GenerateName:    rc.Name + "-",
		OwnerReferences: []metav1.OwnerReference{*ownerReference(rc)},
	}}
	if t := rc.Spec.Template; t != nil {
		meta := t.ObjectMeta.DeepCopy()
		pod.Labels, pod.Annotations = meta.Labels, meta.Annotations
		pod.Finalizers = slices.Clone(meta.Finalizers)
		pod.Spec = *t.Spec.DeepCopy()
	}
	return pod
}

// remove deletes pods, each with the grace that it asks for.
func (c *Controller) remove(ctx context.Context, rc *corev1.ReplicationController, pods []*corev1.Pod) error {
	var g errgroup.Group
	g.SetLimit(writers)
	for _, pod := range pods {
		g.Go(func() error {
			_, _, err := c.registry.Delete(ctx, resource.Pods, pod.Namespace, pod.Name,
				&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
			switch {
			case err == nil:
				c.events.Event(store.ReplicationControllers, rc, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: "+pod.Name)
				return nil
			case apierrors.IsNotFound(err), apierrors.IsConflict(err):
				return nil // gone already, or another of that name
			}
			if ctx.Err() == nil {
				c.events.Event(store.ReplicationControllers, rc, corev1.EventTypeWarning, "FailedDelete", "Error deleting: "+err.Error())
			}
			return fmt.Errorf("delete pod %s: %w", pod.Name, err)
		})
	}
	return g.Wait()
}
