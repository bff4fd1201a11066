package configuration

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"
)

// readArgs reads what plugins are told, with upstream's defaults and rules.
func (p *Profile) readArgs(at *field.Path, from []schedulerv1.PluginConfig) (errs field.ErrorList) {
	var preemption schedulerv1.DefaultPreemptionArgs
	readers := map[string]struct {
		into  any
		check func(*field.Path) field.ErrorList
	}{
		"NodeResourcesFit":                {&p.NodeResourcesFit, p.checkFit},
		"NodeResourcesBalancedAllocation": {&p.BalancedAllocation, p.checkBalanced},
		"NodeAffinity":                    {&p.NodeAffinity, p.checkNodeAffinity},
		"PodTopologySpread":               {&p.PodTopologySpread, p.checkSpread},
		"InterPodAffinity":                {&p.InterPodAffinity, p.checkPodAffinity},
		"VolumeBinding":                   {&p.VolumeBinding, p.checkVolumeBinding},
		"DefaultPreemption": {&preemption, func(at *field.Path) field.ErrorList {
			p.DefaultPreemption = &preemption
			return checkPreemption(at, &preemption)
		}},
	}
	seen := make(map[string]bool)
	for i := range from {
		name, here := from[i].Name, at.Index(i)
		reader, ok := readers[name]
		switch {
		case !ok:
			errs = append(errs, field.NotSupported(here.Child("name"), name, slices.Sorted(maps.Keys(readers))))
			continue
		case seen[name]:
			errs = append(errs, field.Duplicate(here.Child("name"), name))
			continue
		}
		seen[name] = true
		here = here.Child("args")
		raw := from[i].Args.Raw
		if err := decode(raw, reader.into); err != nil {
			errs = append(errs, field.Invalid(here, field.OmitValueType{}, err.Error()))
			continue
		}
		var head metav1.TypeMeta
		if _ = json.Unmarshal(raw, &head); head.Kind != "" && head.Kind != name+"Args" || head.APIVersion != "" && head.APIVersion != APIVersion {
			errs = append(errs, field.Invalid(here, head.APIVersion+" "+head.Kind, "want "+APIVersion+" "+name+"Args, or neither"))
		}
		errs = append(errs, reader.check(here)...)
	}
	// What was not written has its defaults too.
	for name, reader := range readers {
		if !seen[name] && name != "DefaultPreemption" {
			reader.check(at)
		}
	}
	p.dropTypes()
	return errs
}

// dropTypes forgets how args were written: they mean the same.
func (p *Profile) dropTypes() {
	for _, meta := range []*metav1.TypeMeta{
		&p.NodeResourcesFit.TypeMeta, &p.BalancedAllocation.TypeMeta, &p.NodeAffinity.TypeMeta, &p.PodTopologySpread.TypeMeta,
		&p.InterPodAffinity.TypeMeta, &p.VolumeBinding.TypeMeta,
	} {
		*meta = metav1.TypeMeta{}
	}
	if p.DefaultPreemption != nil {
		p.DefaultPreemption.TypeMeta = metav1.TypeMeta{}
	}
}

// cpuAndMemory is what nodes are scored by unless something else is said.
func cpuAndMemory() []schedulerv1.ResourceSpec {
	return []schedulerv1.ResourceSpec{{Name: string(corev1.ResourceCPU), Weight: 1}, {Name: string(corev1.ResourceMemory), Weight: 1}}
}

func (p *Profile) checkFit(at *field.Path) (errs field.ErrorList) {
	args := &p.NodeResourcesFit
	for i, name := range args.IgnoredResources {
		here := at.Child("ignoredResources").Index(i)
		errs = append(errs, metav1validation.ValidateLabelName(name, here)...)
		if !strings.Contains(name, "/") {
			errs = append(errs, field.Invalid(here, name, "only extended resources, such as example.com/gpu, can be ignored"))
		}
	}
	for i, group := range args.IgnoredResourceGroups {
		here := at.Child("ignoredResourceGroups").Index(i)
		if strings.Contains(group, "/") {
			errs = append(errs, field.Invalid(here, group, "want what is before the slash, such as example.com"))
		} else {
			errs = append(errs, metav1validation.ValidateLabelName(group, here)...)
		}
	}
	s := args.ScoringStrategy
	if s == nil {
		return errs
	}
	at = at.Child("scoringStrategy")
	if len(s.Resources) == 0 {
		s.Resources = cpuAndMemory()
	}
	for i := range s.Resources {
		r := &s.Resources[i]
		if r.Weight == 0 {
			r.Weight = 1
		}
		here := at.Child("resources").Index(i)
		if r.Weight < 0 || r.Weight > 100 {
			errs = append(errs, field.Invalid(here.Child("weight"), r.Weight, "want 1 to 100"))
		}
		if r.Name == "" {
			errs = append(errs, field.Required(here.Child("name"), ""))
		}
	}
	ratio := at.Child("requestedToCapacityRatio")
	switch s.Type {
	case schedulerv1.LeastAllocated, schedulerv1.MostAllocated:
		if s.RequestedToCapacityRatio != nil {
			errs = append(errs, field.Forbidden(ratio, "it is for type RequestedToCapacityRatio"))
		}
	case schedulerv1.RequestedToCapacityRatio:
		if s.RequestedToCapacityRatio == nil {
			errs = append(errs, field.Required(ratio, "type RequestedToCapacityRatio needs a shape"))
		} else {
			errs = append(errs, checkShape(ratio.Child("shape"), s.RequestedToCapacityRatio.Shape)...)
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("type"), s.Type,
			[]schedulerv1.ScoringStrategyType{schedulerv1.LeastAllocated, schedulerv1.MostAllocated, schedulerv1.RequestedToCapacityRatio}))
	}
	return errs
}

