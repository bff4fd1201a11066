package workloads

import (
	"context"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// bugs are what a controller might do wrong, done beside the right ones for as
// long as a leader's term.
var bugs = map[string]func(ctx context.Context, w *world, m *controllertest.Term){
	// A rollout that does not heed maxUnavailable.
	"impatient-rollout": again(func(ctx context.Context, w *world, m *controllertest.Term) {
		for _, set := range listOf[*appsv1.ReplicaSet](ctx, w, store.ReplicaSets) {
			if set.Spec.Template.Spec.Containers[0].Image != "first" || *set.Spec.Replicas == 0 || *set.Spec.Replicas == 6 {
				continue
			}
			_, _, _ = m.Registry.Update(ctx, resource.ReplicaSets, set.Namespace, set.Name, "", func(current store.Object) (store.Object, error) {
				current.(*appsv1.ReplicaSet).Spec.Replicas = ptr.To(int32(0))
				return current, nil
			}, resource.UpdateOptions{})
		}
	}),

	// A set that removes the object of a pod that still runs, to be quicker.
	"hasty-ordinal": again(func(ctx context.Context, w *world, m *controllertest.Term) {
		for _, p := range listOf[*corev1.Pod](ctx, w, store.Pods) {
			if p.Labels["app"] == "db" && p.DeletionTimestamp != nil {
				w.drop(ctx, m, p)
			}
		}
	}),

	// A scale down that begins with the first.
	"wrong-end": again(func(ctx context.Context, w *world, m *controllertest.Term) {
		for _, s := range listOf[*appsv1.StatefulSet](ctx, w, store.StatefulSets) {
			pods := listOf[*corev1.Pod](ctx, w, store.Pods)
			i := slices.IndexFunc(pods, func(p *corev1.Pod) bool { return metav1.IsControlledBy(p, s) && ordinalOf(p) == int(*s.Spec.Replicas) })
			if i >= 0 && s.DeletionTimestamp == nil {
				_, _, _ = m.Registry.Delete(ctx, resource.Pods, pods[i].Namespace, pods[i].Name, &metav1.DeleteOptions{})
			}
		}
	}),

	// A job that forgets what has succeeded.
	"forgetful-job": again(func(ctx context.Context, w *world, m *controllertest.Term) {
		for _, p := range listOf[*corev1.Pod](ctx, w, store.Pods) {
			if p.Annotations[batchv1.JobCompletionIndexAnnotation] != "0" || strings.HasSuffix(p.Name, "-again") || p.Status.Phase != corev1.PodSucceeded {
				continue
			}
			again := p.DeepCopy()
			again.ObjectMeta = metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name + "-again", Labels: p.Labels, Annotations: p.Annotations, OwnerReferences: p.OwnerReferences}
			again.Spec.NodeName, again.Status = "", corev1.PodStatus{}
			_, _ = m.Registry.Create(ctx, resource.Pods, p.Namespace, again, resource.CreateOptions{})
		}
	}),

	// A garbage collector that loses sight of a pod.
	"leak": again(func(ctx context.Context, w *world, m *controllertest.Term) {
		pods := listOf[*corev1.Pod](ctx, w, store.Pods)
		if slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return len(p.OwnerReferences) == 0 }) {
			return // one will do
		}
		for _, p := range pods {
			if p.Labels["app"] == "logs" && p.Spec.Containers[0].Image == "third" && p.Spec.NodeName == "n0" {
				_, _, _ = m.Registry.Update(ctx, resource.Pods, p.Namespace, p.Name, "", func(current store.Object) (store.Object, error) {
					current.SetOwnerReferences(nil)
					current.SetLabels(nil)
					return current, nil
				}, resource.UpdateOptions{})
			}
		}
	}),
}

// again does something again and again while a leader leads.
func again(f func(ctx context.Context, w *world, m *controllertest.Term)) func(context.Context, *world, *controllertest.Term) {
	return func(ctx context.Context, w *world, m *controllertest.Term) {
		for ctx.Err() == nil {
			f(ctx, w, m)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

func listOf[T store.Object](ctx context.Context, w *world, spec *store.Spec) []T {
	all, _, err := store.Of[T](w.store, spec).List(ctx, store.ListOptions{})
	if err != nil {
		return nil
	}
	return all
}

// drop removes a pod's object, whatever still runs of it.
func (w *world) drop(ctx context.Context, m *controllertest.Term, p *corev1.Pod) {
	uid := types.UID(p.UID)
	_, _, _ = m.Registry.Delete(ctx, resource.Pods, p.Namespace, p.Name, &metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0)), Preconditions: &metav1.Preconditions{UID: &uid}})
}
