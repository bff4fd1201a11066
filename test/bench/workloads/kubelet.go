package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// kubelets stand in for all of Kubernetes' nodes at once, in this process: a pod
// that got a node is said to run and to be ready, in one write, and one that is
// being deleted is gone at once. Real ones take longer and write more.
type kubelets struct {
	pods  cache.SharedIndexInformer
	queue workqueue.TypedInterface[string]
}

// pretend lives until ctx ends.
func (l *lab) pretend(ctx context.Context) error {
	client, err := l.connect(0)
	if err != nil {
		return err
	}
	selected := cache.NewFilteredListWatchFromClient(client.CoreV1().RESTClient(), "pods", "", func(o *metav1.ListOptions) { o.FieldSelector = onNodes })
	k := &kubelets{
		pods:  cache.NewSharedIndexInformer(selected, &corev1.Pod{}, 0, cache.Indexers{}),
		queue: workqueue.NewTyped[string](),
	}
	add := func(o any) {
		if key, err := cache.MetaNamespaceKeyFunc(o); err == nil {
			k.queue.Add(key)
		}
	}
	if _, err := k.pods.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, o any) { add(o) }}); err != nil {
		return err
	}
	var working sync.WaitGroup
	working.Go(func() { k.pods.RunWithContext(ctx) })
	for _, client := range l.clients {
		working.Go(func() { k.work(ctx, client) })
	}
	working.Go(func() { <-ctx.Done(); k.queue.ShutDown() })
	l.ends = append(l.ends, working.Wait)
	return nil
}

func (k *kubelets) work(ctx context.Context, client *kubernetes.Clientset) {
	for {
		key, over := k.queue.Get()
		if over {
			return
		}
		if held, ok, _ := k.pods.GetStore().GetByKey(key); ok && settle(ctx, client, held.(*corev1.Pod)) != nil && ctx.Err() == nil {
			// What changed meanwhile is told again, and the rest is tried again.
			time.AfterFunc(kubeletPause, func() { k.queue.Add(key) })
		}
		k.queue.Done(key)
	}
}

const kubeletPause = 100 * time.Millisecond

// settle does what a pod's kubelet would come to do.
func settle(ctx context.Context, client *kubernetes.Clientset, pod *corev1.Pod) error {
	var err error
	switch {
	case pod.DeletionTimestamp != nil:
		err = client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: new(int64), Preconditions: &metav1.Preconditions{UID: &pod.UID},
		})
	case pod.Status.Phase != corev1.PodRunning:
		running := pod.DeepCopy()
		running.Status = runningStatus(pod)
		_, err = client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, running, metav1.UpdateOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func runningStatus(pod *corev1.Pod) corev1.PodStatus {
	now, started := metav1.Now(), true
	status := corev1.PodStatus{Phase: corev1.PodRunning, HostIP: "127.0.0.1", PodIP: "10.64.0.1", PodIPs: []corev1.PodIP{{IP: "10.64.0.1"}}, StartTime: &now}
	for _, kind := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		status.Conditions = append(status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	for _, c := range pod.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, ImageID: c.Image, ContainerID: fmt.Sprintf("pretended://%s", pod.UID), Ready: true, Started: &started,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		})
	}
	return status
}
