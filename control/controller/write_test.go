package controller_test

import (
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/controller"
	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

// Somebody adds a condition to a status that a controller is about to write: the
// controller must look again, and not write over it.
func TestStatusesOfOthersAreNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		seen := test.Create(m, resource.Deployments, test.Deployment("web", 1))
		test.Change(m, resource.Deployments, "default", "web", "status", func(d *appsv1.Deployment) {
			d.Status.Conditions = append(d.Status.Conditions, appsv1.DeploymentCondition{Type: "Mine", Status: corev1.ConditionTrue})
		})
		written, err := controller.WriteStatus(t.Context(), m.Registry, resource.Deployments, seen, func(d *appsv1.Deployment) { d.Status = appsv1.DeploymentStatus{Replicas: 1} })
		if written || err != nil {
			t.Errorf("written is %v, error %v, want neither", written, err)
		}
		leadRollouts(m)
		time.Sleep(time.Second)
		d, _ := test.Get[*appsv1.Deployment](m, store.Deployments, "default", "web")
		mine := false
		for _, c := range d.Status.Conditions {
			mine = mine || c.Type == "Mine"
		}
		if !mine || d.Status.ObservedGeneration != d.Generation {
			t.Errorf("status %+v, want the condition, and the controller's own", d.Status)
		}
	})
}
