package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

// allocation prefers the node that has the larger share of its CPU and memory left
// once the pod is there, or the smaller one where the cluster's algorithm is to
// pack. A profile may choose for itself, and which resources count how much.
type allocation struct {
	rate      func(requested, capacity int64) int64 // nil: the cluster's algorithm
	resources []schedulerv1.ResourceSpec            // nil: CPU and memory alike
	// bent is set where shares of nothing do not count, and the mean is rounded, which
	// is how upstream rates by a shape.
	bent bool
}

func newAllocation(s *schedulerv1.ScoringStrategy) allocation {
	if s == nil {
		return allocation{}
	}
	a := allocation{resources: s.Resources}
	if isUsual(s.Resources) && s.Type != schedulerv1.RequestedToCapacityRatio {
		a.resources = nil
	}
	switch s.Type {
	case schedulerv1.MostAllocated:
		a.rate = usedShare
	case schedulerv1.RequestedToCapacityRatio:
		a.rate, a.bent = shapeOf(s.RequestedToCapacityRatio.Shape), true
	default:
		a.rate = leftShare
	}
	return a
}

// isUsual says that CPU and memory count alike and nothing else does.
func isUsual(resources []schedulerv1.ResourceSpec) bool {
	if len(resources) != 2 {
		return false
	}
	a, b := resources[0], resources[1]
	both := a.Name == string(corev1.ResourceCPU) && b.Name == string(corev1.ResourceMemory) ||
		a.Name == string(corev1.ResourceMemory) && b.Name == string(corev1.ResourceCPU)
	return both && a.Weight == b.Weight
}

func (allocation) name() string        { return "NodeResourcesFit" }
func (allocation) tells(*podInfo) bool { return true }

func (a allocation) scores(c *cluster, p *podInfo, nodes []*nodeInfo, scores []int64) []int64 {
	share := a.rate
	switch {
	case share != nil:
	case c.algorithm == BinPack:
		share = usedShare
	default:
		share = leftShare
	}
	if a.resources != nil {
		for _, n := range nodes {
			scores = append(scores, a.score(p, n, share))
		}
		return scores
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

// score is the mean over the resources, by their weights.
func (a allocation) score(p *podInfo, n *nodeInfo, share func(requested, capacity int64) int64) int64 {
	var sum, weights int64
	for i := range a.resources {
		name := corev1.ResourceName(a.resources[i].Name)
		used, asked, capacity := scoredAmounts(p, n, name)
		if capacity == 0 {
			continue
		}
		rate := share(used+asked, capacity)
		if a.bent && rate <= 0 {
			continue
		}
		sum += rate * a.resources[i].Weight
		weights += a.resources[i].Weight
	}
	switch {
	case weights == 0:
		return 0
	case a.bent:
		return int64(math.Round(float64(sum) / float64(weights)))
	}
	return sum / weights
}

// scoredAmounts are what is used of a resource on a node, what the pod would add, and
// what there is; 0 there if the node is not to be scored by it.
func scoredAmounts(p *podInfo, n *nodeInfo, name corev1.ResourceName) (used, asked, capacity int64) {
	switch name {
	case corev1.ResourceCPU:
		return n.scoredCPU, p.scoredCPU, n.allocatable.milliCPU
	case corev1.ResourceMemory:
		return n.scoredMemory, p.scoredMemory, n.allocatable.memory
	}
	return amounts(p, n, name)
}

// amounts are those that filters compare. What a pod does not ask for of an extended
// resource says nothing about a node.
func amounts(p *podInfo, n *nodeInfo, name corev1.ResourceName) (used, asked, capacity int64) {
	switch name {
	case corev1.ResourceCPU:
		return n.requested.milliCPU, p.requests.milliCPU, n.allocatable.milliCPU
	case corev1.ResourceMemory:
		return n.requested.memory, p.requests.memory, n.allocatable.memory
	case corev1.ResourceEphemeralStorage:
		return n.requested.storage, p.requests.storage, n.allocatable.storage
	}
	if asked = p.requests.extended[name]; asked == 0 {
		return 0, 0, 0
	}
	return n.requested.extended[name], asked, n.allocatable.extended[name]
}

// shapeOf rates the percentage that is used by the straight lines between points.
func shapeOf(shape []schedulerv1.UtilizationShapePoint) func(requested, capacity int64) int64 {
	const scale = scoreMax / 10 // scores of a shape go to 10
	at := func(percentage int64) int64 {
		for i := range shape {
			to := int64(shape[i].Utilization)
			if percentage > to {
				continue
			}
			high := int64(shape[i].Score) * scale
			if i == 0 {
				return high
			}
			from, low := int64(shape[i-1].Utilization), int64(shape[i-1].Score)*scale
			return low + (high-low)*(percentage-from)/(to-from)
		}
		return int64(shape[len(shape)-1].Score) * scale
	}
	return func(requested, capacity int64) int64 {
		if requested > capacity {
			return at(100)
		}
		return at(requested * 100 / capacity)
	}
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

// balancedAllocation prefers the node whose shares of used CPU and memory, or of
// what a profile names, the pod brings closer to each other, so that none is
// stranded.
type balancedAllocation struct {
	resources []schedulerv1.ResourceSpec // nil: CPU and memory
}

func newBalancedAllocation(resources []schedulerv1.ResourceSpec) balancedAllocation {
	if isUsual(resources) {
		return balancedAllocation{}
	}
	return balancedAllocation{resources}
}

func (balancedAllocation) name() string { return "NodeResourcesBalancedAllocation" }

func (b balancedAllocation) tells(p *podInfo) bool {
	if b.resources == nil {
		return p.requests.milliCPU > 0 || p.requests.memory > 0
	}
	for i := range b.resources {
		if p.requests.of(corev1.ResourceName(b.resources[i].Name)) != 0 {
			return true
		}
	}
	return false
}

func (b balancedAllocation) scores(_ *cluster, p *podInfo, nodes []*nodeInfo, scores []int64) []int64 {
	for _, n := range nodes {
		var with, without int64
		if b.resources == nil {
			with = balance(n, n.requested.milliCPU+p.requests.milliCPU, n.requested.memory+p.requests.memory)
			without = balance(n, n.requested.milliCPU, n.requested.memory)
		} else {
			with, without = b.balances(p, n)
		}
		scores = append(scores, scoreMax/2+(scoreMax/2+with-without)/2)
	}
	return scores
}

// balances is balance for the resources that were named, with the pod and without.
func (b balancedAllocation) balances(p *podInfo, n *nodeInfo) (with, without int64) {
	var before, after []float64
	for i := range b.resources {
		used, asked, capacity := amounts(p, n, corev1.ResourceName(b.resources[i].Name))
		if capacity == 0 {
			continue
		}
		before = append(before, min(1, float64(used)/float64(capacity)))
		after = append(after, min(1, float64(used+asked)/float64(capacity)))
	}
	return evenness(after), evenness(before)
}

// evenness is scoreMax less the standard deviation of shares.
func evenness(shares []float64) int64 {
	var deviation float64
	switch len(shares) {
	case 0, 1:
	case 2:
		deviation = math.Abs((shares[0] - shares[1]) / 2)
	default:
		var sum, squares float64
		for _, s := range shares {
			sum += s
		}
		mean := sum / float64(len(shares))
		for _, s := range shares {
			squares += (s - mean) * (s - mean)
		}
		deviation = math.Sqrt(squares / float64(len(shares)))
	}
	return int64((1 - deviation) * scoreMax)
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
