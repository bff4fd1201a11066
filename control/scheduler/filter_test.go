package scheduler

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func TestFilters(t *testing.T) {
	const (
		noFit      = "node(s) didn't match Pod's node affinity/selector"
		noPort     = "node(s) didn't have free ports for the requested pod ports"
		noTaint    = "node(s) had untolerated taint(s)"
		noSchedule = "node(s) were unschedulable"
	)
	requiring := func(terms ...corev1.NodeSelectorTerm) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms}}}
		}
	}
	term := func(key string, op corev1.NodeSelectorOperator, values ...string) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: op, Values: values}}}
	}
	cordon := func(n *corev1.Node) { n.Spec.Unschedulable = true }
	withInit := func(always bool, pairs ...string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			c := corev1.Container{Name: "init", Resources: corev1.ResourceRequirements{Requests: list(pairs...)}}
			if always {
				c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
			}
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		}
	}
	overhead := func(pairs ...string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Overhead = list(pairs...) }
	}

	for _, c := range []struct {
		what string
		pod  *corev1.Pod
		node *corev1.Node
		with []*corev1.Pod // already on the node
		want []string      // nil: fits
	}{
		{what: "an empty node takes a plain pod", pod: makePod("p"), node: makeNode("n")},

		{what: "cordoned", pod: makePod("p"), node: makeNode("n", cordon), want: []string{noSchedule}},
		{what: "cordoned, tolerated", pod: makePod("p", tolerating(corev1.TaintNodeUnschedulable, "NoSchedule")), node: makeNode("n", cordon)},

		{what: "claims a device", pod: makePod("p", func(p *corev1.Pod) {
			p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: ptr.To("c")}}
		}), node: makeNode("n"), want: []string{"cannot allocate all claims"}},

		{what: "asks for what the agent does not declare", pod: makePod("p", restartingAll), node: makeNode("n"), want: []string{"node(s) didn't match Pod's required features"}},
		{what: "asks for what the agent declares", pod: makePod("p", restartingAll), node: makeNode("n", declaring("RestartAllContainersOnContainerExits"))},

		{what: "not the named node", pod: makePod("p", on("other")), node: makeNode("n"), want: []string{"node(s) didn't match the requested node name"}},
		{what: "the named node", pod: makePod("p", on("n")), node: makeNode("n")},

		{what: "NoSchedule", pod: makePod("p"), node: makeNode("n", tainted("k", "NoSchedule")), want: []string{noTaint}},
		{what: "NoExecute", pod: makePod("p"), node: makeNode("n", tainted("k", "NoExecute")), want: []string{noTaint}},
		{what: "PreferNoSchedule does not refuse", pod: makePod("p"), node: makeNode("n", tainted("k", "PreferNoSchedule"))},
		{what: "tolerated", pod: makePod("p", tolerating("k", "NoSchedule")), node: makeNode("n", tainted("k", "NoSchedule"))},
		{what: "tolerated for another effect", pod: makePod("p", tolerating("k", "NoExecute")), node: makeNode("n", tainted("k", "NoSchedule")), want: []string{noTaint}},
		{what: "one of two tolerated", pod: makePod("p", tolerating("k", "")), node: makeNode("n", tainted("k", "NoSchedule"), tainted("l", "NoExecute")), want: []string{noTaint}},
		{what: "not ready, taint not written yet", pod: makePod("p"), node: makeNode("n", unready), want: []string{noTaint}},
		{what: "never reported", pod: makePod("p"), node: makeNode("n", func(n *corev1.Node) { n.Status.Conditions = nil }), want: []string{noTaint}},
		{what: "not ready, tolerated", pod: makePod("p", tolerating(corev1.TaintNodeNotReady, "")), node: makeNode("n", unready)},
		{what: "unreachable, tolerated as unreachable only", pod: makePod("p", tolerating(corev1.TaintNodeUnreachable, "")),
			node: makeNode("n", unready, tainted(corev1.TaintNodeUnreachable, "NoSchedule"))},

		{what: "nodeSelector", pod: makePod("p", selecting("disk", "ssd")), node: makeNode("n", labelled("disk", "ssd"))},
		{what: "nodeSelector, other value", pod: makePod("p", selecting("disk", "ssd")), node: makeNode("n", labelled("disk", "hdd")), want: []string{noFit}},
		{what: "affinity In", pod: makePod("p", requiring(term("zone", "In", "a", "b"))), node: makeNode("n", labelled("zone", "b"))},
		{what: "affinity NotIn", pod: makePod("p", requiring(term("zone", "NotIn", "b"))), node: makeNode("n", labelled("zone", "b")), want: []string{noFit}},
		{what: "affinity: any of the terms is enough", pod: makePod("p", requiring(term("zone", "In", "x"), term("zone", "Exists"))), node: makeNode("n", labelled("zone", "b"))},
		{what: "affinity Gt", pod: makePod("p", requiring(term("cores", "Gt", "7"))), node: makeNode("n", labelled("cores", "8"))},
		{what: "affinity by name", pod: makePod("p", requiring(corev1.NodeSelectorTerm{
			MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: "In", Values: []string{"m"}}}})), node: makeNode("n"), want: []string{noFit}},
		{what: "affinity that does not parse", pod: makePod("p", requiring(term("zone", "Wrong"))), node: makeNode("n"), want: []string{noFit}},

		{what: "port taken", pod: makePod("p", usingPort("", "TCP", 80)), node: makeNode("n"), with: []*corev1.Pod{makePod("q", usingPort("", "TCP", 80))}, want: []string{noPort}},
		{what: "port taken for the other protocol", pod: makePod("p", usingPort("", "UDP", 80)), node: makeNode("n"), with: []*corev1.Pod{makePod("q", usingPort("", "TCP", 80))}},
		{what: "port on another address", pod: makePod("p", usingPort("10.0.0.1", "TCP", 80)), node: makeNode("n"), with: []*corev1.Pod{makePod("q", usingPort("10.0.0.2", "TCP", 80))}},
		{what: "any address clashes with one", pod: makePod("p", usingPort("0.0.0.0", "TCP", 80)), node: makeNode("n"), with: []*corev1.Pod{makePod("q", usingPort("10.0.0.2", "TCP", 80))}, want: []string{noPort}},
		{what: "one address clashes with any", pod: makePod("p", usingPort("10.0.0.2", "TCP", 80)), node: makeNode("n"), with: []*corev1.Pod{makePod("q", usingPort("", "TCP", 80))}, want: []string{noPort}},

		{what: "all of the cpu", pod: makePod("p", requesting("cpu", "4")), node: makeNode("n")},
		{what: "more than all of the cpu", pod: makePod("p", requesting("cpu", "4001m")), node: makeNode("n"), want: []string{"Insufficient cpu"}},
		{what: "cpu beside others", pod: makePod("p", requesting("cpu", "2")), node: makeNode("n"), with: []*corev1.Pod{makePod("q", requesting("cpu", "2001m"))}, want: []string{"Insufficient cpu"}},
		{what: "everything short is named", pod: makePod("p", requesting("cpu", "5", "memory", "9Gi", "ephemeral-storage", "21Gi", "example.com/gpu", "1")), node: makeNode("n"),
			want: []string{"Insufficient cpu", "Insufficient memory", "Insufficient ephemeral-storage", "Insufficient example.com/gpu"}},
		{what: "extended resource", pod: makePod("p", requesting("example.com/gpu", "1")), node: makeNode("n", allocatable("pods", "9", "example.com/gpu", "2")),
			with: []*corev1.Pod{makePod("q", requesting("example.com/gpu", "1"))}},
		{what: "extended resource used up", pod: makePod("p", requesting("example.com/gpu", "2")), node: makeNode("n", allocatable("pods", "9", "example.com/gpu", "2")),
			with: []*corev1.Pod{makePod("q", requesting("example.com/gpu", "1"))}, want: []string{"Insufficient example.com/gpu"}},
		{what: "a pod that asks for nothing fits on an overcommitted node", pod: makePod("p"), node: makeNode("n"), with: []*corev1.Pod{makePod("q", requesting("cpu", "40"))}},
		{what: "too many pods", pod: makePod("p"), node: makeNode("n", allocatable("pods", "1")), with: []*corev1.Pod{makePod("q")}, want: []string{"Too many pods"}},
		{what: "a node that allows nothing", pod: makePod("p"), node: makeNode("n", allocatable()), want: []string{"Too many pods"}},
		{what: "init container larger than the rest", pod: makePod("p", requesting("cpu", "1"), withInit(false, "cpu", "5")), node: makeNode("n"), want: []string{"Insufficient cpu"}},
		{what: "init containers run one after the other", pod: makePod("p", requesting("cpu", "1"), withInit(false, "cpu", "3"), withInit(false, "cpu", "3")), node: makeNode("n")},
		{what: "sidecars add up", pod: makePod("p", requesting("cpu", "2"), withInit(true, "cpu", "3")), node: makeNode("n"), want: []string{"Insufficient cpu"}},
		{what: "overhead adds up", pod: makePod("p", requesting("cpu", "4"), overhead("cpu", "1m")), node: makeNode("n"), want: []string{"Insufficient cpu"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			cl := newCluster(100)
			cl.setNode(c.node)
			for _, p := range c.with {
				p.Spec.NodeName = c.node.Name
				cl.bound(p)
			}
			p := newPodInfo(c.pod, usual)
			got, _ := refusal(cl.applicable(p, nil), p, cl.nodes[c.node.Name], nil)
			if len(c.want) == 4 { // names come in map order after the standard three
				slices.Sort(got[3:])
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestDiagnosisReadsAsUsersKnowIt(t *testing.T) {
	c := newCluster(100)
	p := newPodInfo(makePod("p", requesting("cpu", "2")), usual)
	if _, d := c.place(p); d == nil || d.Error() != "no nodes available to schedule pods" {
		t.Errorf("without nodes: got %v", d)
	}
	c.setNode(makeNode("a", allocatable("cpu", "1", "pods", "10")))
	c.setNode(makeNode("b", tainted("k", "NoSchedule")))
	c.setNode(makeNode("c", allocatable("cpu", "1", "pods", "0")))
	_, d := c.place(p)
	want := "0/3 nodes are available: 1 Too many pods, 1 node(s) had untolerated taint(s), 2 Insufficient cpu."
	if d == nil || d.Error() != want {
		t.Errorf("got  %v\nwant %s", d, want)
	}
}

func restartingAll(p *corev1.Pod) {
	p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestartAllContainers}}
}

func declaring(features ...string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Status.DeclaredFeatures = features }
}

// An agent that learns something lets in who waits for it, and nobody is evicted
// where it would not help.
func TestDeclaredFeaturesWake(t *testing.T) {
	c := newCore(100)
	c.setNode(makeNode("n"))
	c.setPod(makePod("low", on("n")))
	c.setPod(makePod("p", restartingAll, priority(10)))
	d, _ := c.next()
	if want := "0/1 nodes are available: 1 node(s) didn't match Pod's required features. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."; d.message() != want {
		t.Errorf("got %q, want %q", d.message(), want)
	}
	c.setPod(makePod("plain"))
	if d, ok := c.next(); !ok || d.node != "n" {
		t.Errorf("got %+v, want a pod that asks for nothing on n", d)
	}
	c.setNode(makeNode("n", declaring("RestartAllContainersOnContainerExits")))
	if d, ok := c.next(); !ok || d.node != "n" {
		t.Errorf("got %+v, want the pod on n", d)
	}
}
