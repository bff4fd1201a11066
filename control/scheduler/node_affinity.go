package scheduler

import "k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

// nodeAffinity refuses nodes that spec.nodeSelector or the required node
// affinity does not match, and prefers those that the preferred terms do. A profile
// may ask more of nodes, for all of its pods.
type nodeAffinity struct {
	required  *nodeaffinity.NodeSelector
	preferred *nodeaffinity.PreferredSchedulingTerms
}

func (nodeAffinity) name() string { return "NodeAffinity" }

func (a nodeAffinity) applies(p *podInfo) bool { return a.required != nil || p.chooses() }
func (a nodeAffinity) tells(p *podInfo) bool   { return a.preferred != nil || p.preferred != nil }

func (a nodeAffinity) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	if a.required != nil && !a.required.Match(n.node) {
		return append(reasons, "node(s) didn't match scheduler-enforced node affinity")
	}
	// A selector that does not parse matches nothing.
	if match, err := p.required.Match(n.node); err != nil || !match {
		return append(reasons, "node(s) didn't match Pod's node affinity/selector")
	}
	return reasons
}

func (a nodeAffinity) scores(_ *cluster, p *podInfo, nodes []*nodeInfo, scores []int64) []int64 {
	from := len(scores)
	for _, n := range nodes {
		var score int64
		if p.preferred != nil {
			score = p.preferred.Score(n.node)
		}
		if a.preferred != nil {
			score += a.preferred.Score(n.node)
		}
		scores = append(scores, score)
	}
	normalizeByMax(scores[from:], false)
	return scores
}
