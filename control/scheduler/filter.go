package scheduler

import (
	"fmt"
	"sort"
	"strings"
)

// A filter says whether a node can take a pod. It knows no clock and changes
// nothing; one file holds one of them.
type filter interface {
	name() string
	// applies is false when the filter refuses no node to this pod.
	applies(*podInfo) bool
	// refuse appends why the node cannot take the pod, in upstream's words, and
	// appends nothing when it can.
	refuse(p *podInfo, n *nodeInfo, reasons []string) []string
}

// applicable are the filters that could refuse this pod, which is prepared for them.
func (c *cluster) applicable(p *podInfo, buf []filter) []filter {
	c.index.prepare(p)
	for _, f := range p.profile.filters {
		if f.applies(p) {
			buf = append(buf, f)
		}
	}
	return buf
}

// refusal asks the filters in order, which is the profile's, and part of what a user
// reads: it returns the reasons of the first that refuses, appended to reasons, with its name.
func refusal(fs []filter, p *podInfo, n *nodeInfo, reasons []string) ([]string, string) {
	for _, f := range fs {
		if reasons = f.refuse(p, n, reasons); len(reasons) > 0 {
			return reasons, f.name()
		}
	}
	return reasons, ""
}

// Diagnosis says why no node can take a pod.
type Diagnosis struct {
	Nodes   int            // how many nodes there are
	Reasons map[string]int // reason → how many nodes gave it
	// Message is why the pod can't go to any, whatever they are like; "" if it is they.
	Message string
}

// Error is the message that users of Kubernetes know:
// "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable."
func (d *Diagnosis) Error() string {
	if d.Nodes == 0 {
		return "no nodes available to schedule pods"
	}
	if d.Message != "" {
		return fmt.Sprintf("0/%d nodes are available: %s.", d.Nodes, d.Message)
	}
	counted := make([]string, 0, len(d.Reasons))
	for reason, n := range d.Reasons {
		counted = append(counted, fmt.Sprintf("%d %s", n, reason))
	}
	sort.Strings(counted)
	return fmt.Sprintf("0/%d nodes are available: %s.", d.Nodes, strings.Join(counted, ", "))
}
