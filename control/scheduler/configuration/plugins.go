package configuration

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

// plugin is one of upstream's, and where it takes part.
type plugin struct {
	name   string
	points []string
	weight int64 // of its score in the default profile; 0: it has none here
}

// standard is upstream's default profile, in its order, which is that of filters.
var standard = []plugin{
	{name: "SchedulingGates", points: []string{preEnqueue}},
	{name: "PrioritySort", points: []string{queueSort}},
	{name: "NodeName", points: []string{preFilter, filter}},
	{name: "NodeUnschedulable", points: []string{preFilter, filter}},
	{name: "TaintToleration", points: []string{preFilter, filter, preScore, score}, weight: 3},
	{name: "NodeAffinity", points: []string{preFilter, filter, preScore, score}, weight: 2},
	{name: "NodePorts", points: []string{preFilter, filter}},
	{name: "NodeResourcesFit", points: []string{preFilter, filter, preScore, score}, weight: 1},
	{name: "VolumeRestrictions", points: []string{preFilter, filter}},
	{name: "NodeVolumeLimits", points: []string{preFilter, filter}},
	{name: "VolumeBinding", points: []string{preFilter, filter, reserve, preBind, preScore, score}, weight: 1},
	{name: "VolumeZone", points: []string{preFilter, filter}},
	{name: "PodTopologySpread", points: []string{preFilter, filter, preScore, score}, weight: 2},
	{name: "InterPodAffinity", points: []string{preFilter, filter, preScore, score}, weight: 2},
	{name: "DynamicResources", points: []string{preEnqueue, preFilter, filter, postFilter, reserve, preBind, score}},
	{name: "DefaultPreemption", points: []string{postFilter, preEnqueue}},
	{name: "NodeResourcesBalancedAllocation", points: []string{preScore, score}, weight: 1},
	{name: "ImageLocality", points: []string{score}, weight: 1},
	{name: "DefaultBinder", points: []string{bind}},
	{name: "NodeDeclaredFeatures", points: []string{preFilter, filter}},
}

// absent are upstream's that its default profile lacks and Muster has not. To switch
// one off changes nothing.
var absent = []string{"DeferredPodScheduling", "GangScheduling", "PodGroupPodsCount", "TopologyPlacementGenerator"}

// The extension points, by their names in a file.
const (
	multiPoint = "multiPoint"
	preEnqueue = "preEnqueue"
	queueSort  = "queueSort"
	preFilter  = "preFilter"
	filter     = "filter"
	postFilter = "postFilter"
	preScore   = "preScore"
	score      = "score"
	reserve    = "reserve"
	permit     = "permit"
	preBind    = "preBind"
	bind       = "bind"
	postBind   = "postBind"
)

func find(name string) (plugin, bool) {
	i := slices.IndexFunc(standard, func(p plugin) bool { return p.name == name })
	if i < 0 {
		return plugin{}, false
	}
	return standard[i], true
}

// enabled is a plugin at a point, with the weight that was given, 0 for none.
type enabled struct {
	plugin
	weight int64
}

// readPlugins works out which plugins take part where, as upstream does: what a
// point says counts more than multiPoint, which counts more than the default.
func (p *Profile) readPlugins(at *field.Path, from *schedulerv1.Plugins) (errs field.ErrorList) {
	if from == nil {
		from = &schedulerv1.Plugins{}
	}
	points := map[string]*schedulerv1.PluginSet{
		multiPoint: &from.MultiPoint, preEnqueue: &from.PreEnqueue, queueSort: &from.QueueSort, preFilter: &from.PreFilter, filter: &from.Filter,
		postFilter: &from.PostFilter, preScore: &from.PreScore, score: &from.Score, reserve: &from.Reserve, permit: &from.Permit,
		preBind: &from.PreBind, bind: &from.Bind, postBind: &from.PostBind,
		"placementGenerate": &from.PlacementGenerate, "placementScore": &from.PlacementScore, "podGroupPostFilter": &from.PodGroupPostFilter,
	}
	for _, point := range slices.Sorted(maps.Keys(points)) {
		errs = append(errs, checkSet(at.Child(point), point, points[point])...)
	}
	if len(errs) > 0 {
		return errs
	}
	multi := multiPoints(&from.MultiPoint)
	plugins := func(point string) []enabled { return expand(point, points[point], multi) }
	names := func(point string) (list []string) {
		for _, e := range plugins(point) {
			list = append(list, e.name)
		}
		return list
	}
	p.Filters = names(filter)
	prepared, sorted := names(preScore), names(score)
	for _, e := range plugins(score) {
		if e.plugin.weight == 0 {
			continue
		}
		weight := e.weight
		if weight == 0 {
			weight = 1
		}
		p.Scores = append(p.Scores, Score{e.name, weight})
	}
	p.Preempts = slices.Contains(names(postFilter), "DefaultPreemption")

	must := func(what bool, point, why string) {
		if !what {
			errs = append(errs, field.Forbidden(at.Child(point), why))
		}
	}
	must(slices.Equal(names(queueSort), []string{"PrioritySort"}), queueSort, "want PrioritySort alone: pods are taken by priority, then by arrival")
	must(slices.Equal(names(bind), []string{"DefaultBinder"}), bind, "want DefaultBinder alone: pods are bound in batches by the scheduler itself")
	must(slices.Contains(names(preEnqueue), "SchedulingGates"), preEnqueue, "want SchedulingGates: the API binds no pod that has gates")
	must(!p.Preempts || slices.Contains(names(preEnqueue), "DefaultPreemption"), preEnqueue, "want DefaultPreemption, or disable it in multiPoint: pods that make room wait until it is there")
	for _, point := range []string{preFilter, filter, reserve, preBind} {
		must(slices.Contains(names(point), "VolumeBinding"), point, "want VolumeBinding: a pod's node and its volumes are decided together")
	}
	for _, point := range []string{preFilter, filter} {
		must(slices.Contains(names(point), "DynamicResources"), point, "want DynamicResources: nobody allocates devices, and pods must not run without")
	}
	before := names(preFilter)
	for _, name := range p.Filters {
		must(slices.Contains(before, name), preFilter, "want "+name+", or disable it in "+filter+" too")
	}
	for _, name := range []string{"NodeAffinity", "VolumeRestrictions", "VolumeZone"} {
		must(!slices.Contains(before, name) || slices.Contains(p.Filters, name), filter, "want "+name+", or disable it in "+preFilter+" too, which refuses pods as well")
	}
	for _, name := range sorted {
		it, _ := find(name)
		must(it.weight == 0 || !slices.Contains(it.points, preScore) || slices.Contains(prepared, name), preScore, "want "+name+", or disable it in "+score+" too")
	}
	return errs
}

