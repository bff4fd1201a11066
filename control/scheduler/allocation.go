package scheduler

import "math"

// leastAllocated prefers the node that has the larger share of its CPU and
// memory left once the pod is there.
type leastAllocated struct{}

func (leastAllocated) name() string        { return "NodeResourcesFit" }
func (leastAllocated) weight() int64       { return 1 }
func (leastAllocated) tells(*podInfo) bool { return true }

func (leastAllocated) scores(_ *cluster, p *podInfo, nodes []*nodeInfo, scores []int64) []int64 {
	for _, n := range nodes {
		scores = append(scores, shareLeft(p, n))
	}
	return scores
}

func shareLeft(p *podInfo, n *nodeInfo) int64 {
	var sum, parts int64
	part := func(requested, capacity int64) {
		if capacity == 0 {
			return
		}
		parts++
		if requested <= capacity {
			sum += (capacity - requested) * scoreMax / capacity
		}
	}
	part(n.scoredCPU+p.scoredCPU, n.allocatable.milliCPU)
	part(n.scoredMemory+p.scoredMemory, n.allocatable.memory)
	if parts == 0 {
		return 0
	}
	return sum / parts
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