// Bounds of a shape's points; scores are multiplied by 10.
const (
	utilizationMost = 100
	shapeScoreMost  = 10
)

func checkShape(at *field.Path, shape []schedulerv1.UtilizationShapePoint) (errs field.ErrorList) {
	if len(shape) == 0 {
		return field.ErrorList{field.Required(at, "want one point at least")}
	}
	for i, point := range shape {
		if point.Utilization < 0 || point.Utilization > utilizationMost {
			errs = append(errs, field.Invalid(at.Index(i).Child("utilization"), point.Utilization, "want 0 to 100"))
		}
		if i > 0 && point.Utilization <= shape[i-1].Utilization {
			errs = append(errs, field.Invalid(at.Index(i).Child("utilization"), point.Utilization, "want more than the point before has"))
		}
		if point.Score < 0 || point.Score > shapeScoreMost {
			errs = append(errs, field.Invalid(at.Index(i).Child("score"), point.Score, "want 0 to 10"))
		}
	}
	return errs
}

func (p *Profile) checkBalanced(at *field.Path) (errs field.ErrorList) {
	args := &p.BalancedAllocation
	if len(args.Resources) == 0 {
		args.Resources = cpuAndMemory()
	}
	for i := range args.Resources {
		r, here := &args.Resources[i], at.Child("resources").Index(i)
		if r.Weight == 0 {
			r.Weight = 1
		}
		switch {
		case r.Weight != 1:
			errs = append(errs, field.Invalid(here.Child("weight"), r.Weight, "want 1: shares are compared as they are"))
		case r.Name == "":
			errs = append(errs, field.Required(here.Child("name"), ""))
		case slices.ContainsFunc(args.Resources[:i], func(o schedulerv1.ResourceSpec) bool { return o.Name == r.Name }):
			errs = append(errs, field.Duplicate(here.Child("name"), r.Name))
		}
	}
	return errs
}

func (p *Profile) checkNodeAffinity(at *field.Path) (errs field.ErrorList) {
	added := p.NodeAffinity.AddedAffinity
	if added == nil {
		return nil
	}
	at = at.Child("addedAffinity")
	add := func(name string, err error) {
		if err != nil {
			errs = append(errs, field.Invalid(at.Child(name), field.OmitValueType{}, err.Error()))
		}
	}
	if it := added.RequiredDuringSchedulingIgnoredDuringExecution; it != nil {
		_, err := nodeaffinity.NewNodeSelector(it)
		add("requiredDuringSchedulingIgnoredDuringExecution", err)
	}
	if it := added.PreferredDuringSchedulingIgnoredDuringExecution; len(it) > 0 {
		_, err := nodeaffinity.NewPreferredSchedulingTerms(it)
		add("preferredDuringSchedulingIgnoredDuringExecution", err)
	}
	return errs
}

func (p *Profile) checkSpread(at *field.Path) (errs field.ErrorList) {
	args := &p.PodTopologySpread
	if args.DefaultingType == "" {
		args.DefaultingType = schedulerv1.SystemDefaulting
	}
	kinds := []schedulerv1.PodTopologySpreadConstraintsDefaulting{schedulerv1.SystemDefaulting, schedulerv1.ListDefaulting}
	switch {
	case !slices.Contains(kinds, args.DefaultingType):
		errs = append(errs, field.NotSupported(at.Child("defaultingType"), args.DefaultingType, kinds))
	case args.DefaultingType == schedulerv1.SystemDefaulting && len(args.DefaultConstraints) > 0:
		errs = append(errs, field.Invalid(at.Child("defaultingType"), args.DefaultingType, "want List, as there are defaultConstraints"))
	}
	for i := range args.DefaultConstraints {
		errs = append(errs, checkConstraint(at.Child("defaultConstraints").Index(i), args.DefaultConstraints, i)...)
	}
	return errs
}

