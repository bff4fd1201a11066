package scheduler

// resourcesFit refuses nodes whose allocatable resources, less what the pods
// there request, do not hold the pod's requests.
type resourcesFit struct{}

func (resourcesFit) name() string          { return "NodeResourcesFit" }
func (resourcesFit) applies(*podInfo) bool { return true }

// refuse names everything that is short, so that a user need not find out one
// by one. What a pod does not request is never short, also on a node that is
// overcommitted.
func (resourcesFit) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	if int64(len(n.pods))+1 > n.allocatable.pods {
		reasons = append(reasons, "Too many pods")
	}
	want, have, used := &p.requests, &n.allocatable, &n.requested
	if want.milliCPU > 0 && want.milliCPU > have.milliCPU-used.milliCPU {
		reasons = append(reasons, "Insufficient cpu")
	}
	if want.memory > 0 && want.memory > have.memory-used.memory {
		reasons = append(reasons, "Insufficient memory")
	}
	if want.storage > 0 && want.storage > have.storage-used.storage {
		reasons = append(reasons, "Insufficient ephemeral-storage")
	}
	for name, amount := range want.extended {
		if amount > 0 && amount > have.extended[name]-used.extended[name] {
			reasons = append(reasons, "Insufficient "+string(name))
		}
	}
	return reasons
}
