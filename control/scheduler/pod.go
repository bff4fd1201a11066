package scheduler

import (
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// podInfo is a pod with what decisions ask of it worked out once. After
// newPodInfo or newBoundInfo only what was looked up in the index changes.
type podInfo struct {
	pod      *corev1.Pod
	requests resources
	// cpu and memory as scores count them
	scoredCPU, scoredMemory int64
	ports                   []hostPort
	claims                  []claimUse
	carries                 []carried // terms that others have to reckon with

	// looked up in the index, as of its epoch
	kin      *kin
	knownAt  uint64
	priority int32

	// only of pods that wait for a node:

	profile       *profile
	neverPreempts bool
	// class is the same for pods that every filter treats alike, and preemption too
	class     string
	required  nodeaffinity.RequiredNodeAffinity
	pinned    []string // the nodes that it names; nil: none
	preferred *nodeaffinity.PreferredSchedulingTerms
	// what the pod tolerates without evicting or refusing it, for the score
	softTolerations []corev1.Toleration
	// features are what it asks of a node's agent
	features []string
	// rules about other pods, nil for a pod without
	rules *rules
}

// rules are what a pod asks about other pods, with the tallies that tell, as of
// an epoch of the index.
type rules struct {
	spread, soft           []spreadRule
	near, apart, preferred []affinityRule
	knownAt                uint64
}

// prepare looks up in the index what filters and scores read. Every question
// about a pod begins with it.
func (x *index) prepare(p *podInfo) {
	x.know(p)
	r := p.rules
	if r == nil || r.knownAt == x.epoch {
		return
	}
	r.knownAt = x.epoch
	for i := range r.spread {
		r.spread[i].lookUp(x, true)
	}
	for i := range r.soft {
		r.soft[i].lookUp(x, false)
	}
	for _, list := range [...][]affinityRule{r.near, r.apart, r.preferred} {
		for i := range list {
			list[i].lookUp(x)
		}
	}
}

// newBoundInfo reads what a pod takes from the node that it is on.
func newBoundInfo(pod *corev1.Pod) *podInfo {
	p := &podInfo{pod: pod, requests: requestsOf(pod), ports: hostPortsOf(pod), claims: claimsOf(pod), carries: readCarried(pod), priority: schedulinghelper.PodPriority(pod)}
	p.scoredCPU, p.scoredMemory = scoredOf(pod)
	return p
}

// newPodInfo also reads what a pod asks of a node before it goes there.
func newPodInfo(pod *corev1.Pod, by *profile) *podInfo {
	p := newBoundInfo(pod)
	p.profile = by
	p.neverPreempts = !by.from.Preempts || pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy == corev1.PreemptNever
	p.required = nodeaffinity.GetRequiredNodeAffinity(pod)
	p.pinned = pinnedTo(pod)
	p.features = featuresOf(pod)
	if a := nodeAffinityOf(pod); a != nil && len(a.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		// A term that does not parse prefers nothing; validation refuses such pods.
		p.preferred, _ = nodeaffinity.NewPreferredSchedulingTerms(a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	for _, t := range pod.Spec.Tolerations {
		if t.Effect == "" || t.Effect == corev1.TaintEffectPreferNoSchedule {
			p.softTolerations = append(p.softTolerations, t)
		}
	}
	p.rules = readRules(p)
	p.class = classOf(p)
	return p
}

// tallies are those that filters read for the pod, with what may let it in.
func (p *podInfo) tallies() iter.Seq2[*tally, news] {
	return func(yield func(*tally, news) bool) {
		if p.rules == nil {
			return
		}
		for i := range p.rules.spread {
			if !yield(p.rules.spread[i].tally, risen|fallen) {
				return
			}
		}
		for i := range p.rules.near {
			if !yield(p.rules.near[i].tally, risen|fallen) {
				return
			}
		}
		for i := range p.rules.apart {
			if !yield(p.rules.apart[i].tally, fallen) {
				return
			}
		}
	}
}

func readRules(p *podInfo) *rules {
	a, own := p.pod.Spec.Affinity, p.pod.Spec.TopologySpreadConstraints
	if len(own) == 0 && (a == nil || a.PodAffinity == nil && a.PodAntiAffinity == nil) {
		return nil
	}
	r := &rules{spread: readSpread(p, own, corev1.DoNotSchedule, nil), soft: readSpread(p, own, corev1.ScheduleAnyway, nil)}
	readAffinity(p.pod, r)
	return r
}

// chooses says that the pod does not take every node.
func (p *podInfo) chooses() bool {
	a := nodeAffinityOf(p.pod)
	return len(p.pod.Spec.NodeSelector) > 0 || a != nil && a.RequiredDuringSchedulingIgnoredDuringExecution != nil
}

func nodeAffinityOf(pod *corev1.Pod) *corev1.NodeAffinity {
	if pod.Spec.Affinity == nil {
		return nil
	}
	return pod.Spec.Affinity.NodeAffinity
}

// classOf writes down everything of a pod that filters and preemption look at. A
// filter that looks at more must add it here.
func classOf(p *podInfo) string {
	var b strings.Builder
	spec := &p.pod.Spec
	b.WriteString(p.profile.key)
	p.requests.key(&b)
	b.WriteString(strconv.Itoa(int(p.priority)))
	if p.neverPreempts {
		b.WriteByte('!')
	}
	if spec.NodeName != "" {
		b.WriteString("\x00n")
		b.WriteString(spec.NodeName)
	}
	nodeChoiceKey(p.pod, &b)
	tolerationsKey(p.pod, &b)
	if len(spec.ResourceClaims) > 0 {
		b.WriteString("\x00d")
	}
	for _, feature := range p.features {
		b.WriteString("\x00f")
		b.WriteString(feature)
	}
	for _, c := range p.claims {
		b.WriteString("\x00v")
		b.WriteString(c.key)
	}
	for i := range spec.Volumes {
		if isDisk(spec.Volumes[i]) {
			raw, _ := spec.Volumes[i].Marshal()
			b.WriteString("\x00k")
			b.Write(raw)
		}
	}
	for _, port := range p.ports {
		b.WriteString("\x00p")
		b.WriteString(port.ip)
		b.WriteByte('/')
		b.WriteString(string(port.protocol))
		b.WriteByte('/')
		b.WriteString(strconv.Itoa(int(port.port)))
	}
	if p.rules != nil {
		p.rules.key(p, &b)
	}
	return b.String()
}

// key writes down what filters read of the rules. Whether a pod's own terms
// select it depends on its labels, and its namespace's.
func (r *rules) key(p *podInfo, b *strings.Builder) {
	for i := range r.spread {
		r.spread[i].key(b)
	}
	for i := range r.near {
		b.WriteString("\x00N")
		b.WriteString(r.near[i].topology)
	}
	if len(r.near) > 0 {
		b.WriteString(r.near[0].selector.key) // which they share
		b.WriteString(p.pod.Namespace)
		for _, part := range r.near[0].selector.parts {
			b.WriteString(strconv.FormatBool(part.labels.Matches(labels.Set(p.pod.Labels))))
		}
	}
	for i := range r.apart {
		r.apart[i].key(b)
	}
}

// nodeChoiceKey writes down which nodes the pod takes by their labels.
func nodeChoiceKey(pod *corev1.Pod, b *strings.Builder) {
	spec := &pod.Spec
	for _, name := range slices.Sorted(maps.Keys(spec.NodeSelector)) {
		b.WriteString("\x00s")
		b.WriteString(name)
		b.WriteByte('=')
		b.WriteString(spec.NodeSelector[name])
	}
	if a := nodeAffinityOf(pod); a != nil && a.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		raw, _ := a.RequiredDuringSchedulingIgnoredDuringExecution.Marshal() // fails for no value
		b.WriteString("\x00a")
		b.Write(raw)
	}
}

func tolerationsKey(pod *corev1.Pod, b *strings.Builder) {
	for i := range pod.Spec.Tolerations {
		raw, _ := pod.Spec.Tolerations[i].Marshal()
		b.WriteString("\x00t")
		b.Write(raw)
	}
}

// finished pods have ended for good and use nothing of their node.
func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// wantsNode reports whether it is time to find the pod a node.
func wantsNode(pod *corev1.Pod) bool {
	return pod.Spec.NodeName == "" &&
		len(pod.Spec.SchedulingGates) == 0 &&
		pod.DeletionTimestamp == nil &&
		!finished(pod)
}
