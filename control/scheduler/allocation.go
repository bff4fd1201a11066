package scheduler

import "math"

// allocation prefers the node that has the larger share of its CPU and memory left
// once the pod is there, or the smaller one where the cluster's algorithm is to
// pack.
type allocation struct{}

func (allocation) name() string        { return "NodeResourcesFit" }
func (allocation) weight() int64       { return 1 }
func (allocation) tells(*podInfo) bool { return true }

func (allocation) scores(c *cluster, p *podInfo, nodes []*nodeInfo, scores []int64) []int64 {
	share := leftShare
	if c.algorithm == BinPack {
		share = usedShare
	}
	for _, n := range nodes {
		var sum, parts int64
		if n.allocatable.milliCPU != 0 {
			sum += share(n.scoredCPU+p.scoredCPU, n.allocatable.milliCPU)
			parts++
		}
		if n.allocatable.memory != 0 {
			sum += share(n.scoredMemory+p.scoredMemory, n.allocatable.memory)
			parts++
		}
		scores = append(scores, sum/max(parts, 1))
	}
	return scores
}

func leftShare(requested, capacity int64) int64 {
	if requested > capacity {
		return 0
	}
	return (capacity - requested) * scoreMax / capacity
}

func usedShare(requested, capacity int64) int64 {
	return min(requested, capacity) * scoreMax / capacity
}

// balancedAllocation prefers the node whose shares of used CPU and memory the
// pod brings closer to each other, so that neither is stranded.
type balancedAllocation struct{}

func (balancedAllocation) name() string  { return "NodeResourcesBalancedAllocation" }
func (balancedAllocation) weight() int64 { return 1 }

func (balancedAllocation) tells(p *podInfo) bool {
	return p.requests.milliCPU > 0 || p.requests.memory > 0
}

func (balancedAllocation) scores(_ *cluster, p *podInfo, nodes []*nodeInfo, scores []int64) []int64 {
	for _, n := range nodes {
		with := balance(n, n.requested.milliCPU+p.requests.milliCPU, n.requested.memory+p.requests.memory)
		without := balance(n, n.requested.milliCPU, n.requested.memory)
		scores = append(scores, scoreMax/2+(scoreMax/2+with-without)/2)
	}
	return scores
}

// balance is scoreMax when CPU and memory are used in equal shares and half of
// it when one is full and the other idle.
func balance(n *nodeInfo, milliCPU, memory int64) int64 {
	if n.allocatable.milliCPU == 0 || n.allocatable.memory == 0 {
		return scoreMax
	}
	cpu := min(1, float64(milliCPU)/float64(n.allocatable.milliCPU))
	mem := min(1, float64(memory)/float64(n.allocatable.memory))
	return int64((1 - math.Abs(cpu-mem)/2) * scoreMax)
}
