package scenario

import (
	"context"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// LosesEverything: all hosts die at once. Started again, without being told
// anything, they are the same cluster: every object is there with its UID, and
// the containers run again.
func LosesEverything(t *testing.T, cluster Cluster) {
	c := newClient(t, cluster)
	ns := namespace(t, c, "outage")
	replicate(t, c, ns, "web", 3)
	before := uids(t, c, ns)

	hosts := append(cluster.Control(), cluster.Compute()...)
	for _, host := range hosts {
		if err := cluster.Kill(t.Context(), host); err != nil {
			t.Fatal(err)
		}
	}
	for _, host := range hosts {
		if err := cluster.Start(t.Context(), host); err != nil {
			t.Fatal(err)
		}
	}
	started := time.Now()
	until(t, 30*time.Second, "the API answers", func(ctx context.Context) error {
		return c.do(ctx, func(ctx context.Context, api kubernetes.Interface) error {
			_, err := api.CoreV1().ReplicationControllers(ns).Get(ctx, "web", metav1.GetOptions{})
			return err
		})
	})
	t.Logf("the API answers %v after the start", time.Since(started).Round(time.Millisecond))
	after := uids(t, c, ns)
	if after["replicationcontroller web"] != before["replicationcontroller web"] {
		t.Errorf("replicationcontroller web has UID %q, want %q", after["replicationcontroller web"], before["replicationcontroller web"])
	}
	for name, uid := range before {
		if after[name] != "" && after[name] != uid {
			t.Errorf("%s has UID %s, want %s", name, after[name], uid)
		}
	}
	for _, host := range cluster.Compute() {
		untilNodeReady(t, c, 30*time.Second, host, true)
	}
	untilReady(t, c, 60*time.Second, ns, "web", 3)
	untilOnce(t, c, cluster, 30*time.Second, ns)
	untilSame(t, c, 20*time.Second)
}

// uids lists the namespace's objects and the nodes with their UIDs.
func uids(t *testing.T, c *client, namespace string) map[string]string {
	t.Helper()
	found := map[string]string{}
	must(t, c, "list everything", func(ctx context.Context, api kubernetes.Interface) error {
		pods, err := api.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		controllers, err := api.CoreV1().ReplicationControllers(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		nodes, err := api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, o := range pods.Items {
			found["pod "+o.Name] = string(o.UID)
		}
		for _, o := range controllers.Items {
			found["replicationcontroller "+o.Name] = string(o.UID)
		}
		for _, o := range nodes.Items {
			found["node "+o.Name] = string(o.UID)
		}
		return nil
	})
	return found
}

// untilSame waits until every control host, asked for what it has itself,
// gives the same pods at the same versions.
func untilSame(t *testing.T, c *client, limit time.Duration) {
	t.Helper()
	until(t, limit, "all control hosts have the same pods", func(ctx context.Context) error {
		first, firstHost := "", ""
		for _, host := range c.names {
			// Resource version 0 is the host's own replica, whatever the others have.
			pods, err := c.at(host).CoreV1().Pods("").List(ctx, metav1.ListOptions{ResourceVersion: "0"})
			if err != nil {
				return fmt.Errorf("%s: %w", host, err)
			}
			have := fmt.Sprintf("%d pods at revision %s", len(pods.Items), pods.ResourceVersion)
			full := have
			for _, pod := range pods.Items {
				full += " " + pod.Namespace + "/" + pod.Name + "@" + pod.ResourceVersion
			}
			if firstHost == "" {
				first, firstHost = full, host
			} else if full != first {
				return fmt.Errorf("%s has %s, which is not what %s has", host, have, firstHost)
			}
		}
		return nil
	})
}
