package scenario

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// fenceLimit is what a StatefulSet's pods may take to run elsewhere. They wait 20 s
// for their agent to have stopped them.
const fenceLimit = 60 * time.Second

// CutsOffNode: a compute host loses its network and runs on. The pods of a
// StatefulSet run elsewhere once it has stopped them itself, and at no moment do
// two containers of one ordinal run. A blip before that costs nothing, and an
// outage of all control hosts stops nothing.
func CutsOffNode(t *testing.T, cluster Cluster) {
	c := newClient(t, cluster)
	lost := cluster.Compute()[0]
	ns := namespace(t, c, "fence")
	sets := stateful(t, c, ns, "db", 4)
	if !slices.ContainsFunc(sets, func(p corev1.Pod) bool { return p.Spec.NodeName == lost }) {
		t.Fatalf("none of the 4 pods runs on %s, want them spread", lost)
	}
	twice := watchTwice(t, cluster, ns)

	if err := cluster.Cut(t.Context(), lost); errors.Is(err, errors.ErrUnsupported) {
		t.Skip("hosts of this cluster can't be cut off")
	} else if err != nil {
		t.Fatal(err)
	}
	mended := false
	defer func() {
		if !mended {
			_ = cluster.Mend(context.WithoutCancel(t.Context()), lost)
		}
	}()
	time.Sleep(time.Second)
	if err := cluster.Mend(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second)
	after, err := live(t.Context(), c, ns, "db")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := lives(after), lives(sets); !maps.Equal(got, want) {
		t.Errorf("after a blip of a second the pods are %v, want them untouched: %v", got, want)
	}

	outage(t, cluster)
	untilNodeReady(t, c, 30*time.Second, lost, true)
	sets = untilReady(t, c, 30*time.Second, ns, "db", 4)
	if got, want := lives(sets), lives(after); !maps.Equal(got, want) {
		t.Errorf("after an outage of all control hosts the pods are %v, want them untouched: %v", got, want)
	}

	// The agent is to be certain again, and the leader to know both nodes.
	time.Sleep(10 * time.Second)
	cut := time.Now()
	if err := cluster.Cut(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	until(t, fenceLimit, fmt.Sprintf("nothing of the StatefulSet runs on %s", lost), func(ctx context.Context) error {
		running, err := cluster.Containers(ctx, lost)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(running, func(pod string) bool { return strings.HasPrefix(pod, ns+"/db-") }); i >= 0 {
			return fmt.Errorf("%s runs", running[i])
		}
		return nil
	})
	t.Logf("%s, cut off, has stopped the StatefulSet's pods after %v", lost, time.Since(cut).Round(100*time.Millisecond))
	until(t, fenceLimit, fmt.Sprintf("4 pods ready and not on %s", lost), func(ctx context.Context) error {
		pods, err := live(ctx, c, ns, "db")
		if err != nil {
			return err
		}
		elsewhere := 0
		for i := range pods {
			if pods[i].Spec.NodeName != lost && ready(&pods[i]) {
				elsewhere++
			}
		}
		if elsewhere != 4 {
			return fmt.Errorf("%d of 4", elsewhere)
		}
		return nil
	})
	t.Logf("they run elsewhere %v after the cut", time.Since(cut).Round(100*time.Millisecond))

	moved, err := live(t.Context(), c, ns, "db")
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.Mend(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	mended = true
	untilNodeReady(t, c, 30*time.Second, lost, true)
	untilOnce(t, c, cluster, 30*time.Second, ns)
	back, err := live(t.Context(), c, ns, "db")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := lives(back), lives(moved); !maps.Equal(got, want) {
		t.Errorf("after the host is back the pods are %v, want them where they are: %v", got, want)
	}
	twice()
}

// outage kills all control hosts for longer than an agent goes on alone.
func outage(t *testing.T, cluster Cluster) {
	t.Helper()
	for _, host := range cluster.Control() {
		if err := cluster.Kill(t.Context(), host); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(20 * time.Second)
	for _, host := range cluster.Control() {
		if err := cluster.Start(t.Context(), host); err != nil {
			t.Fatal(err)
		}
	}
}

// lives tells the lives of pods apart: each pod's UID and how often its
// containers were restarted.
func lives(pods []corev1.Pod) map[string]string {
	all := map[string]string{}
	for _, pod := range pods {
		restarts := int32(0)
		for _, s := range pod.Status.ContainerStatuses {
			restarts += s.RestartCount
		}
		all[pod.Name] = fmt.Sprintf("%s, restarted %d times", pod.UID, restarts)
	}
	return all
}

// stateful creates a StatefulSet, all pods at once, and waits until they are ready.
func stateful(t *testing.T, c *client, namespace, app string, replicas int32) []corev1.Pod {
	t.Helper()
	must(t, c, "create statefulset", func(ctx context.Context, api kubernetes.Interface) error {
		_, err := api.AppsV1().StatefulSets(namespace).Create(ctx, &appsv1.StatefulSet{
			ObjectMeta: metav1.ObjectMeta{Name: app},
			Spec: appsv1.StatefulSetSpec{
				Replicas: &replicas, PodManagementPolicy: appsv1.ParallelPodManagement,
				Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, Template: podTemplate(app),
			},
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	return untilReady(t, c, 30*time.Second, namespace, app, int(replicas))
}

// watchTwice looks at the hosts, not at what the cluster says, for containers of
// one pod name on two of them. It fails the test when what it returns is called.
func watchTwice(t *testing.T, cluster Cluster, namespace string) (end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	looks, found := 0, map[string]bool{}
	group.Go(func() {
		for ctx.Err() == nil {
			on := map[string]string{}
			for _, host := range cluster.Compute() {
				running, err := cluster.Containers(ctx, host)
				if err != nil {
					continue
				}
				for _, pod := range running {
					if other := on[pod]; other != "" && other != host && strings.HasPrefix(pod, namespace+"/") {
						found[fmt.Sprintf("%s on %s and %s", pod, other, host)] = true
					}
					on[pod] = host
				}
			}
			looks++
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	stop := sync.OnceFunc(func() { cancel(); group.Wait() })
	t.Cleanup(stop)
	return func() {
		stop()
		for twice := range found {
			t.Errorf("ran at one time: %s", twice)
		}
		t.Logf("looked %d times for containers that run twice", looks)
	}
}
