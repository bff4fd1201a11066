package configuration

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

// Differences are what the profile does otherwise than the standard one, each a few
// words. None: it is the standard one under its own name.
func (p *Profile) Differences() (list []string) {
	usual := Standard(p.SchedulerName)
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if p.PercentageOfNodesToScore > 0 {
		say("scores %d %% of the nodes", p.PercentageOfNodesToScore)
	}
	for _, name := range usual.Filters {
		if !slices.Contains(p.Filters, name) {
			say("no filter %s", name)
		}
	}
	rest := slices.DeleteFunc(slices.Clone(usual.Filters), func(name string) bool { return !slices.Contains(p.Filters, name) })
	if !slices.Equal(rest, p.Filters) {
		say("filters in the order %s", strings.Join(p.Filters, ", "))
	}
	for _, it := range usual.Scores {
		i := slices.IndexFunc(p.Scores, func(s Score) bool { return s.Plugin == it.Plugin })
		switch {
		case i < 0:
			say("no score %s", it.Plugin)
		case p.Scores[i].Weight != it.Weight:
			say("score %s × %d instead of %d", it.Plugin, p.Scores[i].Weight, it.Weight)
		}
	}
	if !p.Preempts {
		say("evicts nobody")
	}
	return append(list, p.differentArgs(&usual)...)
}

func (p *Profile) differentArgs(usual *Profile) (list []string) {
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if s := p.NodeResourcesFit.ScoringStrategy; s != nil {
		say("%s of %s", s.Type, resourceList(s.Resources))
	}
	if ignored := slices.Clone(p.NodeResourcesFit.IgnoredResources); len(ignored)+len(p.NodeResourcesFit.IgnoredResourceGroups) > 0 {
		for _, group := range p.NodeResourcesFit.IgnoredResourceGroups {
			ignored = append(ignored, group+"/*")
		}
		say("ignores %s", strings.Join(ignored, ", "))
	}
	if !reflect.DeepEqual(p.BalancedAllocation, usual.BalancedAllocation) {
		say("balances %s", resourceList(p.BalancedAllocation.Resources))
	}
	if added := p.NodeAffinity.AddedAffinity; added != nil {
		if it := added.RequiredDuringSchedulingIgnoredDuringExecution; it != nil {
			say("only nodes of an added affinity")
		}
		if len(added.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
			say("prefers nodes of an added affinity")
		}
	}
	if p.PodTopologySpread.DefaultingType == schedulerv1.ListDefaulting {
		var keys []string
		for _, c := range p.PodTopologySpread.DefaultConstraints {
			keys = append(keys, fmt.Sprintf("%s by at most %d (%s)", c.TopologyKey, c.MaxSkew, c.WhenUnsatisfiable))
		}
		if len(keys) == 0 {
			say("spreads nothing by default")
		} else {
			say("spreads by default over %s", strings.Join(keys, ", "))
		}
	}
	if w := *p.InterPodAffinity.HardPodAffinityWeight; w != *usual.InterPodAffinity.HardPodAffinityWeight {
		say("hardPodAffinityWeight %d", w)
	}
	if p.InterPodAffinity.IgnorePreferredTermsOfExistingPods {
		say("ignores what other pods prefer")
	}
	if s := *p.VolumeBinding.BindTimeoutSeconds; s != bindSeconds {
		say("waits %d s for volumes", s)
	}
	if !reflect.DeepEqual(p.VolumeBinding.Shape, usual.VolumeBinding.Shape) {
		say("scores volumes by a shape of its own")
	}
	if it := p.DefaultPreemption; it != nil {
		say("tries %d %% of the nodes, at least %d, before it evicts", *it.MinCandidateNodesPercentage, *it.MinCandidateNodesAbsolute)
	}
	return list
}

func resourceList(resources []schedulerv1.ResourceSpec) string {
	var list []string
	for _, r := range resources {
		if r.Weight == 1 {
			list = append(list, r.Name)
		} else {
			list = append(list, fmt.Sprintf("%s × %d", r.Name, r.Weight))
		}
	}
	return strings.Join(list, ", ")
}
