package scheduler

import (
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

// podAffinity refuses nodes in whose domains are no pods that the pod must be
// near to, or pods that it must be apart from, or pods that must be apart from
// it; and prefers by what it, or pods that are there, would rather have.
type podAffinity struct {
	// required is what a required affinity of a placed pod is worth to a pod that it
	// selects; upstream's hardPodAffinityWeight.
	required int64
	// own has pods that prefer nothing themselves spared what others prefer.
	own bool
}

func newPodAffinity(args *schedulerv1.InterPodAffinityArgs) podAffinity {
	return podAffinity{required: int64(*args.HardPodAffinityWeight), own: args.IgnorePreferredTermsOfExistingPods}
}

func (podAffinity) name() string { return "InterPodAffinity" }

func (podAffinity) applies(p *podInfo) bool {
	return p.kin.barring > 0 || p.rules != nil && len(p.rules.near)+len(p.rules.apart) > 0
}

func (a podAffinity) tells(p *podInfo) bool {
	return len(p.kin.terms) > 0 && !a.own || p.rules != nil && len(p.rules.preferred) > 0
}

// barredReason is told of nodes that are refused for what pods there ask, which
// pods differ in that else are all alike to filters.
const barredReason = "node(s) didn't satisfy existing pods anti-affinity rules"

func (podAffinity) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	if p.rules != nil {
		if !p.rules.nearEnough(p, n) {
			return append(reasons, "node(s) didn't match pod affinity rules")
		}
		for i := range p.rules.apart {
			if t := p.rules.apart[i].tally; t.at(n.domain(t.topology)) > 0 {
				return append(reasons, "node(s) didn't match pod anti-affinity rules")
			}
		}
	}
	if p.kin.barring > 0 {
		for _, t := range p.kin.terms {
			if t.bars && t.bar(n.domain(t.topology)) {
				return append(reasons, barredReason)
			}
		}
	}
	return reasons
}

// nearEnough: in each term's domain is a pod that all terms select. While there
// is none anywhere, a pod that its own terms select is let in, or the first of
// its like would wait for ever.
func (r *rules) nearEnough(p *podInfo, n *nodeInfo) bool {
	found, some := true, 0
	for i := range r.near {
		t := r.near[i].tally
		d := n.domain(t.topology)
		if d == 0 {
			return false
		}
		found = found && t.at(d) > 0
		some += t.some
	}
	if found {
		return true
	}
	_, self := r.near[0].tally.selection.kin[p.kin]
	return self && some == 0
}

// affinityRule is a term of the pod, read. All required affinity terms together
// select the pods to be near to, so they share one selector.
type affinityRule struct {
	topology string
	selector selector
	weight   int64
	tally    *tally // once looked up
}

func (r *affinityRule) lookUp(x *index) { r.tally = x.tallyOf(r.selector, r.topology, nil, false) }

func (r *affinityRule) key(b *strings.Builder) {
	b.WriteString("\x00A")
	b.WriteString(r.selector.key)
	b.WriteString(r.topology)
}

// readCarried reads what others have to reckon with once the pod is placed.
func readCarried(pod *corev1.Pod) []carried {
	a := pod.Spec.Affinity
	if a == nil {
		return nil
	}
	var terms []carried
	add := func(term *corev1.PodAffinityTerm, kind carriedKind, weight int64) {
		terms = append(terms, carried{
			selector: newSelector(true, readTerm(pod.Namespace, term)), topology: term.TopologyKey, kind: kind, weight: weight,
		})
	}
	if near := a.PodAffinity; near != nil {
		for i := range near.RequiredDuringSchedulingIgnoredDuringExecution {
			add(&near.RequiredDuringSchedulingIgnoredDuringExecution[i], requires, 0)
		}
		for i := range near.PreferredDuringSchedulingIgnoredDuringExecution {
			t := &near.PreferredDuringSchedulingIgnoredDuringExecution[i]
			add(&t.PodAffinityTerm, favours, int64(t.Weight))
		}
	}
	if apart := a.PodAntiAffinity; apart != nil {
		for i := range apart.RequiredDuringSchedulingIgnoredDuringExecution {
			add(&apart.RequiredDuringSchedulingIgnoredDuringExecution[i], bars, 0)
		}
		for i := range apart.PreferredDuringSchedulingIgnoredDuringExecution {
			t := &apart.PreferredDuringSchedulingIgnoredDuringExecution[i]
			add(&t.PodAffinityTerm, favours, -int64(t.Weight))
		}
	}
	return terms
}

