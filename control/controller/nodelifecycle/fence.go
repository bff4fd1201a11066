package nodelifecycle

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/proto/agent/fencing"
)

// fenceAgain is when a pod is looked at again of which it can't be said yet
// whether it has stopped, because too few nodes are heard.
const fenceAgain = 5 * time.Second

// awaitsFence says whether a pod is being deleted and must be known to have
// stopped before there may be another in its place.
func awaitsFence(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil && pod.Spec.NodeName != "" && fencing.Guards(pod)
}

// fenceOn asks for a look at the pods of a node that wait for its fence.
func (c *Controller) fenceOn(node string) {
	for _, pod := range c.caches.Pods.ByIndex(controller.PodsByNode, node) {
		if awaitsFence(pod) {
			c.fences.Add(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
		}
	}
}

// fence removes a guarded pod that is being deleted once its agent, which can't
// say so, has certainly stopped it.
func (c *Controller) fence(ctx context.Context, key types.NamespacedName) error {
	pod, ok := c.caches.Pods.Get(key.Namespace, key.Name)
	if !ok || !awaitsFence(pod) {
		return nil
	}
	node, ok := c.caches.Nodes.Get("", pod.Spec.NodeName)
	if !ok {
		return nil // others collect the pods of nodes that do not exist
	}
	wait, promised := fencing.WaitFor(node)
	now := time.Now()
	lost, is := c.attendance.lostFor(node.Name, now)
	if !promised || !is {
		return nil // asked for again when the node is lost
	}
	if lost < wait {
		c.fences.AddAfter(key, wait-lost)
		return nil
	}
	if nodes, heard := c.witnesses(node, wait, now); !fencing.MayFence(nodes, heard) {
		if c.attendance.firstDoubt(node.Name) {
			c.log.Warn("a lost node's pods are not known to have stopped: too few of all nodes have been heard since", "node", node.Name, "nodes", nodes, "heard", heard)
		}
		c.fences.AddAfter(key, fenceAgain)
		return nil
	}
	_, _, err := c.registry.Delete(ctx, resource.Pods, pod.Namespace, pod.Name, &metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To(int64(0)),
		Preconditions:      &metav1.Preconditions{UID: &pod.UID},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		return err
	}
	c.log.Info("pod of a fenced node removed", "pod", key, "node", node.Name, "lost", lost.Round(time.Second))
	c.events.Event(store.Pods, pod, corev1.EventTypeNormal, "Fenced",
		fmt.Sprintf("Node %s has not been heard for %s and has stopped this pod by itself", node.Name, lost.Round(time.Second)))
	return nil
}

// witnesses counts the nodes that were there when this one was lost, and those
// of them that have been heard for so long.
func (c *Controller) witnesses(lost *corev1.Node, wait time.Duration, now time.Time) (nodes, heard int) {
	since := now.Add(-wait)
	if ready := conditionOf(lost, corev1.NodeReady); ready != nil && ready.LastTransitionTime.Time.Before(since) {
		since = ready.LastTransitionTime.Time
	}
	for _, node := range c.caches.Nodes.List() {
		if node.Name != lost.Name && node.CreationTimestamp.After(since.Add(-fencing.SettledAge)) {
			continue
		}
		nodes++
		if c.attendance.heardFor(node.Name, now) >= wait {
			heard++
		}
	}
	return nodes, heard
}
