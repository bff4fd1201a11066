// Package scheduling holds Muster's scheduler against kube-scheduler's own
// plugins: on the same clusters, for the same pods, the same nodes are refused for the
// same reasons and the rest get the same scores. It is a module of its own, so
// that kube-scheduler never gets into Muster's.
package scheduling

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/metrics"

	"github.com/musterhq/muster/control/scheduler"
)

// names are the plugins of the default profile that Muster has too, in the order of
// the profile.
var names = []string{
	"NodeUnschedulable", "NodeName", "TaintToleration", "NodeAffinity", "NodePorts", "NodeResourcesFit",
	"PodTopologySpread", "InterPodAffinity", "NodeResourcesBalancedAllocation", "ImageLocality",
}

// Upstream is kube-scheduler's default profile over one state of a cluster.
type Upstream struct {
	nodes   []fwk.NodeInfo
	plugins []fwk.Plugin
	weights map[string]int64
}

// NewUpstream makes the plugins as kube-scheduler does; strategy is how
// NodeResourcesFit scores. What it starts ends
// with ctx.
func NewUpstream(ctx context.Context, state scheduler.State, strategy config.ScoringStrategyType) (*Upstream, error) {
	metrics.Register() // plugins count in them
	defaults, err := latest.Default()
	if err != nil {
		return nil, err
	}
	profile := defaults.Profiles[0]
	args := map[string]runtime.Object{}
	for _, c := range profile.PluginConfig {
		if fit, ok := c.Args.(*config.NodeResourcesFitArgs); ok {
			fit.ScoringStrategy.Type = strategy
		}
		args[c.Name] = c.Args
	}
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	if err := fill(factory, state); err != nil {
		return nil, err
	}
	placed := slices.DeleteFunc(slices.Clone(state.Pods), func(p *corev1.Pod) bool { return p.Spec.NodeName == "" })
	snapshot := cache.NewSnapshot(placed, state.Nodes)
	registry := plugins.NewInTreeRegistry()
	handle, err := frameworkruntime.NewFramework(ctx, registry, nil,
		frameworkruntime.WithSnapshotSharedLister(snapshot), frameworkruntime.WithInformerFactory(factory))
	if err != nil {
		return nil, err
	}
	u := &Upstream{weights: map[string]int64{}}
	if u.nodes, err = snapshot.NodeInfos().List(); err != nil {
		return nil, err
	}
	for _, enabled := range profile.Plugins.MultiPoint.Enabled {
		if !slices.Contains(names, enabled.Name) {
			continue
		}
		plugin, err := registry[enabled.Name](ctx, args[enabled.Name], handle)
		if err != nil {
			return nil, fmt.Errorf("plugin %s: %w", enabled.Name, err)
		}
		u.plugins = append(u.plugins, plugin)
		u.weights[enabled.Name] = int64(enabled.Weight)
	}
	return u, nil
}

// fill gives the listers their objects; nothing is watched.
func fill(factory informers.SharedInformerFactory, state scheduler.State) error {
	var err error
	add := func(to interface{ Add(any) error }, obj any) {
		if e := to.Add(obj); e != nil {
			err = e
		}
	}
	core, apps := factory.Core().V1(), factory.Apps().V1()
	for _, o := range state.Namespaces {
		add(core.Namespaces().Informer().GetStore(), o)
	}
	for _, o := range state.Services {
		add(core.Services().Informer().GetStore(), o)
	}
	for _, o := range state.ReplicationControllers {
		add(core.ReplicationControllers().Informer().GetStore(), o)
	}
	for _, o := range state.ReplicaSets {
		add(apps.ReplicaSets().Informer().GetStore(), o)
	}
	for _, o := range state.StatefulSets {
		add(apps.StatefulSets().Informer().GetStore(), o)
	}
	return err
}

// Ask answers as Muster's Snapshot does.
func (u *Upstream) Ask(ctx context.Context, pod *corev1.Pod) (map[string]scheduler.NodeAnswer, error) {
	answers := map[string]scheduler.NodeAnswer{}
	for _, n := range u.nodes {
		answers[n.Node().Name] = scheduler.NodeAnswer{Node: n.Node().Name}
	}
	state := framework.NewCycleState()
	for _, plugin := range u.plugins {
		if err := u.filter(ctx, state, plugin, pod, answers); err != nil {
			return nil, err
		}
	}
	var feasible []fwk.NodeInfo
	for _, n := range u.nodes {
		if len(answers[n.Node().Name].Refusals) == 0 {
			feasible = append(feasible, n)
		}
	}
	if len(feasible) == 0 {
		return answers, nil
	}
	for _, plugin := range u.plugins {
		if err := u.score(ctx, state, plugin, pod, feasible, answers); err != nil {
			return nil, err
		}
	}
	return answers, nil
}

func (u *Upstream) filter(ctx context.Context, state fwk.CycleState, plugin fwk.Plugin, pod *corev1.Pod, answers map[string]scheduler.NodeAnswer) error {
	filter, ok := plugin.(fwk.FilterPlugin)
	if !ok {
		return nil
	}
	var all *fwk.Status
	if pre, ok := plugin.(fwk.PreFilterPlugin); ok {
		_, status := pre.PreFilter(ctx, state, pod, u.nodes)
		switch {
		case status.IsSkip():
			return nil
		case status.IsRejected():
			all = status
		case !status.IsSuccess():
			return fmt.Errorf("%s: %w", plugin.Name(), status.AsError())
		}
	}
	for _, n := range u.nodes {
		status := all
		if status == nil {
			status = filter.Filter(ctx, state, pod, n)
		}
		if status.IsSuccess() {
			continue
		}
		if !status.IsRejected() {
			return fmt.Errorf("%s: %w", plugin.Name(), status.AsError())
		}
		a := answers[n.Node().Name]
		a.Refusals = append(a.Refusals, scheduler.Refusal{Filter: plugin.Name(), Reasons: status.Reasons()})
		answers[n.Node().Name] = a
	}
	return nil
}

func (u *Upstream) score(ctx context.Context, state fwk.CycleState, plugin fwk.Plugin, pod *corev1.Pod, feasible []fwk.NodeInfo, answers map[string]scheduler.NodeAnswer) error {
	scorer, ok := plugin.(fwk.ScorePlugin)
	if !ok {
		return nil
	}
	if pre, ok := plugin.(fwk.PreScorePlugin); ok {
		if status := pre.PreScore(ctx, state, pod, feasible); status.IsSkip() {
			return nil
		} else if !status.IsSuccess() {
			return fmt.Errorf("%s: %w", plugin.Name(), status.AsError())
		}
	}
	var scores fwk.NodeScoreList
	for _, n := range feasible {
		score, status := scorer.Score(ctx, state, pod, n)
		if !status.IsSuccess() {
			return fmt.Errorf("%s: %w", plugin.Name(), status.AsError())
		}
		scores = append(scores, fwk.NodeScore{Name: n.Node().Name, Score: score})
	}
	if extensions := scorer.ScoreExtensions(); extensions != nil {
		if status := extensions.NormalizeScore(ctx, state, pod, scores); !status.IsSuccess() {
			return fmt.Errorf("%s: %w", plugin.Name(), status.AsError())
		}
	}
	for _, s := range scores {
		a := answers[s.Name]
		weighted := s.Score * u.weights[plugin.Name()]
		a.Scores = append(a.Scores, scheduler.Score{Name: plugin.Name(), Normalized: s.Score, Weighted: weighted})
		a.Total += weighted
		answers[s.Name] = a
	}
	return nil
}