// readAffinity reads what the pod itself asks.
func readAffinity(pod *corev1.Pod, r *rules) {
	a := pod.Spec.Affinity
	if a == nil {
		return
	}
	if near := a.PodAffinity; near != nil {
		var parts []selectorPart
		for i := range near.RequiredDuringSchedulingIgnoredDuringExecution {
			parts = append(parts, readTerm(pod.Namespace, &near.RequiredDuringSchedulingIgnoredDuringExecution[i]))
		}
		all, topologies := newSelector(true, parts...), map[string]bool{}
		for i := range near.RequiredDuringSchedulingIgnoredDuringExecution {
			// A second rule for a topology would only say the same again.
			if key := near.RequiredDuringSchedulingIgnoredDuringExecution[i].TopologyKey; !topologies[key] {
				topologies[key] = true
				r.near = append(r.near, affinityRule{topology: key, selector: all})
			}
		}
		for i := range near.PreferredDuringSchedulingIgnoredDuringExecution {
			t := &near.PreferredDuringSchedulingIgnoredDuringExecution[i]
			r.prefer(pod, &t.PodAffinityTerm, int64(t.Weight))
		}
	}
	if apart := a.PodAntiAffinity; apart != nil {
		for i := range apart.RequiredDuringSchedulingIgnoredDuringExecution {
			t := &apart.RequiredDuringSchedulingIgnoredDuringExecution[i]
			r.apart = append(r.apart, affinityRule{topology: t.TopologyKey, selector: newSelector(true, readTerm(pod.Namespace, t))})
		}
		for i := range apart.PreferredDuringSchedulingIgnoredDuringExecution {
			t := &apart.PreferredDuringSchedulingIgnoredDuringExecution[i]
			r.prefer(pod, &t.PodAffinityTerm, -int64(t.Weight))
		}
	}
}

func (r *rules) prefer(pod *corev1.Pod, t *corev1.PodAffinityTerm, weight int64) {
	r.preferred = append(r.preferred, affinityRule{
		topology: t.TopologyKey, selector: newSelector(true, readTerm(pod.Namespace, t)), weight: weight,
	})
}

// readTerm reads which pods a term is about. Without namespaces and selector of
// namespaces it is the pod's own. What does not parse selects nothing.
func readTerm(namespace string, t *corev1.PodAffinityTerm) selectorPart {
	part := selectorPart{namespaces: []string{namespace}}
	if len(t.Namespaces) > 0 || t.NamespaceSelector != nil {
		part.namespaces = slices.Compact(slices.Sorted(slices.Values(t.Namespaces)))
	}
	var err error
	if t.NamespaceSelector != nil {
		if part.among, err = metav1.LabelSelectorAsSelector(t.NamespaceSelector); err != nil {
			part.among = nil
		}
	}
	if part.labels, err = metav1.LabelSelectorAsSelector(t.LabelSelector); err != nil {
		part.labels = labels.Nothing()
	}
	return part
}

func (a podAffinity) scores(_ *cluster, p *podInfo, nodes []*nodeInfo, scores []int64) []int64 {
	from := len(scores)
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for _, n := range nodes {
		var score int64
		if p.rules != nil {
			for i := range p.rules.preferred {
				r := &p.rules.preferred[i]
				score += r.weight * int64(r.tally.at(n.domain(r.tally.topology)))
			}
		}
		for _, t := range p.kin.terms {
			score += t.worth(n.domain(t.topology), a.required)
		}
		least, most = min(least, score), max(most, score)
		scores = append(scores, score)
	}
	for i, score := range scores[from:] {
		scores[from+i] = 0
		if most > least {
			scores[from+i] = int64(scoreMax * (float64(score-least) / float64(most-least)))
		}
	}
	return scores
}
