package configuration

import (
	"encoding/json"

	"k8s.io/apimachinery/pkg/util/validation/field"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

// Profile is how pods of one spec.schedulerName are decided about. It has all its
// defaults and is never changed.
type Profile struct {
	SchedulerName string
	// PercentageOfNodesToScore is how many of all nodes are scored, if they fit; 0
	// leaves it to the scheduler.
	PercentageOfNodesToScore int32
	// Filters are asked in this order.
	Filters []string
	Scores  []Score
	// Preempts says that pods of lower priority may be evicted.
	Preempts bool

	// Args of plugins.

	NodeResourcesFit   schedulerv1.NodeResourcesFitArgs // without ScoringStrategy: the cluster's algorithm
	BalancedAllocation schedulerv1.NodeResourcesBalancedAllocationArgs
	NodeAffinity       schedulerv1.NodeAffinityArgs
	PodTopologySpread  schedulerv1.PodTopologySpreadArgs
	InterPodAffinity   schedulerv1.InterPodAffinityArgs
	VolumeBinding      schedulerv1.VolumeBindingArgs
	DefaultPreemption  *schedulerv1.DefaultPreemptionArgs // nil: the scheduler's own choice
}

// Score is a plugin that says which node is the better one.
type Score struct {
	Plugin string
	Weight int64
}

// Standard is kube-scheduler's default profile under that name.
func Standard(name string) Profile {
	p, _ := read(nil, &schedulerv1.KubeSchedulerProfile{SchedulerName: &name})
	return p
}

// Key is the same for profiles that say the same of pods of the same name.
func (p *Profile) Key() string {
	raw, _ := json.Marshal(p) // fails for no value
	return string(raw)
}

func read(at *field.Path, from *schedulerv1.KubeSchedulerProfile) (Profile, field.ErrorList) {
	p := Profile{SchedulerName: *from.SchedulerName}
	if from.PercentageOfNodesToScore != nil {
		p.PercentageOfNodesToScore = *from.PercentageOfNodesToScore
	}
	errs := p.readPlugins(at.Child("plugins"), from.Plugins)
	return p, append(errs, p.readArgs(at.Child("pluginConfig"), from.PluginConfig)...)
}
