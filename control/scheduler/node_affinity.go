package scheduler

// nodeAffinity refuses nodes that spec.nodeSelector or the required node
// affinity does not match, and prefers those that the preferred terms do.
type nodeAffinity struct{}

func (nodeAffinity) name() string  { return "NodeAffinity" }
func (nodeAffinity) weight() int64 { return 2 }

func (nodeAffinity) applies(p *podInfo) bool { return p.chooses() }
func (nodeAffinity) tells(p *podInfo) bool   { return p.preferred != nil }

func (nodeAffinity) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	// A selector that does not parse matches nothing.
	if match, err := p.required.Match(n.node); err != nil || !match {
		return append(reasons, "node(s) didn't match Pod's node affinity/selector")
	}
	return reasons
}

func (nodeAffinity) scores(_ *cluster, p *podInfo, nodes []*nodeInfo, scores []int64) []int64 {
	from := len(scores)
	for _, n := range nodes {
		scores = append(scores, p.preferred.Score(n.node))
	}
	normalizeByMax(scores[from:], false)
	return scores
}
