package scheduler

// spread prefers the node with fewer pods of the same controller, so that a
// lost node takes as few replicas along as can be.
type spread struct{}

func (spread) name() string            { return "Spread" }
func (spread) weight() int64           { return 2 }
func (spread) applies(p *podInfo) bool { return p.owner != "" }

func (spread) score(p *podInfo, n *nodeInfo) int64 { return int64(n.owners[p.owner]) }
func (spread) normalize(scores []int64)            { normalizeByMax(scores, true) }
