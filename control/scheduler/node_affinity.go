package scheduler

// nodeAffinity refuses nodes that spec.nodeSelector or the required node
// affinity does not match, and prefers those that the preferred terms do.
type nodeAffinity struct{}

func (nodeAffinity) name() string  { return "NodeAffinity" }
func (nodeAffinity) weight() int64 { return 2 }

// applies to filtering: whether the pod asks for nodes at all. As a scorer
// nodeAffinity scores 0 everywhere for pods that prefer nothing.
func (nodeAffinity) applies(p *podInfo) bool {
	return len(p.pod.Spec.NodeSelector) > 0 || nodeAffinityOf(p.pod) != nil
}

func (nodeAffinity) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	// A selector that does not parse matches nothing.
	if match, err := p.required.Match(n.node); err != nil || !match {
		return append(reasons, "node(s) didn't match Pod's node affinity/selector")
	}
	return reasons
}

func (nodeAffinity) score(p *podInfo, n *nodeInfo) int64 {
	if p.preferred == nil {
		return 0
	}
	return p.preferred.Score(n.node)
}

func (nodeAffinity) normalize(scores []int64) { normalizeByMax(scores, false) }