func checkConstraint(at *field.Path, all []corev1.TopologySpreadConstraint, i int) (errs field.ErrorList) {
	c := &all[i]
	if c.MaxSkew <= 0 {
		errs = append(errs, field.Invalid(at.Child("maxSkew"), c.MaxSkew, "want 1 or more"))
	}
	if c.TopologyKey == "" {
		errs = append(errs, field.Required(at.Child("topologyKey"), "name a label of nodes"))
	} else {
		errs = append(errs, metav1validation.ValidateLabelName(c.TopologyKey, at.Child("topologyKey"))...)
	}
	actions := []corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}
	if !slices.Contains(actions, c.WhenUnsatisfiable) {
		errs = append(errs, field.NotSupported(at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, actions))
	}
	if c.LabelSelector != nil {
		errs = append(errs, field.Forbidden(at.Child("labelSelector"), "remove it: which pods count follows from each pod's services and controller"))
	}
	if len(c.MatchLabelKeys) > 0 {
		errs = append(errs, field.Forbidden(at.Child("matchLabelKeys"), "remove them: which pods count follows from each pod's services and controller"))
	}
	if c.MinDomains != nil && (*c.MinDomains <= 0 || c.WhenUnsatisfiable != corev1.DoNotSchedule) {
		errs = append(errs, field.Invalid(at.Child("minDomains"), *c.MinDomains, "want 1 or more, and whenUnsatisfiable: DoNotSchedule"))
	}
	for name, policy := range map[string]*corev1.NodeInclusionPolicy{"nodeAffinityPolicy": c.NodeAffinityPolicy, "nodeTaintsPolicy": c.NodeTaintsPolicy} {
		if policies := []corev1.NodeInclusionPolicy{corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore}; policy != nil && !slices.Contains(policies, *policy) {
			errs = append(errs, field.NotSupported(at.Child(name), *policy, policies))
		}
	}
	if slices.ContainsFunc(all[:i], func(o corev1.TopologySpreadConstraint) bool {
		return o.TopologyKey == c.TopologyKey && o.WhenUnsatisfiable == c.WhenUnsatisfiable
	}) {
		errs = append(errs, field.Duplicate(at, c.TopologyKey+", "+string(c.WhenUnsatisfiable)))
	}
	return errs
}

func (p *Profile) checkPodAffinity(at *field.Path) field.ErrorList {
	args := &p.InterPodAffinity
	if args.HardPodAffinityWeight == nil {
		args.HardPodAffinityWeight = ptr.To[int32](1)
	}
	if w := *args.HardPodAffinityWeight; w < 0 || w > 100 {
		return field.ErrorList{field.Invalid(at.Child("hardPodAffinityWeight"), w, "want 0 to 100")}
	}
	return nil
}

// bindSeconds is how long a pod waits for its volumes, as upstream has it.
const bindSeconds = 600

func (p *Profile) checkVolumeBinding(at *field.Path) (errs field.ErrorList) {
	args := &p.VolumeBinding
	if args.BindTimeoutSeconds == nil {
		args.BindTimeoutSeconds = ptr.To[int64](bindSeconds)
	}
	if s := *args.BindTimeoutSeconds; s < 1 {
		errs = append(errs, field.Invalid(at.Child("bindTimeoutSeconds"), s, "want 1 or more: a volume is never there at once"))
	}
	if len(args.Shape) == 0 {
		args.Shape = []schedulerv1.UtilizationShapePoint{{Utilization: 0, Score: shapeScoreMost}, {Utilization: utilizationMost, Score: 0}}
	}
	return append(errs, checkShape(at.Child("shape"), args.Shape)...)
}

func checkPreemption(at *field.Path, args *schedulerv1.DefaultPreemptionArgs) (errs field.ErrorList) {
	if args.MinCandidateNodesPercentage == nil {
		args.MinCandidateNodesPercentage = ptr.To[int32](10)
	}
	if args.MinCandidateNodesAbsolute == nil {
		args.MinCandidateNodesAbsolute = ptr.To[int32](100)
	}
	percentage, least := *args.MinCandidateNodesPercentage, *args.MinCandidateNodesAbsolute
	errs = checkPercentage(at.Child("minCandidateNodesPercentage"), &percentage)
	if least < 0 {
		errs = append(errs, field.Invalid(at.Child("minCandidateNodesAbsolute"), least, "want 0 or more"))
	}
	if percentage == 0 && least == 0 {
		errs = append(errs, field.Invalid(at.Child("minCandidateNodesAbsolute"), least, "want more than 0, here or in minCandidateNodesPercentage"))
	}
	return errs
}
