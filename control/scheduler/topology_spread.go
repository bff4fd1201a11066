package scheduler

import (
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
)

// topologySpread refuses nodes on which the pod would make the pods that a
// constraint selects lie too unevenly over the domains, and prefers those in
// domains with fewer of them.
type topologySpread struct{}

func (topologySpread) name() string { return "PodTopologySpread" }

func (topologySpread) applies(p *podInfo) bool { return p.rules != nil && len(p.rules.spread) > 0 }

func (topologySpread) tells(p *podInfo) bool {
	return len(p.pod.Spec.TopologySpreadConstraints) == 0 || len(p.rules.soft) > 0
}

func (topologySpread) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	for i := range p.rules.spread {
		r := &p.rules.spread[i]
		t := r.tally
		d := n.domain(t.topology)
		if d == 0 {
			return append(reasons, "node(s) didn't match pod topology spread constraints (missing required label)")
		}
		least := t.least
		if t.domains < int(r.minDomains) {
			least = 0
		}
		if t.at(d)+r.self-least > r.maxSkew {
			return append(reasons, "node(s) didn't match pod topology spread constraints")
		}
	}
	return reasons
}

// spreadRule is a constraint, read.
type spreadRule struct {
	topology   string
	maxSkew    int32
	minDomains int32
	self       int32 // 1 if it selects the pod itself
	selector   selector
	scope      *scopeRule // nil: every node with the topology's label
	// once looked up:
	tally   *tally
	domains *topology // of soft rules, whose tallies of hosts are by node
}

// key tells rules apart that filters could treat differently.
func (r *spreadRule) key(b *strings.Builder) {
	b.WriteString("\x00T")
	b.WriteString(r.selector.key)
	b.WriteString(r.topology)
	for _, v := range [...]int32{r.maxSkew, r.minDomains, r.self} {
		b.WriteByte(',')
		b.WriteString(strconv.Itoa(int(v)))
	}
	if r.scope != nil {
		b.WriteString(r.scope.key)
	}
}

