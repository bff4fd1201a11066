package scheduler

import "maps"

// place finds the best node for a pod, or says why there is none.
//
// The search starts where the last one ended and stops once enough nodes fit,
// so in a large cluster with room its cost does not depend on how many nodes
// there are, and pods go round. Of equal nodes the first found wins: the same
// history gives the same placement.
func (c *cluster) place(p *podInfo) (*nodeInfo, *Diagnosis) {
	if refusal := c.volumes.barred(p); refusal != "" {
		return nil, &Diagnosis{Nodes: len(c.order), Message: refusal}
	}
	c.filters = c.applicable(p, c.filters[:0])
	nodes, elsewhere := c.among(p)
	total := len(nodes)
	c.feasible = c.feasible[:0]
	sample := p.profile.sample(c)
	clear(c.refused)
	visited := 0
	for ; visited < total && len(c.feasible) < sample; visited++ {
		n := nodes[(c.next+visited)%total]
		reasons, _ := c.refuse(p, n, c.reasons[:0])
		if len(reasons) == 0 {
			c.feasible = append(c.feasible, n)
		}
		for _, reason := range reasons {
			c.refused[reason]++
		}
		c.reasons = reasons
	}
	if len(c.feasible) == 0 {
		if p.pinned != nil && len(p.pinned) == 0 && elsewhere > 0 {
			return nil, &Diagnosis{Nodes: len(c.order), Message: contradicting}
		}
		why := &Diagnosis{Nodes: len(c.order), Reasons: maps.Clone(c.refused)}
		if elsewhere > 0 {
			why.Reasons[notPinned] += elsewhere
		}
		return nil, why
	}
	if elsewhere == 0 {
		c.next = (c.next + visited + 1) % total
	}
	return c.best(p), nil
}

// best scores the feasible nodes.
func (c *cluster) best(p *podInfo) *nodeInfo {
	if len(c.feasible) == 1 {
		return c.feasible[0]
	}
	c.totals = append(c.totals[:0], make([]int64, len(c.feasible))...)
	for _, s := range p.profile.scorers {
		if !s.tells(p) {
			continue
		}
		c.scores = s.scores(c, p, c.feasible, c.scores[:0])
		for i, score := range c.scores {
			c.totals[i] += s.weight * score
		}
	}
	best := 0
	for i, score := range c.totals {
		if score > c.totals[best] {
			best = i
		}
	}
	return c.feasible[best]
}

// fitsSomewhere reports whether any node can take the pod now.
func (c *cluster) fitsSomewhere(p *podInfo) bool {
	c.filters = c.applicable(p, c.filters[:0])
	nodes, _ := c.among(p)
	total := len(nodes)
	for i := range total {
		c.reasons, _ = refusal(c.filters, p, nodes[(c.next+i)%total], c.reasons[:0])
		if len(c.reasons) == 0 {
			return true
		}
	}
	return false
}

// fits reports whether the node can take the pod now.
func (c *cluster) fits(p *podInfo, n *nodeInfo) bool {
	c.filters = c.applicable(p, c.filters[:0])
	c.reasons, _ = c.refuse(p, n, c.reasons[:0])
	return len(c.reasons) == 0
}