// checkSet looks at what is written at one point.
func checkSet(at *field.Path, point string, set *schedulerv1.PluginSet) (errs field.ErrorList) {
	seen := make(map[string]bool)
	for i, e := range set.Enabled {
		here := at.Child("enabled").Index(i)
		it, known := find(e.Name)
		switch {
		case e.Name == "":
			errs = append(errs, field.Required(here.Child("name"), ""))
		case !known:
			errs = append(errs, field.NotSupported(here.Child("name"), e.Name, pluginNames()))
		case seen[e.Name]:
			errs = append(errs, field.Duplicate(here.Child("name"), e.Name))
		case point != multiPoint && !slices.Contains(it.points, point):
			errs = append(errs, field.Invalid(here.Child("name"), e.Name, "the plugin takes no part in "+point))
		case point == score && it.weight == 0:
			errs = append(errs, field.Invalid(here.Child("name"), e.Name, "the plugin has no score here"))
		case e.Weight != nil && *e.Weight < 0:
			errs = append(errs, field.Invalid(here.Child("weight"), *e.Weight, "want 1 or more; a score that is not to count is disabled"))
		case e.Weight != nil && it.weight == 0, e.Weight != nil && point != multiPoint && point != score:
			errs = append(errs, field.Invalid(here.Child("weight"), *e.Weight, "only scores have weights"))
		}
		seen[e.Name] = true
	}
	for i, d := range set.Disabled {
		if _, known := find(d.Name); !known && d.Name != "*" && !slices.Contains(absent, d.Name) {
			errs = append(errs, field.NotSupported(at.Child("disabled").Index(i).Child("name"), d.Name, append(pluginNames(), "*")))
		}
	}
	return errs
}

func pluginNames() (names []string) {
	for _, it := range standard {
		names = append(names, it.name)
	}
	return names
}

func disables(set *schedulerv1.PluginSet, name string) bool {
	return slices.ContainsFunc(set.Disabled, func(d schedulerv1.Plugin) bool { return d.Name == name })
}

func given(e schedulerv1.Plugin) enabled {
	it, _ := find(e.Name)
	result := enabled{plugin: it}
	if e.Weight != nil {
		result.weight = int64(*e.Weight)
	}
	return result
}

// multiPoints are the plugins that take part wherever they can: the default ones
// less those disabled, each in its place, then the others in the file's order.
func multiPoints(set *schedulerv1.PluginSet) (list []enabled) {
	added := make(map[string]bool)
	if !disables(set, "*") {
		for _, it := range standard {
			if disables(set, it.name) {
				continue
			}
			e := enabled{it, it.weight}
			if i := slices.IndexFunc(set.Enabled, func(e schedulerv1.Plugin) bool { return e.Name == it.name }); i >= 0 {
				e = given(set.Enabled[i])
				added[it.name] = true
			}
			list = append(list, e)
		}
	}
	for _, e := range set.Enabled {
		if !added[e.Name] {
			list = append(list, given(e))
		}
	}
	return list
}

// expand are the plugins at a point: those that it names anew come first, then those
// of multiPoint, then those that only it names.
func expand(point string, set *schedulerv1.PluginSet, multi []enabled) (list []enabled) {
	var first, last []enabled
	all := !disables(set, "*")
	for _, e := range set.Enabled {
		inMulti := slices.ContainsFunc(multi, func(m enabled) bool { return m.name == e.Name })
		if all && inMulti && !disables(set, e.Name) {
			first = append(first, given(e))
		} else {
			last = append(last, given(e))
		}
	}
	if all {
		for _, m := range multi {
			named := slices.ContainsFunc(set.Enabled, func(e schedulerv1.Plugin) bool { return e.Name == m.name })
			if slices.Contains(m.points, point) && !disables(set, m.name) && !named {
				list = append(list, m)
			}
		}
	}
	return slices.Concat(first, list, last)
}
