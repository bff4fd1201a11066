package scheduler

import (
	"testing"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/volume"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

// Nodes are scored by how much of their volumes claims would take, each class alike.
func TestScoresVolumes(t *testing.T) {
	const waits = storagev1.VolumeBindingWaitForFirstConsumer
	plain := []schedulerv1.UtilizationShapePoint{{Utilization: 0, Score: 10}, {Utilization: 100, Score: 0}}
	packed := []schedulerv1.UtilizationShapePoint{{Utilization: 0, Score: 0}, {Utilization: 50, Score: 2}, {Utilization: 100, Score: 10}}
	for _, test := range []struct {
		name   string
		claims []string // class and size
		shape  []schedulerv1.UtilizationShapePoint
		want   [2]int64 // of n1, whose volumes have 4Gi, and n2, whose have 5Gi and 10Gi
	}{
		{"the one that has most left", []string{"s", "3Gi"}, plain, [2]int64{25, 40}},
		{"the one that is filled, by a shape", []string{"s", "3Gi"}, packed, [2]int64{60, 36}},
		{"claims of one class together", []string{"s", "1Gi", "s", "4Gi"}, plain, [2]int64{38, 67}},
		{"the mean of classes", []string{"s", "3Gi", "t", "4Gi"}, plain, [2]int64{13, 50}},
		{"nothing is to be chosen", nil, plain, [2]int64{0, 0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCore(1)
			c.tell(makeNode("n1"), makeNode("n2"), makeClass("s", volume.NotSupportedProvisioner, waits), makeClass("t", volume.NotSupportedProvisioner, waits),
				makeVolume("n1-a", "s", "4Gi", "n1"), makeVolume("n1-b", "s", "4Gi", "n1"), makeVolume("n1-t", "t", "4Gi", "n1"),
				makeVolume("n2-a", "s", "5Gi", "n2"), makeVolume("n2-b", "s", "10Gi", "n2"), makeVolume("n2-t", "t", "10Gi", "n2"))
			var names []string
			for i := 0; i < len(test.claims); i += 2 {
				names = append(names, "c"+test.claims[i+1])
				c.tell(makeClaim("c"+test.claims[i+1], test.claims[i], test.claims[i+1]))
			}
			p := newPodInfo(makePod("p", claiming(names...)), c.cluster.profiles.or(makePod("p")))
			nodes := []*nodeInfo{c.cluster.nodes["n1"], c.cluster.nodes["n2"]}
			got := newVolumeBinding(&schedulerv1.VolumeBindingArgs{Shape: test.shape}).scores(c.cluster, p, nodes, nil)
			if [2]int64(got) != test.want {
				t.Errorf("scores %v, want %v", got, test.want)
			}
		})
	}
}
