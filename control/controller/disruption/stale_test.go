package disruption

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestADisruptionThatNobodyActsOnIsTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		m.Run(New(Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run)
		for name, reason := range map[string]string{"given-up": "PreemptionByScheduler", "node": corev1.PodReasonTerminationByKubelet, "done": "PreemptionByScheduler"} {
			test.Create(m, resource.Pods, test.Pod(name))
			test.Change(m, resource.Pods, "default", name, "status", func(p *corev1.Pod) {
				if name == "done" {
					p.Status.Phase = corev1.PodFailed
				}
				p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, LastTransitionTime: metav1.Now()})
			})
		}
		check := func(name string, want corev1.ConditionStatus) {
			t.Helper()
			pod, _ := test.Get[*corev1.Pod](m, store.Pods, "default", name)
			if c := disruptionTarget(pod); c == nil || c.Status != want {
				t.Errorf("%s: %+v, want %s", name, c, want)
			}
		}
		time.Sleep(staleAfter - 2*time.Second)
		check("given-up", corev1.ConditionTrue)
		time.Sleep(4 * time.Second)
		check("given-up", corev1.ConditionFalse)
		time.Sleep(time.Hour)
		check("node", corev1.ConditionTrue)
		check("done", corev1.ConditionTrue)
		m.End()
	})
}
