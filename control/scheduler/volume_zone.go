package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// volumeZone refuses nodes of another zone or region than a bound volume's labels
// say, which cloud providers set before volumes had affinities.
type volumeZone struct{}

var zoneLabels = [...]string{
	corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion, corev1.LabelTopologyZone, corev1.LabelTopologyRegion,
}

var newerLabel = map[string]string{
	corev1.LabelFailureDomainBetaZone: corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
}

// volumeTopology is where a volume's label says that it is.
type volumeTopology struct {
	label  string
	values []string
}

func (volumeZone) name() string            { return "VolumeZone" }
func (volumeZone) applies(p *podInfo) bool { return len(p.claims) > 0 }
func (volumeZone) bars(n *needs) string    { return n.lost }

func (z volumeZone) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	need := n.volumes.needs(p)
	refuse := func(why string) []string {
		n.volumes.refuses(p)
		return append(reasons, why)
	}
	if why := z.bars(need); why != "" {
		return refuse(why)
	}
	if len(need.zones) == 0 || !slices.ContainsFunc(zoneLabels[:], func(label string) bool { _, ok := n.node.Labels[label]; return ok }) {
		return reasons // a cluster of one zone
	}
	for _, t := range need.zones {
		value, ok := n.node.Labels[t.label]
		if !ok {
			value, ok = n.node.Labels[newerLabel[t.label]]
		}
		if !ok || !slices.Contains(t.values, value) {
			return refuse("node(s) had no available volume zone")
		}
	}
	return reasons
}

// topologies are where the volumes of a pod's claims are by their labels, or why that
// can't be told. As upstream, it passes over ephemeral volumes.
func (v *volumes) topologies(p *podInfo) (list []volumeTopology, lost string) {
	for _, use := range p.claims {
		if use.made {
			continue
		}
		claim := v.claims[use.key]
		if claim == nil {
			return nil, notFound("persistentvolumeclaim", nameIn(use.key))
		}
		if claim.Spec.VolumeName == "" {
			name := volume.GetPersistentVolumeClaimClass(claim)
			class := v.classes[name]
			switch {
			case name == "":
				return nil, "PersistentVolumeClaim had no pv name and storageClass name"
			case class == nil:
				return nil, notFound("storageclass.storage.k8s.io", name)
			case ptr.Deref(class.VolumeBindingMode, "") != storagev1.VolumeBindingWaitForFirstConsumer:
				return nil, "PersistentVolume had no name"
			}
			continue
		}
		it := v.byName[claim.Spec.VolumeName]
		if it == nil {
			return nil, notFound("persistentvolume", claim.Spec.VolumeName)
		}
		for _, label := range zoneLabels {
			// Of several, the label has this between them: cloud-provider/volume/helpers.
			values := strings.Split(it.Labels[label], "__")
			if !slices.Contains(values, "") { // such a label counts for none
				list = append(list, volumeTopology{label, values})
			}
		}
	}
	return list, ""
}
