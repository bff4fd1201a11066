package scheduler

// nodeName refuses every node but the one that the pod names. Pods in the queue
// name none; a pod in a question ("where would this go?") may.
type nodeName struct{}

func (nodeName) name() string            { return "NodeName" }
func (nodeName) applies(p *podInfo) bool { return p.pod.Spec.NodeName != "" }

func (nodeName) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	if p.pod.Spec.NodeName != n.name {
		return append(reasons, "node(s) didn't match the requested node name")
	}
	return reasons
}
