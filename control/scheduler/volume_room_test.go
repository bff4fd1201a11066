package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"
)

const disks = "example.org/disks"

// makeRoom says how much is left for class w near a node; "" for any.
func makeRoom(name, node, left, most string) *storagev1.CSIStorageCapacity {
	c := &storagev1.CSIStorageCapacity{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, StorageClassName: "w",
		NodeTopology: &metav1.LabelSelector{}, Capacity: ptr.To(resource.MustParse(left))}
	if node != "" {
		c.NodeTopology.MatchLabels = map[string]string{corev1.LabelHostname: node}
	}
	if most != "" {
		c.MaximumVolumeSize = ptr.To(resource.MustParse(most))
	}
	return c
}

func makeDriver(metered, wanted bool) *storagev1.CSIDriver {
	return &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: disks},
		Spec: storagev1.CSIDriverSpec{StorageCapacity: &metered, PreventPodSchedulingIfMissing: &wanted}}
}

func makeDriverNode(node string, limit int32) *storagev1.CSINode {
	return &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{
		Name: disks, Allocatable: &storagev1.VolumeNodeResources{Count: &limit}}}}}
}

func attachment(name, node, v string) *storagev1.VolumeAttachment {
	return &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.VolumeAttachmentSpec{
		Attacher: disks, NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &v}}}
}

// What drivers say of nodes keeps pods from them, and who was kept away goes there once
// they say otherwise.
func TestDriversKeepPodsAway(t *testing.T) {
	const nowhere = "0/2 nodes are available: "
	csi := func(v *corev1.PersistentVolume) {
		v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: disks, VolumeHandle: v.Name}
	}
	for _, test := range []struct {
		name  string
		given []any
		why   string
		then  any
		node  string
	}{
		{"nothing is left", []any{makeDriver(true, false)}, "2 node(s) did not have enough free storage.", makeRoom("r", "n2", "1Gi", ""), "n2"},
		{"too little is left", []any{makeDriver(true, false), makeRoom("r", "", "1023Mi", "")}, "2 node(s) did not have enough free storage.", makeRoom("r", "", "1Gi", ""), "n1"},
		{"volumes can't be that large", []any{makeDriver(true, false), makeRoom("r", "n2", "9Gi", "1Mi")}, "2 node(s) did not have enough free storage.", makeRoom("r", "n2", "9Gi", "2Gi"), "n2"},
		{"it tells what is left no more", []any{makeDriver(true, false)}, "2 node(s) did not have enough free storage.", makeDriver(false, false), "n1"},
		{"the driver is on no node", []any{makeDriver(false, true)}, "2 example.org/disks CSI driver is not installed on the node.", makeDriverNode("n2", 5), "n2"},
		{"the driver need not be on a node", []any{makeDriver(false, true)}, "2 example.org/disks CSI driver is not installed on the node.", makeDriver(false, false), "n1"},
		{"what nobody uses is attached still", []any{makeDriverNode("n1", 1), makeDriverNode("n2", 1), makeVolume("u", "", "1Gi", "", csi), makeVolume("v", "", "1Gi", "", csi),
			attachment("a", "n1", "u"), attachment("b", "n2", "v")}, "2 node(s) exceed max volume count.", func(c *core) { c.setAttachment("b", nil) }, "n2"},
		{"what is attached is gone", []any{makeDriverNode("n1", 1), makeDriverNode("n2", 0), makeVolume("u", "", "1Gi", "", csi), attachment("a", "n1", "u")},
			"2 node(s) exceed max volume count.", func(c *core) { c.setVolume("u", nil) }, "n1"},
		{"another's volume turns out to be none of the driver's", []any{makeDriverNode("n1", 1), makeDriverNode("n2", 0), makeClaim("d", "w", "1Gi"), makePod("other", claiming("d"), on("n1"))},
			"2 node(s) exceed max volume count.", func(c *core) {
				d, v := boundTo(makeClaim("d", "w", "1Gi"), makeVolume("u", "w", "1Gi", ""))
				c.tell(v, d)
			}, "n1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCore(1)
			c.tell(makeNode("n1"), makeNode("n2"), makeClass("w", disks, storagev1.VolumeBindingWaitForFirstConsumer), makeClaim("c", "w", "1Gi"))
			c.tell(test.given...)
			c.tell(makePod("p", claiming("c")))
			if d, _ := c.next(); d.diagnosis == nil || d.diagnosis.Error() != nowhere+test.why {
				t.Fatalf("goes to %q, %v, want nowhere: %s", d.node, d.diagnosis, test.why)
			}
			if d, ok := c.next(); ok {
				t.Fatalf("%v is decided, want nothing to do", d)
			}
			if change, ok := test.then.(func(*core)); ok {
				change(c)
			} else {
				c.tell(test.then)
			}
			if d, _ := c.next(); d.node != test.node {
				t.Errorf("goes to %q then, want %q", d.node, test.node)
			}
		})
	}
}

// Where more is left once the volume is made is the better node.
func TestScoresRoom(t *testing.T) {
	c := newCore(1)
	c.tell(makeNode("n1"), makeNode("n2"), makeClass("w", disks, storagev1.VolumeBindingWaitForFirstConsumer), makeClaim("c", "w", "1Gi"), makeClaim("d", "w", "1Gi"),
		makeDriver(true, false), makeRoom("r1", "n1", "4Gi", ""), makeRoom("r2", "n2", "10Gi", ""))
	p := newPodInfo(makePod("p", claiming("c", "d")), c.cluster.profiles.or(makePod("p")))
	b := newVolumeBinding(&schedulerv1.VolumeBindingArgs{Shape: []schedulerv1.UtilizationShapePoint{{Utilization: 0, Score: 10}, {Utilization: 100, Score: 0}}})
	got := b.scores(c.cluster, p, []*nodeInfo{c.cluster.nodes["n1"], c.cluster.nodes["n2"]}, nil)
	if want := [2]int64{50, 80}; [2]int64(got) != want {
		t.Errorf("scores %v, want %v", got, want)
	}
	c.setRoom("default/r1", nil)
	c.setRoom("default/r2", nil)
	if len(c.cluster.volumes.rooms) > 0 || len(c.cluster.volumes.roomOf) > 0 {
		t.Errorf("%v is kept of what is gone", c.cluster.volumes.rooms)
	}
}
