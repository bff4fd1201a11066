package deployment

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// An outlook has the pods of earlier templates give way to new ones within the fences,
// and leaves those that have the template already.
func TestOutlookIsTheRolloutToCome(t *testing.T) {
	for _, test := range []struct {
		name                                        string
		change                                      func(*world)
		stay, leave, old, come, surge, unavailables int
	}{
		{"as it is", func(*world) {}, 4, 0, 0, 0, 1, 1},
		{"larger", func(w *world) { w.scale(6) }, 4, 0, 0, 2, 2, 1},
		{"smaller", func(w *world) { w.scale(1) }, 1, 3, 0, 0, 1, 0},
		{"another template", func(w *world) { w.image("v2") }, 0, 0, 4, 4, 1, 1},
		{"another template, smaller", func(w *world) { w.image("v2"); w.scale(2) }, 0, 0, 4, 2, 1, 0},
		{"recreate", func(w *world) {
			w.image("v2")
			w.d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		}, 0, 4, 0, 4, 0, 0},
		{"paused", func(w *world) { w.image("v2"); w.scale(5); w.d.Spec.Paused = true }, 4, 0, 0, 1, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := makeWorld(4, intstr.FromString("25%"), intstr.FromString("25%"))
			w.settle(t, "")
			test.change(w)
			active := func(set *appsv1.ReplicaSet) (pods []*corev1.Pod) {
				for i := range replicas(set) {
					pods = append(pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(set.Name, i)}})
				}
				return pods
			}
			o, fresh := Outlook(w.d, w.sets, active, &corev1.Pod{})
			got := [...]int{len(o.Stay), len(o.Leave), len(o.Old), len(o.Come), o.Surge, o.Unavailable}
			if want := [...]int{test.stay, test.leave, test.old, test.come, test.surge, test.unavailables}; got != want {
				t.Errorf("stay, leave, old, come, surge, unavailable: got %v, want %v", got, want)
			}
			if w.d.Spec.Paused {
				return
			}
			// Rules about other pods go by the hash, which the controller adds.
			w.settle(t, "")
			if newest := w.sets[len(w.sets)-1]; newest.Name != fresh.Name {
				t.Errorf("new replica set %s, want %s as the controller made it", fresh.Name, newest.Name)
			}
			for _, it := range o.Come {
				if hash := it.Pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey]; hash == "" || hash != fresh.Labels[appsv1.DefaultDeploymentUniqueLabelKey] {
					t.Errorf("pod with hash %q, want that of %s", hash, fresh.Name)
				}
			}
		})
	}
}
