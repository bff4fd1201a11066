package endpoints

import (
	"fmt"
	"maps"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
)

// overload is by how much more than its share of the traffic an endpoint may get for being
// kept to its zone, as upstream allows it.
const overload = 0.2

// What upstream's events say when there are no hints.
const (
	noShares     = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"
	tooFewEnds   = "Insufficient number of endpoints"
	tooUneven    = "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold"
	noZone       = "One or more endpoints do not have a zone specified"
	hintsEnabled = "Topology Aware Hints has been enabled, adding hints"
)

// wantsZones says that a service asks for hints that weigh zones by their cores.
func wantsZones(service *corev1.Service) bool {
	mode, ok := service.Annotations[corev1.AnnotationTopologyMode]
	if !ok {
		mode = service.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	}
	return mode == "Auto" || mode == "auto"
}

// sharesOf is how much of the ready nodes' cores each zone has; nil if a node does not say where
// it is or what it has, or if there are not two zones.
func sharesOf(nodes []*corev1.Node) map[string]float64 {
	cores, total := map[string]float64{}, 0.0
	for _, node := range nodes {
		_, control := node.Labels["node-role.kubernetes.io/control-plane"]
		_, master := node.Labels["node-role.kubernetes.io/master"]
		if control || master || !isReady(node) {
			continue
		}
		zone, has := node.Labels[corev1.LabelTopologyZone], node.Status.Allocatable.Cpu().MilliValue()
		if zone == "" || has == 0 {
			return nil
		}
		cores[zone] += float64(has)
		total += float64(has)
	}
	if len(cores) < 2 {
		return nil
	}
	for zone := range cores {
		cores[zone] /= total
	}
	return cores
}

// sameShare says that a node's part of its zone's cores is what it was.
func sameShare(old, now *corev1.Node) bool {
	if old == nil || now == nil {
		return old == now
	}
	return isReady(old) == isReady(now) && maps.Equal(old.Labels, now.Labels) && old.Status.Allocatable.Cpu().Equal(*now.Status.Allocatable.Cpu())
}

func isReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// spread says for which zone each ready endpoint is, so that zones have endpoints as they have
// cores; or why not, in upstream's words. Endpoints have a zone of their own, and may
// have been for one before: as long as that overloads nobody they stay.
func spread(own, before map[string]string, shares map[string]float64) (zones map[string]string, why string) {
	switch {
	case shares == nil:
		return nil, noShares
	case len(own) < len(shares):
		return nil, fmt.Sprintf("%s (%d endpoints, %d zones)", tooFewEnds, len(own), len(shares))
	}
	least, left := map[string]int{}, len(own)
	for zone, share := range shares {
		least[zone] = int(math.Ceil(share * float64(len(own)) / (1 + overload)))
		left -= least[zone]
	}
	if left < 0 {
		return nil, fmt.Sprintf("%s (%d endpoints, %d zones)", tooUneven, len(own), len(shares))
	}
	for _, zone := range own {
		if zone == "" {
			return nil, noZone
		}
	}
	// As it is, with new ones for their own zones.
	zones = map[string]string{}
	for id, zone := range own {
		if was, ok := before[id]; ok {
			zone = was
		}
		zones[id] = zone
	}
	if balanced(zones, least) {
		return zones, ""
	}
	// Everybody for his own zone, as far as that zone needs them.
	target, has := maps.Clone(least), map[string]int{}
	for range left {
		target[most(shares, func(zone string) float64 { return shares[zone]*float64(len(own)) - float64(target[zone]) })]++
	}
	for _, zone := range own {
		has[zone]++
	}
	zones = maps.Clone(own)
	for _, id := range slices.Sorted(maps.Keys(own)) {
		from := own[id]
		if has[from] <= target[from] {
			continue
		}
		to := most(shares, func(zone string) float64 { return float64(target[zone] - has[zone]) })
		zones[id] = to
		has[from]--
		has[to]++
	}
	return zones, ""
}

// balanced says that each zone with cores has its least, and that nobody is for another zone.
func balanced(zones map[string]string, least map[string]int) bool {
	has := map[string]int{}
	for _, zone := range zones {
		if _, ok := least[zone]; !ok {
			return false
		}
		has[zone]++
	}
	for zone, minimum := range least {
		if has[zone] < minimum {
			return false
		}
	}
	return true
}

// most is the zone with most of something, the first of several.
func most(shares map[string]float64, of func(zone string) float64) (found string) {
	for _, zone := range slices.Sorted(maps.Keys(shares)) {
		if found == "" || of(zone) > of(found) {
			found = zone
		}
	}
	return found
}

// hintZones gives the endpoints of a group hints for zones, or says why it can't.
func (p *plan) hintZones(g *group, have []*discoveryv1.EndpointSlice, shares map[string]float64) {
	own, before := map[string]string{}, map[string]string{}
	for id, w := range g.endpoints {
		if ptr.Deref(w.Conditions.Ready, false) {
			own[id] = ptr.Deref(w.Zone, "")
		}
	}
	for _, slice := range have {
		for _, e := range slice.Endpoints {
			if e.Hints != nil && len(e.Hints.ForZones) == 1 {
				before[identity(e)] = e.Hints.ForZones[0].Name
			}
		}
	}
	zones, why := spread(own, before, shares)
	for id, zone := range zones {
		w := g.endpoints[id]
		w.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zone}}}
		g.endpoints[id] = w
	}
	switch {
	case why != "":
		p.unspread = append(p.unspread, fmt.Sprintf("%s, addressType: %s", why, g.typ))
	case len(before) == 0:
		p.spread = append(p.spread, fmt.Sprintf("%s, addressType: %s", hintsEnabled, g.typ))
	}
}
