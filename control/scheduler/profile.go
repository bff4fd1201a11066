package scheduler

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"

	"github.com/musterhq/muster/control/scheduler/configuration"
)

// Profiles are how pods are decided about, by their spec.schedulerName; pods of
// others are left alone. They are shared and never changed.
type Profiles struct {
	of map[string]*profile
	// hardDefaults says that a profile refuses nodes for the sake of spreading that
	// pods do not ask for themselves.
	hardDefaults bool
}

// profile is a configuration, ready to be carried out. Its filters and scores are
// its own, with their arguments.
type profile struct {
	from configuration.Profile
	// key tells classes of pods apart; "" for what decides as the standard profile.
	key     string
	filters []filter
	scorers []weighted
	fit     resourcesFit
	// spread is how pods without constraints are spread.
	spread      *spreadDefaults
	bindTimeout time.Duration // for volumes
}

// weighted is a score and what it counts.
type weighted struct {
	scorer
	weight int64
}

// standard are the profiles of a cluster without configuration.
var standard = NewProfiles([]configuration.Profile{configuration.Standard(corev1.DefaultSchedulerName)}, nil)

// NewProfiles makes what configurations say. Those that are what they were are taken
// from before, which may be nil.
func NewProfiles(from []configuration.Profile, before *Profiles) *Profiles {
	ps := &Profiles{of: make(map[string]*profile)}
	for i := range from {
		name := from[i].SchedulerName
		p := newProfile(from[i])
		if before != nil && before.of[name] != nil && before.of[name].key == p.key {
			p = before.of[name]
		}
		ps.of[name] = p
		ps.hardDefaults = ps.hardDefaults || p.spread.hard
	}
	return ps
}

// or is the profile of the pod; what is asked about another scheduler's pod is
// answered as if it were of the default one.
func (ps *Profiles) or(pod *corev1.Pod) *profile {
	if p := ps.of[pod.Spec.SchedulerName]; p != nil {
		return p
	}
	return ps.of[corev1.DefaultSchedulerName]
}

func newProfile(from configuration.Profile) *profile {
	p := &profile{from: from, fit: newResourcesFit(&from.NodeResourcesFit), spread: newSpreadDefaults(&from.PodTopologySpread)}
	anonymous, usual := from, configuration.Standard("")
	anonymous.SchedulerName = ""
	if key := anonymous.Key(); key != usual.Key() {
		p.key = key
	}
	p.bindTimeout = time.Duration(*from.VolumeBinding.BindTimeoutSeconds) * time.Second
	affinity, binding := newNodeAffinity(from.NodeAffinity.AddedAffinity), newVolumeBinding(&from.VolumeBinding)
	filters := []filter{
		nodeName{}, nodeUnschedulable{}, taintToleration{}, affinity, nodePorts{}, p.fit, volumeRestrictions{}, volumeLimits{}, binding,
		volumeZone{}, topologySpread{}, podAffinity{}, dynamicResources{}, declaredFeatures{},
	}
	for _, name := range from.Filters {
		for _, f := range filters {
			if f.name() == name {
				p.filters = append(p.filters, f)
			}
		}
	}
	scorers := []scorer{
		taintToleration{}, affinity, newAllocation(from.NodeResourcesFit.ScoringStrategy), binding, topologySpread{}, newPodAffinity(&from.InterPodAffinity),
		newBalancedAllocation(from.BalancedAllocation.Resources), imageLocality{},
	}
	for _, it := range from.Scores {
		for _, s := range scorers {
			if s.name() == it.Plugin {
				p.scorers = append(p.scorers, weighted{s, it.Weight})
			}
		}
	}
	return p
}

// sample is how many nodes that fit are scored: what the profile says, and never
// fewer than without.
func (p *profile) sample(c *cluster) int {
	return max(c.sample, len(c.order)*int(p.from.PercentageOfNodesToScore)/100)
}

// candidates is how many nodes are to be found where evictions would help before
// one is chosen.
func (p *profile) candidates(c *cluster) int {
	args := p.from.DefaultPreemption
	if args == nil {
		return c.sample
	}
	return max(len(c.order)*int(*args.MinCandidateNodesPercentage)/100, int(*args.MinCandidateNodesAbsolute), 1)
}

// newNodeAffinity reads what is asked of nodes beside what pods ask. What does not
// parse was refused when the configuration was read.
func newNodeAffinity(added *corev1.NodeAffinity) nodeAffinity {
	var a nodeAffinity
	if added == nil {
		return a
	}
	if it := added.RequiredDuringSchedulingIgnoredDuringExecution; it != nil {
		a.required, _ = nodeaffinity.NewNodeSelector(it)
	}
	if it := added.PreferredDuringSchedulingIgnoredDuringExecution; len(it) > 0 {
		a.preferred, _ = nodeaffinity.NewPreferredSchedulingTerms(it)
	}
	return a
}

// spreadDefaults are the constraints of pods that have none.
type spreadDefaults struct {
	system      bool // upstream's own: soft, by host and zone
	constraints []corev1.TopologySpreadConstraint
	hard        bool // some of them refuse nodes
}

func newSpreadDefaults(args *schedulerv1.PodTopologySpreadArgs) *spreadDefaults {
	d := &spreadDefaults{system: args.DefaultingType == schedulerv1.SystemDefaulting, constraints: args.DefaultConstraints}
	for i := range d.constraints {
		d.hard = d.hard || d.constraints[i].WhenUnsatisfiable == corev1.DoNotSchedule
	}
	return d
}