// readSpread reads the constraints of one kind, which select pods by themselves, or
// all alike if all is given. What does not parse selects nothing; validation refuses
// such pods.
func readSpread(p *podInfo, constraints []corev1.TopologySpreadConstraint, action corev1.UnsatisfiableConstraintAction, all labels.Selector) []spreadRule {
	var keys []string
	for i := range constraints {
		if constraints[i].WhenUnsatisfiable == action {
			keys = append(keys, constraints[i].TopologyKey)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	// Made once for all: a rule says which labels all of them ask for.
	scopes := map[[2]bool]*scopeRule{}
	var rules []spreadRule
	for i := range constraints {
		c := &constraints[i]
		if c.WhenUnsatisfiable != action {
			continue
		}
		honors := [2]bool{
			ptr.Deref(c.NodeAffinityPolicy, corev1.NodeInclusionPolicyHonor) == corev1.NodeInclusionPolicyHonor,
			ptr.Deref(c.NodeTaintsPolicy, corev1.NodeInclusionPolicyIgnore) == corev1.NodeInclusionPolicyHonor,
		}
		scope, made := scopes[honors]
		if !made {
			scope = newScopeRule(p, keys, honors[0], honors[1])
			scopes[honors] = scope
		}
		selects, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
		if err != nil {
			selects = labels.Nothing()
		}
		selects = withLabelKeys(selects, c.MatchLabelKeys, p.pod.Labels)
		if all != nil {
			selects = all
		}
		r := spreadRule{
			topology: c.TopologyKey, maxSkew: c.MaxSkew, minDomains: ptr.Deref(c.MinDomains, 1),
			selector: spreadSelector(p.pod.Namespace, selects), scope: scope,
		}
		if selects.Matches(labels.Set(p.pod.Labels)) {
			r.self = 1
		}
		rules = append(rules, r)
	}
	return rules
}

// spreadSelector counts no pods on their way out; and none at all if it is
// empty, as upstream, which takes that for a mistake.
func spreadSelector(namespace string, selects labels.Selector) selector {
	if selects.Empty() {
		selects = labels.Nothing()
	}
	return newSelector(false, selectorPart{namespaces: []string{namespace}, labels: selects})
}

// withLabelKeys narrows a selector to pods whose labels have the pod's values
// under keys. Admission has done it for pods made here.
func withLabelKeys(selects labels.Selector, keys []string, podLabels map[string]string) labels.Selector {
	if _, selectable := selects.Requirements(); !selectable {
		return selects
	}
	own := labels.Set{}
	for _, key := range keys {
		if v, ok := podLabels[key]; ok {
			own[key] = v
		}
	}
	if len(own) == 0 {
		return selects
	}
	narrow, _ := labels.SelectorFromSet(own).Requirements()
	return selects.Add(narrow...)
}

// newScopeRule is nil when all nodes with the label of a rule's own topology count.
func newScopeRule(p *podInfo, keys []string, affinity, taints bool) *scopeRule {
	s := &scopeRule{}
	var b strings.Builder
	if len(keys) > 1 {
		s.keys = keys
		b.WriteString(strings.Join(keys, ","))
	}
	if affinity && p.chooses() {
		s.required = &p.required
		b.WriteByte(0)
		nodeChoiceKey(p.pod, &b)
	}
	if taints {
		s.taints, s.tolerations = true, p.pod.Spec.Tolerations
		b.WriteByte(1)
		tolerationsKey(p.pod, &b)
	}
	if b.Len() == 0 {
		return nil
	}
	s.key = short(b.String()) // it is part of each rule's key
	return s
}

// prefers reads how the pod is better spread: by its constraints, or by the
// default ones. All says that nodes must have the labels of all topologies.
func (c *cluster) prefers(p *podInfo) (rules []spreadRule, all bool) {
	if len(p.pod.Spec.TopologySpreadConstraints) > 0 {
		return p.rules.soft, true
	}
	return c.defaults(p), !p.profile.spread.system
}

// scores counts, for each candidate, the pods in its domains, in upstream's
// weights: the more domains there are, the more one of their pods counts.
func (topologySpread) scores(c *cluster, p *podInfo, nodes []*nodeInfo, scores []int64) []int64 {
	rules, all := c.prefers(p)
	from := len(scores)
	scores = append(scores, make([]int64, len(nodes))...)
	into := scores[from:]
	if len(rules) == 0 {
		return scores
	}
	const ignored = -1
	weights := make([]float64, len(rules))
	size := len(nodes)
	if all {
		for i, n := range nodes {
			for r := range rules {
				if n.domain(rules[r].domains) == 0 {
					into[i] = ignored
					size--
					break
				}
			}
		}
	}
	for r := range rules {
		domains := size
		if rules[r].topology != corev1.LabelHostname {
			domains = 0
			c.stamp++
			for i, n := range nodes {
				d := n.domain(rules[r].domains)
				for len(c.seen) <= int(d) {
					c.seen = append(c.seen, 0)
				}
				if into[i] != ignored && c.seen[d] != c.stamp {
					c.seen[d] = c.stamp
					domains++
				}
			}
		}
		weights[r] = math.Log(float64(domains + 2))
	}
	least, most := int64(math.MaxInt64), int64(0)
	for i, n := range nodes {
		if into[i] == ignored {
			continue
		}
		var score float64
		for r := range rules {
			rule := &rules[r]
			if n.domain(rule.domains) == 0 {
				continue
			}
			count := rule.tally.at(n.domain(rule.tally.topology))
			score += float64(count)*weights[r] + float64(rule.maxSkew-1)
		}
		into[i] = int64(math.Round(score))
		least, most = min(least, into[i]), max(most, into[i])
	}
	for i, score := range into {
		switch {
		case score == ignored:
			into[i] = 0
		case most == 0:
			into[i] = scoreMax
		default:
			into[i] = scoreMax * (most + least - score) / most
		}
	}
	return scores
}

// lookUp finds the tally that a rule is decided by.
func (r *spreadRule) lookUp(x *index, hard bool) {
	r.domains = x.topology(r.topology)
	if !hard && r.topology == corev1.LabelHostname {
		// Upstream scores hosts by the pods on the node itself, whatever else is called so.
		r.tally = x.tallyOf(r.selector, "", nil, false)
		return
	}
	r.tally = x.tallyOf(r.selector, r.topology, r.scope, hard)
}
