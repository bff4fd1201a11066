package scheduler

// Scores are between 0 and scoreMax after normalize.
const scoreMax = 100

// A scorer says which of the nodes that can take a pod is the better one.
type scorer interface {
	name() string
	// tells is false when the scorer would give every node the same.
	tells(*podInfo) bool
	// scores appends what each node is worth, in 0..scoreMax among them all.
	scores(c *cluster, p *podInfo, nodes []*nodeInfo, scores []int64) []int64
}

// normalizeByMax scales scores so that the highest becomes scoreMax; reversed,
// so that the highest becomes 0.
func normalizeByMax(scores []int64, reverse bool) {
	var highest int64
	for _, s := range scores {
		highest = max(highest, s)
	}
	for i, s := range scores {
		if highest > 0 {
			s = scoreMax * s / highest
		}
		if reverse {
			s = scoreMax - s
		}
		scores[i] = s
	}
}
