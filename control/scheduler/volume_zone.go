package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
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

func (volumeZone) name() string            { return "VolumeZone" }
func (volumeZone) applies(p *podInfo) bool { return len(p.claims) > 0 }

func (volumeZone) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	if !slices.ContainsFunc(zoneLabels[:], func(label string) bool { _, ok := n.node.Labels[label]; return ok }) {
		return reasons // a cluster of one zone
	}
	for _, v := range n.volumes.needs(p).bound {
		if v == nil {
			continue
		}
		for _, label := range zoneLabels {
			zones, ok := v.Labels[label]
			if !ok || zones == "" {
				continue
			}
			zone, ok := n.node.Labels[label]
			if !ok {
				zone, ok = n.node.Labels[newerLabel[label]]
			}
			// Of several, the label has this between them: cloud-provider/volume/helpers.
			if !ok || !slices.Contains(strings.Split(zones, "__"), zone) {
				return append(reasons, "node(s) had no available volume zone")
			}
		}
	}
	return reasons
}
