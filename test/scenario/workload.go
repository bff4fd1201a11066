package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// HelloImage is the sample web server that every cluster under test can run.
const HelloImage = "muster.local/hello:1"

// until calls check until it returns nil, and fails the test with check's last
// error when limit has passed. It returns how long it took.
func until(t *testing.T, limit time.Duration, what string, check func(ctx context.Context) error) time.Duration {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return time.Since(began)
		}
		// What the clock cut short says less than what was seen before it.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %v: %v", what, limit, last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// namespace makes one for the test and takes it away afterwards, with what is
// in it, so that the next scenario finds an empty cluster.
func namespace(t *testing.T, c *client, name string) string {
	t.Helper()
	object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", name, time.Now().UnixMilli()%1e7)}}
	must(t, c, "create namespace", func(ctx context.Context, api kubernetes.Interface) error {
		_, err := api.CoreV1().Namespaces().Create(ctx, object, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // an earlier attempt that was not answered
		}
		return err
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			t.Log(describe(ctx, c, object.Name))
		}
		var err error
		for ctx.Err() == nil {
			err = c.do(ctx, func(ctx context.Context, api kubernetes.Interface) error {
				now := int64(0)
				return api.CoreV1().Namespaces().Delete(ctx, object.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
			})
			if apierrors.IsNotFound(err) {
				return
			}
			time.Sleep(200 * time.Millisecond)
		}
		t.Errorf("namespace %s is still there after a minute: %v\n%s", object.Name, err, describe(context.Background(), c, object.Name))
	})
	return object.Name
}

// describe is what a failed scenario leaves for its reader: the nodes, and the
// pods and events of its namespace.
func describe(ctx context.Context, c *client, namespace string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var b strings.Builder
	err := c.do(ctx, func(ctx context.Context, api kubernetes.Interface) error {
		b.Reset()
		nodes, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, node := range nodes.Items {
			fmt.Fprintf(&b, "node %s: ready %v, taints %v\n", node.Name, nodeReady(&node), node.Spec.Taints)
		}
		pods, err := api.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{Limit: 50})
		if err != nil {
			return err
		}
		for _, pod := range pods.Items {
			fmt.Fprintf(&b, "pod %s on %q: %s, ready %v, deleted %v", pod.Name, pod.Spec.NodeName, pod.Status.Phase, ready(&pod), pod.DeletionTimestamp)
			for _, s := range pod.Status.ContainerStatuses {
				fmt.Fprintf(&b, "; %s restarted %d times, %v", s.Name, s.RestartCount, s.State.String())
			}
			fmt.Fprintln(&b)
		}
		events, err := api.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{Limit: 50})
		if err != nil {
			return err
		}
		for _, event := range events.Items {
			fmt.Fprintf(&b, "event %s %s/%s: %s: %s\n", event.Type, event.InvolvedObject.Kind, event.InvolvedObject.Name, event.Reason, event.Message)
		}
		return nil
	})
	if err != nil {
		fmt.Fprintf(&b, "and then: %v\n", err)
	}
	return b.String()
}

// must does f through any control host, within the time a new leader may take.
func must(t *testing.T, c *client, what string, f func(ctx context.Context, api kubernetes.Interface) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := c.do(ctx, f); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func podTemplate(app string) corev1.PodTemplateSpec {
	grace := int64(1)
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name:            "hello",
				Image:           HelloImage,
				ImagePullPolicy: corev1.PullNever,
			}},
		},
	}
}

// replicate creates a ReplicationController named app and waits until all its
// pods are ready.
func replicate(t *testing.T, c *client, namespace, app string, replicas int32) {
	t.Helper()
	template := podTemplate(app)
	must(t, c, "create replicationcontroller", func(ctx context.Context, api kubernetes.Interface) error {
		_, err := api.CoreV1().ReplicationControllers(namespace).Create(ctx, &corev1.ReplicationController{
			ObjectMeta: metav1.ObjectMeta{Name: app},
			Spec:       corev1.ReplicationControllerSpec{Replicas: &replicas, Selector: map[string]string{"app": app}, Template: &template},
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	untilReady(t, c, 30*time.Second, namespace, app, int(replicas))
}

// untilReady waits until the app has exactly count pods that are ready and not
// being deleted, and returns them.
func untilReady(t *testing.T, c *client, limit time.Duration, namespace, app string, count int) []corev1.Pod {
	t.Helper()
	var pods []corev1.Pod
	took := until(t, limit, fmt.Sprintf("%d pods of %s ready", count, app), func(ctx context.Context) error {
		var err error
		if pods, err = live(ctx, c, namespace, app); err != nil {
			return err
		}
		readyCount := 0
		for i := range pods {
			if ready(&pods[i]) {
				readyCount++
			}
		}
		if readyCount != count || len(pods) != count {
			return fmt.Errorf("%d of %d are ready", readyCount, len(pods))
		}
		return nil
	})
	t.Logf("%d pods of %s ready after %v", count, app, took.Round(time.Millisecond))
	return pods
}

// live lists the app's pods that are not being deleted.
func live(ctx context.Context, c *client, namespace, app string) ([]corev1.Pod, error) {
	var pods []corev1.Pod
	err := c.do(ctx, func(ctx context.Context, api kubernetes.Interface) error {
		list, err := api.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
		if err == nil {
			pods = slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
		}
		return err
	})
	return pods, err
}

func ready(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func nodeReady(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func untilNodeReady(t *testing.T, c *client, limit time.Duration, name string, want bool) {
	t.Helper()
	took := until(t, limit, fmt.Sprintf("node %s ready: %v", name, want), func(ctx context.Context) error {
		return c.do(ctx, func(ctx context.Context, api kubernetes.Interface) error {
			node, err := api.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if got := nodeReady(node); got != want {
				return fmt.Errorf("ready is %v", got)
			}
			return nil
		})
	})
	t.Logf("node %s: ready is %v after %v", name, want, took.Round(time.Millisecond))
}

// untilOnce waits until the namespace's containers that run, on all hosts
// together, are exactly those of the pods the API has: none twice, none
// left over, none missing. Each pod has one container.
func untilOnce(t *testing.T, c *client, cluster Cluster, limit time.Duration, namespace string) {
	t.Helper()
	if _, err := cluster.Containers(t.Context(), cluster.Compute()[0]); errors.Is(err, errors.ErrUnsupported) {
		return
	}
	until(t, limit, "every pod runs once and nothing else does", func(ctx context.Context) error {
		var want, got []string
		err := c.do(ctx, func(ctx context.Context, api kubernetes.Interface) error {
			pods, err := api.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			want = nil
			for _, pod := range pods.Items {
				want = append(want, pod.Spec.NodeName+": "+namespace+"/"+pod.Name)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, host := range cluster.Compute() {
			running, err := cluster.Containers(ctx, host)
			if err != nil {
				return err
			}
			for _, pod := range running {
				if strings.HasPrefix(pod, namespace+"/") {
					got = append(got, host+": "+pod)
				}
			}
		}
		sort.Strings(want)
		sort.Strings(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("containers run of %q, want %q", got, want)
		}
		return nil
	})
}
