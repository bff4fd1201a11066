package controller_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/controller/deployment"
	"github.com/musterhq/muster/control/controller/replication"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func leadRollouts(m *test.Term) {
	m.Run(
		deployment.New(deployment.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run,
		replication.NewReplicaSets(replication.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run,
	)
}

// agents make every pod ready soon after it was made, but those of image bad, until
// the function that they return is called. It returns the fewest pods that were
// ready at a time since there first were as many as least.
func agents(m *test.Term, least int) (fewest func() int) {
	var done sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	enough, few := false, least
	done.Go(func() {
		for ctx.Err() == nil {
			ready := 0
			for _, p := range test.List[*corev1.Pod](m, store.Pods) {
				if _, ok := controller.ReadySince(p); ok {
					ready++
				} else if p.Spec.Containers[0].Image != "bad" && controller.IsActive(p) {
					// It may be deleted meanwhile.
					_, _, _ = m.Registry.Update(ctx, resource.Pods, p.Namespace, p.Name, "status", func(current store.Object) (store.Object, error) {
						now := current.(*corev1.Pod)
						now.Status.Phase = corev1.PodRunning
						now.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
						return now, nil
					}, resource.UpdateOptions{})
				}
			}
			if enough = enough || ready >= least; enough {
				few = min(few, ready)
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	return func() int { cancel(); done.Wait(); return few }
}

func setImage(m *test.Term, image string) {
	test.Change(m, resource.Deployments, "default", "web", "", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image })
}

// rolledOut waits until the deployment is complete with image, as kubectl rollout
// status does.
func rolledOut(t *testing.T, m *test.Term, image string, want int32) {
	t.Helper()
	test.Eventually(t, func() string {
		d, _ := test.Get[*appsv1.Deployment](m, store.Deployments, "default", "web")
		if s := d.Status; s.ObservedGeneration < d.Generation || s.UpdatedReplicas != want || s.Replicas != want || s.AvailableReplicas != want {
			return fmt.Sprintf("status %+v of generation %d, want %d of everything", s, d.Generation, want)
		}
		for _, p := range test.List[*corev1.Pod](m, store.Pods) {
			if p.Spec.Containers[0].Image != image {
				return fmt.Sprintf("pod %s is of %s, want %s", p.Name, p.Spec.Containers[0].Image, image)
			}
		}
		return ""
	})
}

func TestRollsOutUndoesAndRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		leadRollouts(m)
		fewest := agents(m, 5)
		test.Create(m, resource.Deployments, test.Deployment("web", 5))
		rolledOut(t, m, "image", 5)
		setImage(m, "second")
		rolledOut(t, m, "second", 5)
		setImage(m, "bad")
		m.Settled(time.Second)
		setImage(m, "second")
		rolledOut(t, m, "second", 5)
		test.Change(m, resource.Deployments, "default", "web", "scale", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To(int32(9)) })
		rolledOut(t, m, "second", 9)
		if got := fewest(); got < 4 {
			t.Errorf("%d pods were ready at one time, want never less than 4 of 5", got)
		}
		names := map[string]string{}
		for _, set := range test.List[*appsv1.ReplicaSet](m, store.ReplicaSets) {
			names[set.Annotations["deployment.kubernetes.io/revision"]] = set.Spec.Template.Spec.Containers[0].Image
		}
		if len(names) != 3 || names["1"] != "image" || names["3"] != "bad" || names["4"] != "second" {
			t.Errorf("revisions %v, want 1 image, 3 bad, 4 second", names)
		}
		var scaled []string
		for _, e := range test.List[*corev1.Event](m, store.Events) {
			if e.Reason == "ScalingReplicaSet" {
				scaled = append(scaled, e.Message)
			}
		}
		if len(scaled) == 0 || !strings.HasPrefix(scaled[0], "Scaled ") {
			t.Errorf("events %q, want some about scaling", scaled)
		}
		before := m.Settled(time.Second)
		time.Sleep(24 * time.Hour)
		if after := m.Registry.Store().Revision(); after != before {
			t.Errorf("%d writes while nothing happened", after-before)
		}
	})
}

func TestRecreates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		leadRollouts(m)
		fewest := agents(m, 1)
		d := test.Deployment("web", 3)
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		test.Create(m, resource.Deployments, d)
		rolledOut(t, m, "image", 3)
		setImage(m, "second")
		rolledOut(t, m, "second", 3)
		fewest()
	})
}

// Whichever write of a rollout the leader dies at, the next one ends it: with one
// replica set for each revision, exactly as many pods as asked for, and never
// with fewer ready ones than promised.
func TestLeaderDiesAtAnyWriteOfARollout(t *testing.T) {
	var fewest func() int
	test.LeaderDiesAtAnyWrite(t, 40, func(t *testing.T, user *test.Term) {
		first := test.Resume(t, user.Registry.Store())
		leadRollouts(first)
		fewest = agents(user, 3)
		test.Create(user, resource.Deployments, test.Deployment("web", 3))
		rolledOut(t, user, "image", 3)
		first.End()
		setImage(user, "second")
	}, leadRollouts, func(t *testing.T, m *test.Term) {
		rolledOut(t, m, "second", 3)
		if got := fewest(); got < 2 {
			t.Errorf("%d pods were ready at one time, want never less than 2", got)
		}
		if sets := test.List[*appsv1.ReplicaSet](m, store.ReplicaSets); len(sets) != 2 {
			t.Errorf("%d replica sets, want 2", len(sets))
		}
		if pods := test.List[*corev1.Pod](m, store.Pods); len(pods) != 3 {
			t.Errorf("%d pods, want 3", len(pods))
		}
	})
}
