package scheduling

import (
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/scheduler/configuration"
)

// file is what a configuration file says that both schedulers read.
type file struct {
	APIVersion string                             `json:"apiVersion"`
	Kind       string                             `json:"kind"`
	Profiles   []schedulerv1.KubeSchedulerProfile `json:"profiles"`
}

func (f file) text() []byte {
	f.APIVersion, f.Kind = configuration.APIVersion, configuration.Kind
	raw, err := json.Marshal(f)
	if err != nil {
		panic(err) // made of what can be written
	}
	return raw
}

// schedulers are the names that pods ask for.
var schedulers = []string{corev1.DefaultSchedulerName, "packer"}

// profiles makes a random file, of one profile or two.
func (m *maker) profiles() file {
	var f file
	for _, name := range schedulers[m.IntN(2):] {
		f.Profiles = append(f.Profiles, schedulerv1.KubeSchedulerProfile{
			SchedulerName: ptr.To(name), Plugins: m.plugins(), PluginConfig: m.pluginConfig()})
	}
	return f
}

// Plugins of the default profile: those that every profile has to have, those that
// it may do without, and those with scores that it may weigh.
var (
	kept    = []string{"SchedulingGates", "PrioritySort", "VolumeBinding", "DynamicResources", "DefaultPreemption", "DefaultBinder"}
	spared  = slices.Concat(filters, scorers[6:])
	filters = []string{"NodeName", "NodeUnschedulable", "NodePorts", "VolumeRestrictions", "NodeVolumeLimits", "VolumeZone", "TaintToleration", "NodeAffinity", "NodeResourcesFit", "PodTopologySpread", "InterPodAffinity", "NodeDeclaredFeatures"}
	scorers = []string{"TaintToleration", "NodeAffinity", "NodeResourcesFit", "PodTopologySpread", "InterPodAffinity", "VolumeBinding", "NodeResourcesBalancedAllocation", "ImageLocality"}
)

func (m *maker) some(of []string) (names []string) {
	for _, name := range of {
		if m.sometimes() {
			names = append(names, name)
		}
	}
	m.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names
}

func (m *maker) weigh(names []string) (list []schedulerv1.Plugin) {
	for _, name := range names {
		p := schedulerv1.Plugin{Name: name}
		if slices.Contains(scorers, name) && m.often() {
			p.Weight = ptr.To(int32(m.IntN(10)))
		}
		list = append(list, p)
	}
	return list
}

func named(names []string) (list []schedulerv1.Plugin) {
	for _, name := range names {
		list = append(list, schedulerv1.Plugin{Name: name})
	}
	return list
}

// prepared are those of the scores that look at all nodes first.
func prepared(scores []schedulerv1.Plugin) (list []schedulerv1.Plugin) {
	for _, p := range scores {
		if p.Name != "ImageLocality" {
			list = append(list, schedulerv1.Plugin{Name: p.Name})
		}
	}
	return list
}

// plugins are switched on and off at all points, at that of filters and at that of
// scores.
func (m *maker) plugins() *schedulerv1.Plugins {
	var p schedulerv1.Plugins
	switch m.IntN(4) {
	case 0:
		p.MultiPoint.Enabled, p.MultiPoint.Disabled = m.weigh(m.some(scorers)), named(m.some(spared))
	case 1:
		all := slices.Concat(kept, slices.DeleteFunc(slices.Clone(spared), func(string) bool { return m.sometimes() }))
		m.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		p.MultiPoint.Enabled, p.MultiPoint.Disabled = m.weigh(all), named([]string{"*"})
	}
	switch m.IntN(4) {
	case 0:
		p.Score.Enabled, p.Score.Disabled = m.weigh(m.some(scorers)), named(m.some(scorers))
		p.PreScore.Enabled = prepared(p.Score.Enabled)
	case 1:
		p.Score.Enabled, p.Score.Disabled = m.weigh(m.some(scorers)), named([]string{"*"})
		p.PreScore.Enabled = prepared(p.Score.Enabled)
	}
	switch m.IntN(4) {
	case 0:
		off := named(m.some(filters))
		p.Filter.Disabled, p.PreFilter.Disabled = off, off
	case 1:
		on := named(m.some(filters)) // they come first
		p.Filter.Enabled, p.PreFilter.Enabled = on, on
	}
	return &p
}

