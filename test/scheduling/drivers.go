package scheduling

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/scheduler"
)

// csiNode says which drivers are on a node, and how many volumes they attach there.
func (m *maker) csiNode(name string) *storagev1.CSINode {
	c := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, driver := range []string{"example.org/disks", "example.org/files"} {
		if m.sometimes() {
			continue
		}
		d := storagev1.CSINodeDriver{Name: driver, NodeID: name}
		if !m.sometimes() {
			d.Allocatable = &storagev1.VolumeNodeResources{Count: ptr.To(int32(1 + m.IntN(3)))}
		}
		c.Spec.Drivers = append(c.Spec.Drivers, d)
	}
	return c
}

// drivers tell what they have left in zones; of several that a node is near to upstream
// takes any.
func (m *maker) drivers(s *scheduler.State) {
	for _, name := range []string{"example.org/disks", "example.org/files"} {
		if m.often() {
			d := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.CSIDriverSpec{StorageCapacity: ptr.To(m.often())}}
			if name == "example.org/files" {
				d.Spec.PreventPodSchedulingIfMissing = ptr.To(m.often())
			}
			s.CSIDrivers = append(s.CSIDrivers, d)
		}
	}
	for _, class := range []string{"made", "filed"} {
		for _, zone := range []string{"a", "b", "c"} {
			c := &storagev1.CSIStorageCapacity{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns0", Name: class + zone}, StorageClassName: class, Capacity: resource.NewQuantity(m.Int64N(12)<<30, resource.BinarySI),
				NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelTopologyZone: zone}},
			}
			if m.often() {
				c.NodeTopology = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
					{Key: corev1.LabelTopologyZone, Operator: metav1.LabelSelectorOpIn, Values: []string{zone}}, {Key: "disk", Operator: metav1.LabelSelectorOpExists}}}
			}
			switch m.IntN(6) {
			case 0:
				c.MaximumVolumeSize = resource.NewQuantity(m.Int64N(4)<<30, resource.BinarySI)
			case 1:
				c.NodeTopology = nil
			}
			if !m.sometimes() {
				s.CSIStorageCapacities = append(s.CSIStorageCapacities, c)
			}
		}
	}
}

// attach has drivers attach volumes, whether any pod uses them or not.
func (m *maker) attach(s *scheduler.State) {
	for i := range m.IntN(9) {
		s.VolumeAttachments = append(s.VolumeAttachments, &storagev1.VolumeAttachment{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("a", i)},
			Spec: storagev1.VolumeAttachmentSpec{
				Attacher: m.one("example.org/disks", "example.org/files"), NodeName: m.one("n0", "n1", "n2", "n3"),
				Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To(fmt.Sprint("v", m.IntN(40)))},
			},
		})
	}
}
