package scheduler

import (
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/volume"
)

// volumeLimits refuses nodes to which a CSI driver attaches no more volumes, as
// CSINode objects say. Volumes that nobody on the node uses, and are attached still, don't count.
type volumeLimits struct{}

func (volumeLimits) name() string            { return "NodeVolumeLimits" }
func (volumeLimits) applies(p *podInfo) bool { return len(p.claims) > 0 }

func (volumeLimits) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	csi := n.volumes.csiNodes[n.name]
	if csi == nil || !hasLimit(csi) || n.volumes.needs(p).refusal != "" {
		return reasons // or it can't go anywhere, which volumeBinding says
	}
	more := map[csiVolume]bool{}
	n.volumes.addCSI(more, p)
	if len(more) == 0 {
		return reasons
	}
	there := map[csiVolume]bool{}
	for _, other := range n.pods {
		n.volumes.addCSI(there, other)
	}
	attached := map[string]int{}
	for v := range there {
		attached[v.driver]++
		delete(more, v)
	}
	asked := map[string]bool{}
	for v := range more {
		attached[v.driver]++
		asked[v.driver] = true
	}
	for _, d := range csi.Spec.Drivers {
		if asked[d.Name] && d.Allocatable != nil && d.Allocatable.Count != nil && attached[d.Name] > int(*d.Allocatable.Count) {
			return append(reasons, "node(s) exceed max volume count")
		}
	}
	return reasons
}

func hasLimit(csi *storagev1.CSINode) bool {
	for _, d := range csi.Spec.Drivers {
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			return true
		}
	}
	return false
}

// csiVolume is a volume of a driver, by its handle, or by its claim while none is
// made yet.
type csiVolume struct{ driver, handle string }

// addCSI adds the volumes of a pod that drivers attach.
func (v *volumes) addCSI(to map[csiVolume]bool, p *podInfo) {
	for _, use := range p.claims {
		claim := v.claims[use.key]
		if claim == nil {
			continue
		}
		if there := v.byName[claim.Spec.VolumeName]; there != nil {
			if csi := there.Spec.CSI; csi != nil {
				to[csiVolume{csi.Driver, csi.VolumeHandle}] = true
			}
			continue
		}
		if class := v.classes[volume.GetPersistentVolumeClaimClass(claim)]; class != nil {
			to[csiVolume{class.Provisioner, "\x00" + use.key}] = true
		}
	}
}
