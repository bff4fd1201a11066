package resource

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/musterhq/muster/control/store"
)

// Preempt deletes a pod for the sake of another, with its own grace, and says so in
// its condition DisruptionTarget; both are one write. It happens to the very pod
// of that UID. A pod that is being deleted already is left as it is, and nil is
// returned. The scheduler is trusted: nothing is admitted, and budgets are its to heed.
func (r *Registry) Preempt(ctx context.Context, ns, name string, uid types.UID, message string) (*corev1.Pod, error) {
	ctx = genericrequest.WithNamespace(ctx, ns)
	var evicted *corev1.Pod
	err := r.settle(ctx, Pods, ns, name, false, func(old store.Object) (bool, error) {
		if old == nil {
			return false, Pods.apiError(store.ErrNotFound, name)
		}
		pod := old.(*corev1.Pod)
		if err := Pods.checkUID(name, &uid, pod.UID); err != nil {
			return false, err
		}
		if pod.DeletionTimestamp != nil {
			return false, nil
		}
		write, err := planEviction(ctx, pod, &metav1.DeleteOptions{}, corev1.PodReasonPreemptionByScheduler, message)
		if err != nil {
			return true, err
		}
		_, err = r.store.Txn(ctx, []store.Write{write})
		if err == nil {
			evicted = pod
		}
		return true, Pods.written(err, name)
	})
	return evicted, err
}