func (m *maker) pluginConfig() (list []schedulerv1.PluginConfig) {
	add := func(name string, args any) {
		raw, err := json.Marshal(args)
		if err != nil {
			panic(err)
		}
		if !m.sometimes() {
			list = append(list, schedulerv1.PluginConfig{Name: name, Args: runtime.RawExtension{Raw: raw}})
		}
	}
	add("NodeResourcesFit", m.fitArgs())
	add("NodeResourcesBalancedAllocation", schedulerv1.NodeResourcesBalancedAllocationArgs{Resources: m.resources(1)})
	add("PodTopologySpread", m.spreadArgs())
	add("InterPodAffinity", schedulerv1.InterPodAffinityArgs{HardPodAffinityWeight: ptr.To(int32(m.IntN(101))), IgnorePreferredTermsOfExistingPods: m.often()})
	add("NodeAffinity", m.addedAffinity())
	add("VolumeBinding", schedulerv1.VolumeBindingArgs{Shape: m.shape()})
	return list
}

// resources are some of those that nodes have, and one that they have not.
func (m *maker) resources(weightMost int64) (list []schedulerv1.ResourceSpec) {
	for _, name := range []string{"cpu", "memory", "ephemeral-storage", "example.com/gpu", "example.org/fpga", "example.org/none", "hugepages-2Mi", "pods"} {
		if m.often() {
			list = append(list, schedulerv1.ResourceSpec{Name: name, Weight: m.Int64N(weightMost + 1)})
		}
	}
	m.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

func (m *maker) fitArgs() (args schedulerv1.NodeResourcesFitArgs) {
	if m.often() {
		args.IgnoredResources = m.some([]string{"example.com/gpu", "example.org/fpga", "example.org/none"})
		args.IgnoredResourceGroups = m.some([]string{"example.com", "example.org", "hugepages-2Mi"})
	}
	if m.sometimes() {
		return args
	}
	s := &schedulerv1.ScoringStrategy{Resources: m.resources(100)}
	if m.sometimes() {
		s.Resources = append(s.Resources, m.resources(10)...) // some twice
	}
	args.ScoringStrategy = s
	switch m.IntN(4) {
	case 0:
		s.Type = schedulerv1.LeastAllocated
	case 1:
		s.Type = schedulerv1.MostAllocated
	default:
		s.Type = schedulerv1.RequestedToCapacityRatio
		s.RequestedToCapacityRatio = &schedulerv1.RequestedToCapacityRatioParam{Shape: m.shape()}
	}
	return args
}

func (m *maker) shape() (shape []schedulerv1.UtilizationShapePoint) {
	for at := m.IntN(30); at <= 100; at += 1 + m.IntN(60) {
		shape = append(shape, schedulerv1.UtilizationShapePoint{Utilization: int32(at), Score: int32(m.IntN(11))})
	}
	return shape
}

func (m *maker) spreadArgs() (args schedulerv1.PodTopologySpreadArgs) {
	if m.sometimes() {
		args.DefaultingType = schedulerv1.PodTopologySpreadConstraintsDefaulting(m.one("", string(schedulerv1.SystemDefaulting)))
		return args
	}
	args.DefaultingType = schedulerv1.ListDefaulting
	for range m.IntN(4) {
		c := m.constraint()
		c.LabelSelector, c.MatchLabelKeys = nil, nil
		if !slices.ContainsFunc(args.DefaultConstraints, func(o corev1.TopologySpreadConstraint) bool {
			return o.TopologyKey == c.TopologyKey && o.WhenUnsatisfiable == c.WhenUnsatisfiable
		}) {
			args.DefaultConstraints = append(args.DefaultConstraints, c)
		}
	}
	return args
}

func (m *maker) addedAffinity() (args schedulerv1.NodeAffinityArgs) {
	a := &corev1.NodeAffinity{}
	args.AddedAffinity = a
	if m.sometimes() {
		a.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{m.nodeTerm(), m.nodeTerm()}}
	}
	for m.often() {
		a.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PreferredDuringSchedulingIgnoredDuringExecution,
			corev1.PreferredSchedulingTerm{Weight: int32(1 + m.IntN(100)), Preference: m.nodeTerm()})
	}
	return args
}
