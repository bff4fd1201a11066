// Package scheduling holds Muster's scheduler against kube-scheduler's own
// plugins: on the same clusters, for the same pods and profiles, the same nodes are
// refused for the same reasons and the rest get the same scores. It is a module of
// its own, so that kube-scheduler never gets into Muster's.
package scheduling

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/dynamic-resource-allocation/resourceslice/tracker"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/validation"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/dynamicresources"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/nodevolumelimits"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/metrics"
	"k8s.io/kubernetes/pkg/scheduler/util/assumecache"

	"github.com/musterhq/muster/control/scheduler"
)

// Upstream is kube-scheduler with its profiles over one state of a cluster.
type Upstream struct {
	nodes    []fwk.NodeInfo
	profiles map[string]*upstreamProfile
}

// upstreamProfile are the plugins of a profile, as the framework made and sorted
// them, so that each can be asked where the framework stops at the first refusal.
type upstreamProfile struct {
	framework framework.Framework
	plugins   map[string]fwk.Plugin
	points    *config.Plugins
}

// ReadUpstream reads a file as kube-scheduler does: with its defaults, and refusing
// what it does not start with.
func ReadUpstream(file []byte) (*config.KubeSchedulerConfiguration, error) {
	object, gvk, err := scheme.Codecs.UniversalDecoder().Decode(file, nil, nil)
	if err != nil {
		return nil, err
	}
	c, ok := object.(*config.KubeSchedulerConfiguration)
	if !ok {
		return nil, fmt.Errorf("%s is no configuration of a scheduler", gvk)
	}
	c.APIVersion = gvk.GroupVersion().String()
	if err := validation.ValidateKubeSchedulerConfiguration(c); err != nil {
		return nil, err
	}
	return c, nil
}

// NewUpstream makes the profiles' plugins as kube-scheduler does. What it starts ends
// with ctx.
func NewUpstream(ctx context.Context, state scheduler.State, profiles []config.KubeSchedulerProfile) (*Upstream, error) {
	metrics.Register() // plugins count in them
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	if err := fill(factory, state); err != nil {
		return nil, err
	}
	slices, err := tracker.StartTracker(ctx, tracker.Options{SliceInformer: factory.Resource().V1().ResourceSlices(), KubeClient: client})
	if err != nil {
		return nil, err
	}
	claims := assumecache.NewAssumeCache(klog.FromContext(ctx), factory.Resource().V1().ResourceClaims().Informer(), "ResourceClaim", "", nil)
	nominees, err := newNominator(state.Pods, profiles)
	if err != nil {
		return nil, err
	}
	snapshot := cache.NewSnapshot(placed(state.Pods), state.Nodes)
	u := &Upstream{profiles: map[string]*upstreamProfile{}}
	if u.nodes, err = snapshot.NodeInfos().List(); err != nil {
		return nil, err
	}
	for i := range profiles {
		p := &upstreamProfile{plugins: map[string]fwk.Plugin{}}
		f, err := frameworkruntime.NewFramework(ctx, p.registry(), &profiles[i],
			frameworkruntime.WithClientSet(client), frameworkruntime.WithInformerFactory(factory),
			frameworkruntime.WithSnapshotSharedLister(snapshot), frameworkruntime.WithMutableSnapshotLister(snapshot),
			frameworkruntime.WithSharedDRAManager(dynamicresources.NewDRAManager(ctx, claims, slices, factory)),
			frameworkruntime.WithSharedCSIManager(nodevolumelimits.NewCSIManager(factory.Storage().V1().CSINodes().Lister())))
		if err != nil {
			return nil, fmt.Errorf("profile %s: %w", profiles[i].SchedulerName, err)
		}
		f.SetPodNominator(nominees)
		p.framework, p.points = f, f.ListPlugins()
		u.profiles[profiles[i].SchedulerName] = p
	}
	return u, nil
}

func placed(pods []*corev1.Pod) []*corev1.Pod {
	return slices.DeleteFunc(slices.Clone(pods), func(p *corev1.Pod) bool { return p.Spec.NodeName == "" })
}

// registry keeps what is made from it.
func (p *upstreamProfile) registry() frameworkruntime.Registry {
	registry := plugins.NewInTreeRegistry()
	for name, make := range registry {
		registry[name] = func(ctx context.Context, args runtime.Object, handle fwk.Handle) (fwk.Plugin, error) {
			plugin, err := make(ctx, args, handle)
			p.plugins[name] = plugin
			return plugin, err
		}
	}
	return registry
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
	for _, o := range state.Claims {
		add(core.PersistentVolumeClaims().Informer().GetStore(), o)
	}
	for _, o := range state.Volumes {
		add(core.PersistentVolumes().Informer().GetStore(), o)
	}
	storage := factory.Storage().V1()
	for _, o := range state.StorageClasses {
		add(storage.StorageClasses().Informer().GetStore(), o)
	}
	for _, o := range state.CSINodes {
		add(storage.CSINodes().Informer().GetStore(), o)
	}
	for _, o := range state.CSIDrivers {
		add(storage.CSIDrivers().Informer().GetStore(), o)
	}
	for _, o := range state.CSIStorageCapacities {
		add(storage.CSIStorageCapacities().Informer().GetStore(), o)
	}
	for _, o := range state.VolumeAttachments {
		add(storage.VolumeAttachments().Informer().GetStore(), o)
	}
	for _, o := range state.Budgets {
		add(factory.Policy().V1().PodDisruptionBudgets().Informer().GetStore(), o)
	}
	return err
}

