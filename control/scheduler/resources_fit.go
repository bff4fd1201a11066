package scheduler

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

// resourcesFit refuses nodes whose allocatable resources, less what the pods
// there request, do not hold the pod's requests. A profile may ignore extended
// resources.
type resourcesFit struct {
	ignored map[string]bool
	groups  map[string]bool // what is before the slash
}

func newResourcesFit(args *schedulerv1.NodeResourcesFitArgs) resourcesFit {
	var f resourcesFit
	set := func(names []string) map[string]bool {
		m := make(map[string]bool, len(names))
		for _, name := range names {
			m[name] = true
		}
		return m
	}
	if len(args.IgnoredResources)+len(args.IgnoredResourceGroups) > 0 {
		f.ignored, f.groups = set(args.IgnoredResources), set(args.IgnoredResourceGroups)
	}
	return f
}

// ignores is about extended resources alone, whatever the profile names: not about
// hugepages-2Mi, nor what is in kubernetes.io.
func (f resourcesFit) ignores(name corev1.ResourceName) bool {
	if f.ignored == nil {
		return false
	}
	group, _, prefixed := strings.Cut(string(name), "/")
	if !prefixed || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix) {
		return false
	}
	return f.ignored[string(name)] || f.groups[group]
}

func (resourcesFit) name() string          { return "NodeResourcesFit" }
func (resourcesFit) applies(*podInfo) bool { return true }

// refuse names everything that is short, so that a user need not find out one
// by one. What a pod does not request is never short, also on a node that is
// overcommitted.
func (f resourcesFit) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
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
		if amount > 0 && amount > have.extended[name]-used.extended[name] && !f.ignores(name) {
			reasons = append(reasons, "Insufficient "+string(name))
		}
	}
	return reasons
}
