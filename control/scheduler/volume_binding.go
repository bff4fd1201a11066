package scheduler

// volumeBinding refuses nodes that the pod's volumes can't be reached from, and those
// where its claims would find none.
type volumeBinding struct{}

func (volumeBinding) name() string            { return "VolumeBinding" }
func (volumeBinding) applies(p *podInfo) bool { return len(p.claims) > 0 }

func (volumeBinding) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	if refusal := n.volumes.refusalOf(p); refusal != "" {
		return append(reasons, refusal)
	}
	if _, reason := n.volumes.finds(n.volumes.needs(p), n); reason != "" {
		n.volumes.refused[p.pod.UID] = struct{}{}
		reasons = append(reasons, reason)
	}
	return reasons
}