// of is the pod's profile; a pod of an unknown scheduler is answered for as if it
// were of the default one.
func (u *Upstream) of(pod *corev1.Pod) *upstreamProfile {
	if p := u.profiles[pod.Spec.SchedulerName]; p != nil {
		return p
	}
	return u.profiles[corev1.DefaultSchedulerName]
}

// Ask answers as Muster's Snapshot does.
func (u *Upstream) Ask(ctx context.Context, pod *corev1.Pod) (map[string]scheduler.NodeAnswer, error) {
	p := u.of(pod)
	answers := map[string]scheduler.NodeAnswer{}
	for _, n := range u.nodes {
		answers[n.Node().Name] = scheduler.NodeAnswer{Node: n.Node().Name}
	}
	state := framework.NewCycleState()
	if err := p.filter(ctx, state, pod, u.nodes, answers); err != nil {
		return nil, err
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
	skipped := map[string]bool{}
	for _, it := range p.points.PreScore.Enabled {
		status := p.plugins[it.Name].(fwk.PreScorePlugin).PreScore(ctx, state, pod, feasible)
		if skipped[it.Name] = status.IsSkip(); !status.IsSkip() && !status.IsSuccess() {
			return nil, fmt.Errorf("%s: %w", it.Name, status.AsError())
		}
	}
	for _, it := range p.points.Score.Enabled {
		if skipped[it.Name] {
			continue
		}
		if err := score(ctx, state, p.plugins[it.Name].(fwk.ScorePlugin), int64(it.Weight), pod, feasible, answers); err != nil {
			return nil, err
		}
	}
	return answers, nil
}

// filter notes every filter's refusals, in their order; one that refuses the pod
// before it looks at nodes refuses all of them.
func (p *upstreamProfile) filter(ctx context.Context, state fwk.CycleState, pod *corev1.Pod, nodes []fwk.NodeInfo, answers map[string]scheduler.NodeAnswer) error {
	skipped, all := map[string]bool{}, map[string]*fwk.Status{}
	for _, it := range p.points.PreFilter.Enabled {
		_, status := p.plugins[it.Name].(fwk.PreFilterPlugin).PreFilter(ctx, state, pod, nodes)
		switch {
		case status.IsSkip():
			skipped[it.Name] = true
		case status.IsRejected():
			all[it.Name] = status
		case !status.IsSuccess():
			return fmt.Errorf("%s: %w", it.Name, status.AsError())
		}
	}
	for _, it := range p.points.Filter.Enabled {
		// Limits are not come to with claims that are not as they should be, and end in errors then.
		if skipped[it.Name] || it.Name == "NodeVolumeLimits" && all["VolumeBinding"] != nil {
			continue
		}
		for _, n := range nodes {
			status := all[it.Name]
			if status == nil {
				status = p.plugins[it.Name].(fwk.FilterPlugin).Filter(ctx, state, pod, n)
			}
			if status.IsSuccess() {
				continue
			}
			if !status.IsRejected() {
				return fmt.Errorf("%s: %w", it.Name, status.AsError())
			}
			a := answers[n.Node().Name]
			a.Refusals = append(a.Refusals, scheduler.Refusal{Filter: it.Name, Reasons: status.Reasons()})
			answers[n.Node().Name] = a
		}
	}
	return nil
}

func score(ctx context.Context, state fwk.CycleState, plugin fwk.ScorePlugin, weight int64, pod *corev1.Pod, feasible []fwk.NodeInfo, answers map[string]scheduler.NodeAnswer) error {
	var scores fwk.NodeScoreList
	for _, n := range feasible {
		score, status := plugin.Score(ctx, state, pod, n)
		if !status.IsSuccess() {
			return fmt.Errorf("%s: %w", plugin.Name(), status.AsError())
		}
		scores = append(scores, fwk.NodeScore{Name: n.Node().Name, Score: score})
	}
	if extensions := plugin.ScoreExtensions(); extensions != nil {
		if status := extensions.NormalizeScore(ctx, state, pod, scores); !status.IsSuccess() {
			return fmt.Errorf("%s: %w", plugin.Name(), status.AsError())
		}
	}
	for _, s := range scores {
		a := answers[s.Name]
		weighted := s.Score * weight
		a.Scores = append(a.Scores, scheduler.Score{Name: plugin.Name(), Normalized: s.Score, Weighted: weighted})
		a.Total += weighted
		answers[s.Name] = a
	}
	return nil
}
