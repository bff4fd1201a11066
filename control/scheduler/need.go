package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	labelselection "k8s.io/apimachinery/pkg/selection"
)

// How hard it is to give a pod what it lacks, roughly: what users would try first
// comes first.
const (
	effortLittle = 1  // a label, a toleration, an uncordon
	effortMuch   = 3  // pods elsewhere would have to be others
	effortNever  = 50 // the node is too small
)

// needsOf says what would have to be otherwise for the node to take the pod, as
// pieces of a sentence, and how hard that is.
func needsOf(p *podInfo, n *nodeInfo, refusals []Refusal) (needs []string, effort float64) {
	add := func(cost float64, format string, args ...any) {
		needs, effort = append(needs, fmt.Sprintf(format, args...)), effort+cost
	}
	for _, r := range refusals {
		switch r.Filter {
		case resourcesFit{}.name():
			needResources(p, n, add)
		case taintToleration{}.name():
			for i := range n.hardTaints {
				t := &n.hardTaints[i]
				switch {
				case tolerates(p.pod.Spec.Tolerations, t):
				case t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable:
					add(effortMuch, "the node ready")
				default:
					add(effortLittle, "a toleration for %s", t.ToString())
				}
			}
		case nodeUnschedulable{}.name():
			add(effortLittle, "the node uncordoned")
		case nodeAffinity{}.name():
			needLabels(p.pod, n.node, add)
		case nodePorts{}.name():
			needPorts(p, n, add)
		case declaredFeatures{}.name():
			for _, feature := range p.features {
				if !slices.Contains(n.node.Status.DeclaredFeatures, feature) {
					add(effortNever, "an agent that declares %s", feature)
				}
			}
		default:
			add(effortMuch, "that it is not so that %s", strings.Join(r.Reasons, ", "))
		}
	}
	slices.Sort(needs)
	return slices.Compact(needs), effort
}

type needAdder func(cost float64, format string, args ...any)

func needResources(p *podInfo, n *nodeInfo, add needAdder) {
	if int64(len(n.pods))+1 > n.allocatable.pods {
		add(effortMuch, "room for one more pod (it takes %d)", n.allocatable.pods)
	}
	short := func(name corev1.ResourceName, want, have, used int64, format func(int64) string) {
		switch {
		case want <= 0 || want <= have-used:
		case want > have:
			add(effortNever, "a node with %s %s (it has %s in all)", format(want), name, format(have))
		default:
			missing := want - (have - used)
			add(float64(missing)/float64(want), "%s more %s free (of %s)", format(missing), name, format(have))
		}
	}
	bytes := func(v int64) string { return resource.NewQuantity(v, resource.BinarySI).String() }
	want, have, used := &p.requests, &n.allocatable, &n.requested
	short(corev1.ResourceCPU, want.milliCPU, have.milliCPU, used.milliCPU, func(v int64) string {
		return resource.NewMilliQuantity(v, resource.DecimalSI).String()
	})
	short(corev1.ResourceMemory, want.memory, have.memory, used.memory, bytes)
	short(corev1.ResourceEphemeralStorage, want.storage, have.storage, used.storage, bytes)
	for _, name := range slices.Sorted(maps.Keys(want.extended)) {
		if p.profile.fit.ignores(name) {
			continue
		}
		short(name, want.extended[name], have.extended[name], used.extended[name], func(v int64) string { return fmt.Sprint(v) })
	}
}

// needLabels names the labels that the node's would have to be. Of alternative
// terms it takes the one that lacks least.
func needLabels(pod *corev1.Pod, node *corev1.Node, add needAdder) {
	for _, key := range slices.Sorted(maps.Keys(pod.Spec.NodeSelector)) {
		want := pod.Spec.NodeSelector[key]
		if has, ok := node.Labels[key]; !ok {
			add(effortLittle, "label %s=%s on the node", key, want)
		} else if has != want {
			add(effortLittle, "label %s=%s on the node (it is %s)", key, want, has)
		}
	}
	a := nodeAffinityOf(pod)
	if a == nil || a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return
	}
	var least []string
	for i, term := range a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		unmet := unmet(&term, node)
		if len(unmet) == 0 && len(term.MatchExpressions)+len(term.MatchFields) > 0 {
			return
		}
		if i == 0 || len(unmet) < len(least) {
			least = unmet
		}
	}
	for _, text := range least {
		add(effortLittle, "%s", text)
	}
}

func unmet(term *corev1.NodeSelectorTerm, node *corev1.Node) (list []string) {
	check := func(of string, set labels.Set, expressions []corev1.NodeSelectorRequirement) {
		for _, it := range expressions {
			r, err := labels.NewRequirement(it.Key, operators[it.Operator], it.Values)
			if err != nil || !r.Matches(set) {
				text := fmt.Sprintf("%s %s %s", it.Key, it.Operator, strings.Join(it.Values, ", "))
				list = append(list, of+" "+strings.TrimSpace(text)+" on the node")
			}
		}
	}
	check("label", node.Labels, term.MatchExpressions)
	check("field", labels.Set{"metadata.name": node.Name}, term.MatchFields)
	return list
}

var operators = map[corev1.NodeSelectorOperator]labelselection.Operator{
	corev1.NodeSelectorOpIn: labelselection.In, corev1.NodeSelectorOpNotIn: labelselection.NotIn,
	corev1.NodeSelectorOpExists: labelselection.Exists, corev1.NodeSelectorOpDoesNotExist: labelselection.DoesNotExist,
	corev1.NodeSelectorOpGt: labelselection.GreaterThan, corev1.NodeSelectorOpLt: labelselection.LessThan,
}

func needPorts(p *podInfo, n *nodeInfo, add needAdder) {
	for _, want := range p.ports {
		for _, other := range n.pods {
			for _, taken := range other.ports {
				if want.protocol == taken.protocol && want.port == taken.port &&
					(want.ip == taken.ip || want.ip == anyAddress || taken.ip == anyAddress) {
					add(effortMuch, "host port %d/%s free (%s has it)", want.port, want.protocol, key(other.pod))
				}
			}
		}
	}
}
