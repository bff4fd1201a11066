package scheduler

import (
	"slices"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// volumeLimits refuses nodes to which a CSI driver attaches no more volumes, as
// CSINode objects say, and those without a driver that is not to be missing.
type volumeLimits struct{}

func (volumeLimits) name() string            { return "NodeVolumeLimits" }
func (volumeLimits) applies(p *podInfo) bool { return len(p.claims) > 0 }

func (volumeLimits) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	need := n.volumes.needs(p)
	if need.refusal != "" || len(need.attaches) == 0 {
		return reasons // or it can't go anywhere, which volumeBinding says
	}
	csi := n.volumes.csiNodes[n.name]
	if name := n.volumes.missing(need, csi); name != "" {
		n.volumes.refuses(p)
		return append(reasons, name+" CSI driver is not installed on the node")
	}
	if csi == nil || !hasLimit(csi) {
		return reasons
	}
	there := map[csiVolume]bool{}
	for _, other := range n.pods {
		n.volumes.addCSI(there, other)
	}
	attached, asked := map[string]int{}, map[string]bool{}
	for v := range there {
		attached[v.driver]++
	}
	for v := range need.attaches {
		if !there[v] {
			attached[v.driver]++
			asked[v.driver] = true
		}
	}
	for _, a := range n.volumes.attachedTo[n.name] { // also of pods that are gone
		if v := n.volumes.attachedBy(a); v.driver != "" && !there[v] {
			there[v] = true
			attached[v.driver]++
		}
	}
	for _, d := range csi.Spec.Drivers {
		if asked[d.Name] && d.Allocatable != nil && d.Allocatable.Count != nil && attached[d.Name] > int(*d.Allocatable.Count) {
			n.volumes.limited[p.pod.UID] = struct{}{}
			return append(reasons, "node(s) exceed max volume count")
		}
	}
	return reasons
}

// missing is a driver that the pod needs, that is not to be missing, and is not on the
// node; "" for none.
func (v *volumes) missing(need *needs, csi *storagev1.CSINode) (name string) {
	for it := range need.attaches {
		d := v.drivers[it.driver]
		if d == nil || !ptr.Deref(d.Spec.PreventPodSchedulingIfMissing, false) || name != "" && name < it.driver {
			continue
		}
		if csi == nil || !slices.ContainsFunc(csi.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == it.driver }) {
			name = it.driver
		}
	}
	return name
}

// attachedBy is what an attachment is of.
func (v *volumes) attachedBy(a *storagev1.VolumeAttachment) csiVolume {
	if name := a.Spec.Source.PersistentVolumeName; name != nil {
		if there := v.byName[*name]; there != nil && there.Spec.CSI != nil {
			return csiVolume{a.Spec.Attacher, there.Spec.CSI.VolumeHandle}
		}
	}
	return csiVolume{}
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
		if it := v.csiOf(use.key); it.driver != "" {
			to[it] = true
		}
	}
}

// csiOf is what a driver attaches for a claim, nothing if none does.
func (v *volumes) csiOf(key string) csiVolume {
	claim := v.claims[key]
	if claim == nil {
		return csiVolume{}
	}
	if there := v.byName[claim.Spec.VolumeName]; there != nil {
		if csi := there.Spec.CSI; csi != nil {
			return csiVolume{csi.Driver, csi.VolumeHandle}
		}
		return csiVolume{}
	}
	if class := v.classes[volume.GetPersistentVolumeClaimClass(claim)]; class != nil {
		return csiVolume{class.Provisioner, "\x00" + key}
	}
	return csiVolume{}
}
