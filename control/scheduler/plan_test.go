package scheduler

import (
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
)

func working(p *corev1.Pod) {
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
}

// planned is the plan of an outlook in a cluster of nodes with 4 cores.
func planned(t *testing.T, state State, o controller.Outlook) GroupPlan {
	t.Helper()
	plan, err := coreOf(NewSnapshot(state).cluster).plan(t.Context(), &o)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// A plan says what the scheduler would do: where pods go beside those that stay, what
// is evicted, and what fits nowhere.
func TestPlanIsWhatWouldHappen(t *testing.T) {
	old := makePod("old", on("n1"), requesting("cpu", "3"))
	state := State{
		Nodes: []*corev1.Node{makeNode("n1"), makeNode("n2")},
		Pods:  []*corev1.Pod{old, makePod("low", on("n2"), requesting("cpu", "3"), priority(-1))},
	}
	come := func(count int, cpu string, p int32) []controller.Coming {
		return controller.Others(makePod("", requesting("cpu", cpu), priority(p)), "new", count)
	}
	for _, test := range []struct {
		name             string
		outlook          controller.Outlook
		placed           map[string]int
		leaving, waiting int
		evicted          int
	}{
		{"beside what is there", controller.Outlook{Come: come(2, "1", -1)}, map[string]int{"n1": 1, "n2": 1}, 0, 0, 0},
		{"more than fit", controller.Outlook{Come: come(3, "1", -1)}, map[string]int{"n1": 1, "n2": 1}, 0, 1, 0},
		{"fewer", controller.Outlook{Leave: []*corev1.Pod{old}}, nil, 1, 0, 0},
		{"in place of those that go", controller.Outlook{Leave: []*corev1.Pod{old}, Come: come(1, "4", -1)}, map[string]int{"n1": 1}, 1, 0, 0},
		{"with evictions", controller.Outlook{Come: come(1, "4", 0)}, map[string]int{"n2": 1}, 0, 0, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := planned(t, state, test.outlook)
			if !maps.Equal(got.Placed, test.placed) || got.Leaving != test.leaving || got.Waiting != test.waiting || len(got.Evicted) != test.evicted {
				t.Errorf("%+v, want placed %v, %d leaving, %d waiting, %d evicted", got, test.placed, test.leaving, test.waiting, test.evicted)
			}
			if (got.Why != "") != (test.waiting > 0) {
				t.Errorf("why %q with %d waiting", got.Why, got.Waiting)
			}
		})
	}
}

// Old pods take room until the rollout lets them go: what fits in their place need not
// fit beside them.
func TestPlanGoesThroughRollouts(t *testing.T) {
	pods := []*corev1.Pod{makePod("a", on("n1"), requesting("cpu", "3"), working), makePod("b", on("n2"), requesting("cpu", "3"), working)}
	state := State{Nodes: []*corev1.Node{makeNode("n1"), makeNode("n2")}, Pods: pods}
	come := func(cpu string, of ...*corev1.Pod) []controller.Coming {
		coming := controller.Others(makePod("", requesting("cpu", cpu)), "new", 2)
		for i := range of {
			coming[i].Of = of[i]
		}
		return coming
	}
	broken := []*corev1.Pod{pods[1], makePod("c", on("n1"), requesting("cpu", "3"))}
	for _, test := range []struct {
		name                        string
		outlook                     controller.Outlook
		placed, waiting, late, left int
		unmade                      int
	}{
		{"the surge finds room", controller.Outlook{Old: pods, Come: come("1"), Surge: 1}, 2, 0, 0, 0, 0},
		{"no room for the surge", controller.Outlook{Old: pods, Come: come("3"), Surge: 1}, 0, 1, 0, 2, 1},
		{"one may be missing", controller.Outlook{Old: pods, Come: come("3"), Unavailable: 1}, 2, 0, 0, 0, 0},
		{"the surge waits for one that may be missing", controller.Outlook{Old: pods, Come: come("3"), Surge: 1, Unavailable: 1}, 2, 0, 1, 0, 0},
		{"the new ones fit nowhere", controller.Outlook{Old: pods, Come: come("5"), Unavailable: 1}, 0, 1, 0, 1, 1},
		{"one that does not work goes first", controller.Outlook{Old: broken, Come: come("5"), Unavailable: 1}, 0, 1, 0, 1, 1},
		{"and counts as missing", controller.Outlook{Old: broken, Come: come("3"), Surge: 1}, 0, 1, 0, 2, 1},
		{"in place", controller.Outlook{Come: come("3", pods...), Unavailable: 1}, 2, 0, 0, 0, 0},
		{"in place, and too large", controller.Outlook{Come: come("5", pods...), Unavailable: 1}, 0, 1, 0, 1, 1},
		{"beside on each node", controller.Outlook{Come: come("1", pods...), Surge: 1}, 2, 0, 0, 0, 0},
		{"no room beside", controller.Outlook{Come: come("3", pods...), Surge: 1}, 0, 1, 0, 2, 1},
		{"the first of an order", controller.Outlook{Come: come("5"), Ordered: true}, 0, 1, 0, 0, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			state := state
			if len(test.outlook.Old) > 0 {
				state.Pods = test.outlook.Old
			}
			got := planned(t, state, test.outlook)
			placed := 0
			for _, n := range got.Placed {
				placed += n
			}
			if placed != test.placed || got.Waiting != test.waiting || got.Late != test.late || got.Left != test.left || got.Unmade != test.unmade {
				t.Errorf("%+v, want %d placed, %d waiting, %d late, %d left, %d unmade", got, test.placed, test.waiting, test.late, test.left, test.unmade)
			}
			if (got.WhyLate != "") != (test.late > 0) || (got.Why != "") != (test.waiting > 0) {
				t.Errorf("why %q with %d waiting, why late %q with %d late", got.Why, got.Waiting, got.WhyLate, got.Late)
			}
		})
	}
}

// Claims that are made with a pod have what their class promises: a volume where the pod
// goes, one at once, or the last one that is there.
func TestPlanGivesNewClaimsVolumes(t *testing.T) {
	class := func(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
		return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
	}
	state := State{
		Nodes: []*corev1.Node{makeNode("n1"), makeNode("n2")},
		StorageClasses: []*storagev1.StorageClass{
			class("later", "p", storagev1.VolumeBindingWaitForFirstConsumer), class("now", "p", storagev1.VolumeBindingImmediate),
			class("there", "kubernetes.io/no-provisioner", storagev1.VolumeBindingImmediate),
		},
		Volumes: []*corev1.PersistentVolume{{
			ObjectMeta: metav1.ObjectMeta{Name: "v"}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
			Spec: corev1.PersistentVolumeSpec{StorageClassName: "there", Capacity: list("storage", "1Gi"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}},
		}},
	}
	for name, waiting := range map[string]int{"later": 0, "now": 0, "there": 1, "none": 2} {
		t.Run(name, func(t *testing.T) {
			var o controller.Outlook
			for _, claim := range []string{"a", "b"} {
				pod := controller.Another(makePod(""), claim)
				pod.Spec.Volumes = []corev1.Volume{{Name: "d", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
				o.Come = append(o.Come, controller.Coming{Pod: pod, Claims: []*corev1.PersistentVolumeClaim{{
					ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: claim},
					Spec: corev1.PersistentVolumeClaimSpec{
						StorageClassName: ptr.To(name), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
						Resources: corev1.VolumeResourceRequirements{Requests: list("storage", "1Gi")},
					},
				}}})
			}
			if got := planned(t, state, o); got.Waiting != waiting {
				t.Errorf("%+v, want %d waiting", got, waiting)
			}
		})
	}
}
