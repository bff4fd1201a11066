package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// volumeRestrictions refuses a claim that one pod at a time may have, one that is not
// there, and disks that a node can have once.
type volumeRestrictions struct{}

const (
	reasonInUse = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"
	reasonDisk  = "node(s) had no available disk"
)

func (volumeRestrictions) name() string { return "VolumeRestrictions" }

func (volumeRestrictions) applies(p *podInfo) bool {
	return len(p.claims) > 0 || slices.ContainsFunc(p.pod.Spec.Volumes, isDisk)
}

func (volumeRestrictions) bars(n *needs) string { return n.missing }

func (r volumeRestrictions) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	if len(p.claims) > 0 {
		if why := r.bars(n.volumes.needs(p)); why != "" {
			return append(reasons, why)
		}
	}
	for i := range p.pod.Spec.Volumes {
		v := &p.pod.Spec.Volumes[i]
		if !isDisk(*v) {
			continue
		}
		for _, other := range n.pods {
			if slices.ContainsFunc(other.pod.Spec.Volumes, func(o corev1.Volume) bool { return disagree(v, &o) }) {
				return append(reasons, reasonDisk)
			}
		}
	}
	for _, use := range p.claims {
		claim := n.volumes.claims[use.key]
		if !use.made && claim != nil && n.volumes.used[use.key] > 0 && slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
			return append(reasons, reasonInUse)
		}
	}
	return reasons
}

func isDisk(v corev1.Volume) bool {
	return v.GCEPersistentDisk != nil || v.AWSElasticBlockStore != nil || v.RBD != nil || v.ISCSI != nil
}

// disagree says that two volumes are the same disk, and not both only read it.
func disagree(a, b *corev1.Volume) bool {
	switch {
	case a.GCEPersistentDisk != nil && b.GCEPersistentDisk != nil:
		x, y := a.GCEPersistentDisk, b.GCEPersistentDisk
		return x.PDName == y.PDName && !(x.ReadOnly && y.ReadOnly)
	case a.AWSElasticBlockStore != nil && b.AWSElasticBlockStore != nil:
		return a.AWSElasticBlockStore.VolumeID == b.AWSElasticBlockStore.VolumeID
	case a.ISCSI != nil && b.ISCSI != nil:
		return a.ISCSI.IQN == b.ISCSI.IQN && !(a.ISCSI.ReadOnly && b.ISCSI.ReadOnly)
	case a.RBD != nil && b.RBD != nil:
		x, y := a.RBD, b.RBD
		return x.RBDPool == y.RBDPool && x.RBDImage == y.RBDImage && !(x.ReadOnly && y.ReadOnly) &&
			slices.ContainsFunc(x.CephMonitors, func(m string) bool { return slices.Contains(y.CephMonitors, m) })
	}
	return false
}
