package scheduler

// dynamicResources refuses every node to a pod that claims devices: nobody
// allocates any, and the pod must not run without.
type dynamicResources struct{}

func (dynamicResources) name() string            { return "DynamicResources" }
func (dynamicResources) applies(p *podInfo) bool { return len(p.pod.Spec.ResourceClaims) > 0 }

func (dynamicResources) refuse(_ *podInfo, _ *nodeInfo, reasons []string) []string {
	return append(reasons, "cannot allocate all claims")
}
