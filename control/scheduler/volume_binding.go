package scheduler

// volumeBinding refuses nodes that the pod's volumes can't be reached from, and those
// where its claims would find none.
type volumeBinding struct{}

func (volumeBinding) name() string            { return "VolumeBinding" }
func (volumeBinding) applies(p *podInfo) bool { return len(p.claims) > 0 }
func (volumeBinding) bars(n *needs) string    { return n.refusal }

func (b volumeBinding) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	need, before := n.volumes.needs(p), len(reasons)
	if why := b.bars(need); why != "" {
		reasons = append(reasons, why)
	} else {
		_, reasons = n.volumes.finds(need, n, reasons)
	}
	if len(reasons) > before {
		n.volumes.refuses(p)
	}
	return reasons
}
