package nodelifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

func (c *Controller) onPod(_, now *corev1.Pod) {
	if now == nil || now.Spec.NodeName == "" {
		return
	}
	if now.DeletionTimestamp != nil {
		if awaitsFence(now) {
			c.fences.Add(types.NamespacedName{Namespace: now.Namespace, Name: now.Name})
		}
		return
	}
	node, ok := c.caches.Nodes.Get("", now.Spec.NodeName)
	if !ok {
		return
	}
	if len(evicting(node)) > 0 {
		c.evictions.Add(types.NamespacedName{Namespace: now.Namespace, Name: now.Name})
	}
	// A report from before the node was lost may be stored after.
	if since, bad := notReadySince(node); bad && countsAsReady(now, since) {
		c.nodes.Add(node.Name)
	}
}

// evict deletes a pod whose time on a tainted node is up, with the grace that it
// asks for.
func (c *Controller) evict(ctx context.Context, key types.NamespacedName) error {
	pod, ok := c.caches.Pods.Get(key.Namespace, key.Name)
	if !ok || pod.Spec.NodeName == "" || pod.DeletionTimestamp != nil || finished(pod) {
		return nil
	}
	node, ok := c.caches.Nodes.Get("", pod.Spec.NodeName)
	if !ok {
		return nil // others collect the pods of nodes that do not exist
	}
	now := time.Now()
	at, ok := evictionTime(pod, c.standing(node), func(t *corev1.Taint) time.Time { return c.taints.since(node.Name, t, now) })
	if !ok {
		return nil
	}
	if at.After(now) {
		c.evictions.AddAfter(key, at.Sub(now))
		return nil
	}
	if !isReady(node) && c.nobodyHeard() {
		return nil // the taints go, and come anew when a node is heard
	}
	if err := c.markEvicted(ctx, pod); err != nil {
		return err
	}
	c.events.Event(store.Pods, pod, corev1.EventTypeNormal, "TaintManagerEviction", fmt.Sprintf("Marking for deletion Pod %s", key))
	_, _, err := c.registry.Delete(ctx, resource.Pods, pod.Namespace, pod.Name, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// standing are the NoExecute taints to act on: not those about readiness that
// the node has outlived and that are only not removed yet. A node that is heard
// again says itself how it is.
func (c *Controller) standing(node *corev1.Node) []corev1.Taint {
	session, _ := c.presence.Alive(node.Name)
	return slices.DeleteFunc(evicting(node), func(t corev1.Taint) bool {
		switch t.Key {
		case corev1.TaintNodeUnreachable:
			return session || !applies(node, &t)
		case corev1.TaintNodeNotReady:
			return !applies(node, &t)
		}
		return false
	})
}

// markEvicted says in the pod's status who deletes it and why, so that others
// can tell it from a pod that failed.
func (c *Controller) markEvicted(ctx context.Context, pod *corev1.Pod) error {
	_, _, err := c.registry.Update(ctx, resource.Pods, pod.Namespace, pod.Name, "status", func(current store.Object) (store.Object, error) {
		now := current.(*corev1.Pod)
		if now.UID != pod.UID || now.DeletionTimestamp != nil {
			return nil, errChanged
		}
		for i := range now.Status.Conditions {
			if now.Status.Conditions[i].Type == corev1.DisruptionTarget {
				return nil, errChanged
			}
		}
		now.Status.Conditions = append(now.Status.Conditions, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: now.Generation,
			LastTransitionTime: metav1.Now(),
			Reason:             "DeletionByTaintManager",
			Message:            "Taint manager: deleting due to NoExecute taint",
		})
		return now, nil
	}, resource.UpdateOptions{})
	if errors.Is(err, errChanged) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// evicting are a node's NoExecute taints.
func evicting(node *corev1.Node) []corev1.Taint {
	var taints []corev1.Taint
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			taints = append(taints, t)
		}
	}
	return taints
}

// evictionTime is when a pod has to leave a node with these taints; false for
// never. For each taint the shortest of the tolerations that match it counts, of
// the taints the one that is up first.
func evictionTime(pod *corev1.Pod, taints []corev1.Taint, since func(*corev1.Taint) time.Time) (at time.Time, ok bool) {
	for i := range taints {
		taint := &taints[i]
		var shortest *int64
		tolerated := false
		for j := range pod.Spec.Tolerations {
			t := &pod.Spec.Tolerations[j]
			if !t.ToleratesTaint(logr.Discard(), taint, true) {
				continue
			}
			tolerated = true
			if t.TolerationSeconds != nil && (shortest == nil || *t.TolerationSeconds < *shortest) {
				shortest = t.TolerationSeconds
			}
		}
		var leave time.Time // at once
		switch {
		case tolerated && shortest == nil:
			continue
		case tolerated && *shortest > 0:
			leave = since(taint).Add(time.Duration(*shortest) * time.Second)
		}
		if !ok || leave.Before(at) {
			at, ok = leave, true
		}
	}
	return at, ok
}

// taintTimes remembers when NoExecute taints appeared, more exactly than their
// timeAdded, which is in whole seconds and may be missing.
type taintTimes struct {
	mu     sync.Mutex
	byNode map[string]map[taintKey]time.Time
}

type taintKey struct{ key, value string }

func newTaintTimes() *taintTimes {
	return &taintTimes{byNode: make(map[string]map[taintKey]time.Time)}
}

// note takes over a node's taints and says whether they may call for evictions
// that the old ones did not.
func (t *taintTimes) note(old, now *corev1.Node, at time.Time) (news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.byNode[now.Name]
	left := make(map[taintKey]time.Time)
	for _, taint := range evicting(now) {
		k := taintKey{taint.Key, taint.Value}
		first, ok := known[k]
		if !ok {
			news = true
			first = at
			if old == nil && taint.TimeAdded != nil {
				// It was there before this term. The second that was cut off its
				// time is the pod's.
				first = taint.TimeAdded.Add(time.Second)
				if first.After(at) { // by the clock of another leader
					first = at
				}
			}
		}
		left[k] = first
	}
	if len(left) == 0 {
		delete(t.byNode, now.Name)
	} else {
		t.byNode[now.Name] = left
	}
	return news
}

func (t *taintTimes) since(node string, taint *corev1.Taint, now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, ok := t.byNode[node][taintKey{taint.Key, taint.Value}]; ok {
		return at
	}
	return now
}

func (t *taintTimes) forget(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byNode, node)
}
