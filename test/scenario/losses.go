package scenario

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Losses is how often compute hosts are lost, and how.
type Losses struct {
	Count int
	// WithLeader kills the leading control host in the same moment.
	WithLeader bool
	// Silent cuts the hosts off instead of killing what runs on them: no connection
	// breaks, as when the power fails.
	Silent bool
	// Median and Most are what the pods may take to run elsewhere; 0: as long as it takes.
	Median, Most time.Duration
}

// LosesNodes: compute hosts are lost one after the other, and a Deployment's pods
// run elsewhere each time. It prints how long that took.
func LosesNodes(t *testing.T, cluster Cluster, losses Losses) {
	all := newClient(t, cluster)
	ns := namespace(t, all, "losses")
	replicas := int32(4)
	must(t, all, "create deployment", func(ctx context.Context, api kubernetes.Interface) error {
		_, err := api.AppsV1().Deployments(ns).Create(ctx, &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: "web"},
			Spec: appsv1.DeploymentSpec{
				Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: podTemplate("web"),
			},
		}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	untilReady(t, all, 30*time.Second, ns, "web", int(replicas))

	var took []time.Duration
	for round := range losses.Count {
		lost := cluster.Compute()[round%len(cluster.Compute())]
		took = append(took, loseNode(t, cluster, losses, ns, lost, int(replicas)))
	}
	slices.Sort(took)
	median, most := took[len(took)/2], took[len(took)-1]
	how := "hosts killed"
	if losses.Silent {
		how = "hosts cut off"
	}
	if losses.WithLeader {
		how += ", each with the leader"
	}
	t.Logf("%d %s: all pods ready elsewhere after p50 %v, max %v", len(took), how, median.Round(10*time.Millisecond), most.Round(10*time.Millisecond))
	if losses.Median > 0 && median > losses.Median {
		t.Errorf("p50 %v, want at most %v", median, losses.Median)
	}
	if losses.Most > 0 && most > losses.Most {
		t.Errorf("max %v, want at most %v", most, losses.Most)
	}
}

// loseNode loses one host, and perhaps the leader, and brings them back. It
// answers how long the pods took to run elsewhere.
func loseNode(t *testing.T, cluster Cluster, losses Losses, ns, lost string, replicas int) time.Duration {
	t.Helper()
	victims := []string{lost}
	left := cluster.Control()
	if losses.WithLeader {
		leader, err := cluster.Leader(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		victims = append(victims, leader)
		left = slices.DeleteFunc(slices.Clone(left), func(name string) bool { return name == leader })
	}
	lose, back := cluster.Kill, cluster.Start
	if losses.Silent {
		lose, back = cluster.Cut, cluster.Mend
	}
	// Only who is not about to go is asked.
	c := newClientOf(t, cluster, left)
	began := time.Now()
	for _, host := range victims {
		if err := lose(t.Context(), host); err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		if t.Failed() {
			for _, host := range victims {
				_ = back(context.WithoutCancel(t.Context()), host)
			}
		}
	}()
	until(t, time.Minute, fmt.Sprintf("%d pods ready and not on %s", replicas, lost), func(ctx context.Context) error {
		pods, err := live(ctx, c, ns, "web")
		if err != nil {
			return err
		}
		elsewhere := 0
		for i := range pods {
			if pods[i].Spec.NodeName != lost && ready(&pods[i]) {
				elsewhere++
			}
		}
		if elsewhere != replicas {
			return fmt.Errorf("%d of %d", elsewhere, replicas)
		}
		return nil
	})
	took := time.Since(began)
	t.Logf("%v lost: all pods ready elsewhere after %v", victims, took.Round(10*time.Millisecond))

	moved, err := live(t.Context(), c, ns, "web")
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range victims {
		if err := back(t.Context(), host); err != nil {
			t.Fatal(err)
		}
	}
	untilNodeReady(t, c, 30*time.Second, lost, true)
	untilOnce(t, c, cluster, 30*time.Second, ns)
	now, err := live(t.Context(), c, ns, "web")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := lives(now), lives(moved); !maps.Equal(got, want) {
		t.Errorf("after %s is back the pods are %v, want those that took over: %v", lost, got, want)
	}
	if losses.WithLeader {
		untilSame(t, newClient(t, cluster), 30*time.Second)
	}
	return took
}
