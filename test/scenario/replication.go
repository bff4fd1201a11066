package scenario

import (
	"context"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// RunsAndReplaces: a ReplicationController gets its pods running on the nodes,
// a deleted one is replaced, and scaling goes both ways.
func RunsAndReplaces(t *testing.T, cluster Cluster) {
	c := newClient(t, cluster)
	ns := namespace(t, c, "replaces")
	replicate(t, c, ns, "web", 3)
	pods := untilReady(t, c, 30*time.Second, ns, "web", 3)
	for _, pod := range pods {
		if pod.Status.PodIP == "" || pod.Spec.NodeName == "" {
			t.Errorf("pod %s is ready with address %q on node %q, want both", pod.Name, pod.Status.PodIP, pod.Spec.NodeName)
		}
	}
	untilOnce(t, c, cluster, 20*time.Second, ns)

	victim := pods[0]
	must(t, c, "delete pod", func(ctx context.Context, api kubernetes.Interface) error {
		return api.CoreV1().Pods(ns).Delete(ctx, victim.Name, metav1.DeleteOptions{})
	})
	for _, pod := range untilReady(t, c, 30*time.Second, ns, "web", 3) {
		if pod.UID == victim.UID {
			t.Errorf("deleted pod %s is still one of the three", victim.Name)
		}
	}

	for _, replicas := range []int32{5, 1} {
		must(t, c, "scale", func(ctx context.Context, api kubernetes.Interface) error {
			scale, err := api.CoreV1().ReplicationControllers(ns).GetScale(ctx, "web", metav1.GetOptions{})
			if err != nil {
				return err
			}
			scale.Spec.Replicas, scale.ResourceVersion = replicas, "" // whatever its status is meanwhile
			_, err = api.CoreV1().ReplicationControllers(ns).UpdateScale(ctx, "web", scale, metav1.UpdateOptions{})
			return err
		})
		untilReady(t, c, 30*time.Second, ns, "web", int(replicas))
		until(t, 10*time.Second, "status counts the replicas", func(ctx context.Context) error {
			return c.do(ctx, func(ctx context.Context, api kubernetes.Interface) error {
				controller, err := api.CoreV1().ReplicationControllers(ns).Get(ctx, "web", metav1.GetOptions{})
				if err != nil {
					return err
				}
				if s := controller.Status; s.Replicas != replicas || s.ReadyReplicas != replicas {
					return fmt.Errorf("%d replicas, %d ready, want %d", s.Replicas, s.ReadyReplicas, replicas)
				}
				return nil
			})
		})
	}
	untilOnce(t, c, cluster, 20*time.Second, ns)
}
