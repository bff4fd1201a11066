package replication

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

// What a ReplicaSet has and a ReplicationController does not: set-based selectors,
// pods that are on their way out in the status, and siblings.
func TestKeepsReplicaSets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		cfg := Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}
		m.Run(NewReplicaSets(cfg).Run, NewReplicationControllers(cfg).Run)
		test.Create(m, resource.Nodes, test.Node("n"))
		set := test.ReplicaSet("web", 3)
		set.Spec.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: []string{"web", "www"}}}}
		rs := test.Create(m, resource.ReplicaSets, set)
		var pods []*corev1.Pod
		test.Eventually(t, func() string {
			pods = nil
			for _, p := range test.List[*corev1.Pod](m, store.Pods) {
				if metav1.IsControlledBy(p, rs) && controller.IsActive(p) {
					pods = append(pods, p)
				}
			}
			if len(pods) != 3 {
				return fmt.Sprintf("%d pods, want 3", len(pods))
			}
			return ""
		})
		if ref := metav1.GetControllerOf(pods[0]); ref.APIVersion != "apps/v1" || ref.Kind != "ReplicaSet" {
			t.Errorf("controlled by %s %s, want apps/v1 ReplicaSet", ref.APIVersion, ref.Kind)
		}
		// A pod with a node takes its time to end, and is replaced meanwhile.
		if err := m.Registry.BindMany(t.Context(), []resource.Binding{{Namespace: "default", Pod: pods[0].Name, UID: pods[0].UID, Node: "n"}})[0]; err != nil {
			t.Fatal(err)
		}
		m.Delete(resource.Pods, "default", pods[0].Name)
		test.Eventually(t, func() string {
			now, _ := test.Get[*appsv1.ReplicaSet](m, store.ReplicaSets, "default", "web")
			if s := now.Status; s.Replicas != 3 || ptr.Deref(s.TerminatingReplicas, -1) != 1 || s.ObservedGeneration != now.Generation {
				return fmt.Sprintf("status %+v, want 3 replicas, and one terminating", s)
			}
			return ""
		})
		m.Delete(resource.Pods, "default", pods[0].Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))})
		test.Eventually(t, func() string {
			now, _ := test.Get[*appsv1.ReplicaSet](m, store.ReplicaSets, "default", "web")
			if s := now.Status; ptr.Deref(s.TerminatingReplicas, -1) != 0 {
				return fmt.Sprintf("status %+v, want none terminating", s)
			}
			return ""
		})
		before := m.Settled(200 * time.Millisecond)
		time.Sleep(time.Hour)
		if after := m.Registry.Store().Revision(); after != before {
			t.Errorf("%d writes while nothing happened", after-before)
		}
	})
}

// Of two pods that are alike otherwise, the one beside a pod of the deployment's
// next revision goes.
func TestSiblingsCountAsCrowd(t *testing.T) {
	alone, crowded := makePod("a", onNode("n1")), makePod("b", onNode("n2"))
	next := makePod("next", onNode("n2"))
	rc := makeRC(1)
	p := makePlan(asReplicaSet(rc), []*corev1.Pod{alone, crowded}, nil, func() []*corev1.Pod { return []*corev1.Pod{next} }, now)
	if got := podNames(p.remove); len(got) != 1 || types.UID(got[0]) != crowded.UID {
		t.Errorf("removes %q, want the pod beside another", got)
	}
}
