package endpoints

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/store"
)

const (
	// slicedBy marks slices that are derived from pods, as upstream's are.
	slicedBy = "endpointslice-controller.k8s.io"
	// sliceMost is how many endpoints are in one of them.
	sliceMost = 100
)

// planSlices works out the slices of a service from the pods that it selects. zone
// says where a node is, if there is such a node. Shares are zones' parts of the cores,
// for a service that wants to be spread over zones.
func planSlices(service *corev1.Service, pods []*corev1.Pod, zone func(node string) (string, bool), shares map[string]float64, have []*discoveryv1.EndpointSlice) plan {
	k := packing{
		most:    sliceMost,
		labels:  sliceLabels(service),
		owner:   *metav1.NewControllerRef(service, store.Services.Kind),
		prefix:  service,
		trigger: service.CreationTimestamp.Time,
		empty:   true,
		types:   addressTypes(service),
		spread:  wantsZones(service),
		shares:  shares,
	}
	for _, pod := range pods {
		if controller.HasFinished(pod) || pod.Status.PodIP == "" && len(pod.Status.PodIPs) == 0 {
			continue
		}
		where, there := zone(pod.Spec.NodeName)
		if !there && !service.Spec.PublishNotReadyAddresses {
			continue // what is said when its node comes
		}
		ports := portsOf(service, pod)
		since, _ := controller.ReadySince(pod)
		for _, typ := range k.types {
			if e := endpointOf(service, pod, where, typ); len(e.Addresses) > 0 {
				k.want(typ, ports, e, since)
			}
		}
	}
	return k.pack(have)
}

func sliceLabels(service *corev1.Service) map[string]string {
	labels := maps.Clone(service.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	delete(labels, corev1.IsHeadlessService)
	if service.Spec.ClusterIP == "" || service.Spec.ClusterIP == corev1.ClusterIPNone {
		labels[corev1.IsHeadlessService] = ""
	}
	labels[discoveryv1.LabelServiceName] = service.Name
	labels[discoveryv1.LabelManagedBy] = slicedBy
	return labels
}

func addressTypes(service *corev1.Service) []discoveryv1.AddressType {
	var types []discoveryv1.AddressType
	for _, family := range service.Spec.IPFamilies {
		types = append(types, discoveryv1.AddressType(family))
	}
	return types
}

// endpointOf is a pod as one of a service's endpoints.
func endpointOf(service *corev1.Service, pod *corev1.Pod, zone string, typ discoveryv1.AddressType) discoveryv1.Endpoint {
	_, serving := controller.ReadySince(pod)
	terminating := pod.DeletionTimestamp != nil
	ready := service.Spec.PublishNotReadyAddresses || serving && !terminating
	e := discoveryv1.Endpoint{
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	for _, ip := range pod.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil && addr.Is6() == (typ == discoveryv1.AddressTypeIPv6) {
			e.Addresses = append(e.Addresses, addr.String())
		}
	}
	if pod.Spec.NodeName != "" {
		e.NodeName = &pod.Spec.NodeName
	}
	if zone != "" {
		e.Zone = &zone
	}
	if pod.Spec.Hostname != "" && pod.Spec.Subdomain == service.Name {
		e.Hostname = &pod.Spec.Hostname
	}
	if ready && !wantsZones(service) {
		e.Hints = hints(ptr.Deref(service.Spec.TrafficDistribution, ""), e)
	}
	return e
}

// hints are for whom an endpoint is near, if a service wants its traffic kept near.
func hints(distribution string, e discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	var h discoveryv1.EndpointHints
	switch distribution {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		if e.NodeName != nil {
			h.ForNodes = []discoveryv1.ForNode{{Name: *e.NodeName}}
		}
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
	default:
		return nil
	}
	if e.Zone != nil {
		h.ForZones = []discoveryv1.ForZone{{Name: *e.Zone}}
	}
	if h.ForZones == nil && h.ForNodes == nil {
		return nil
	}
	return &h
}

// plan is what brings the slices of a service to what they must say.
type plan struct {
	create, update, remove []*discoveryv1.EndpointSlice
	// unspread says why endpoints are not spread over zones, spread that they are and were
	// not before.
	unspread []string
	spread   []string
}

// packing puts endpoints into slices: all in one have the same ports and kind of
// address.
type packing struct {
	most        int
	labels      map[string]string
	annotations map[string]string
	owner       metav1.OwnerReference
	prefix      metav1.Object
	// trigger is when whatever asks for a new slice came to be.
	trigger time.Time
	// empty asks for a slice for each of types that would have none.
	empty bool
	types []discoveryv1.AddressType
	// spread asks for hints that spread endpoints over zones by their shares.
	spread bool
	shares map[string]float64

	groups map[string]*group
}

type group struct {
	typ       discoveryv1.AddressType
	ports     []discoveryv1.EndpointPort
	endpoints map[string]wanted // by identity
}

type wanted struct {
	discoveryv1.Endpoint
	since time.Time // when it became as it is, if that is known
}

func (k *packing) want(typ discoveryv1.AddressType, ports []discoveryv1.EndpointPort, e discoveryv1.Endpoint, since time.Time) {
	key := groupKey(typ, ports)
	if k.groups == nil {
		k.groups = map[string]*group{}
	}
	if k.groups[key] == nil {
		k.groups[key] = &group{typ: typ, ports: ports, endpoints: map[string]wanted{}}
	}
	k.groups[key].endpoints[identity(e)] = wanted{e, since}
}

func groupKey(typ discoveryv1.AddressType, ports []discoveryv1.EndpointPort) string {
	parts := make([]string, 0, len(ports)+1)
	for _, p := range ports {
		parts = append(parts, fmt.Sprintf("%q %s %d %q", ptr.Deref(p.Name, ""), ptr.Deref(p.Protocol, ""), ptr.Deref(p.Port, 0), ptr.Deref(p.AppProtocol, "")))
	}
	slices.Sort(parts)
	return string(typ) + " " + strings.Join(parts, ",")
}

// identity is what makes two endpoints the same one, changed perhaps.
func identity(e discoveryv1.Endpoint) string {
	target := ""
	if e.TargetRef != nil {
		target = e.TargetRef.Namespace + "/" + e.TargetRef.Name
	}
	return strings.Join(e.Addresses, ",") + " " + ptr.Deref(e.Hostname, "") + " " + target
}

// pack keeps endpoints in the slices that they are in, so that as few slices as
// possible are written, and each reader is told as little as possible.
func (k *packing) pack(have []*discoveryv1.EndpointSlice) plan {
	slices.SortFunc(have, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	var p plan
	left := map[discoveryv1.AddressType]bool{} // kinds of addresses with a slice
	old := map[string][]*discoveryv1.EndpointSlice{}
	for _, slice := range have {
		key := groupKey(slice.AddressType, slice.Ports)
		if k.groups[key] != nil && k.owns(slice) {
			old[key] = append(old[key], slice)
		} else {
			p.remove = append(p.remove, slice)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(k.groups)) {
		left[k.groups[key].typ] = true
		if k.spread {
			p.hintZones(k.groups[key], old[key], k.shares)
		}
		k.packGroup(&p, k.groups[key], old[key])
	}
	if k.empty {
		for _, typ := range k.types {
			if !left[typ] {
				k.placeholder(&p, typ)
			}
		}
	}
	k.recycle(&p)
	return p
}

func (k *packing) owns(slice *discoveryv1.EndpointSlice) bool {
	return slices.ContainsFunc(slice.OwnerReferences, func(ref metav1.OwnerReference) bool { return ref.UID == k.owner.UID })
}

// packGroup consumes g's endpoints.
func (k *packing) packGroup(p *plan, g *group, have []*discoveryv1.EndpointSlice) {
	var changed, same []*discoveryv1.EndpointSlice
	for _, slice := range have {
		now := slice.DeepCopy()
		now.Endpoints = nil
		trigger := time.Time{}
		for _, e := range slice.Endpoints {
			id := identity(e)
			if w, ok := g.endpoints[id]; ok {
				delete(g.endpoints, id)
				now.Endpoints = append(now.Endpoints, w.Endpoint)
				if !equalEndpoints(&e, &w.Endpoint) {
					trigger = earlier(trigger, w.since)
				}
			}
		}
		k.setMetadata(now, trigger)
		switch {
		case len(now.Endpoints) == 0:
			p.remove = append(p.remove, slice)
		case k.differs(slice, now):
			changed = append(changed, now)
		default:
			same = append(same, slice)
		}
	}
	rest := slices.Sorted(maps.Keys(g.endpoints))
	fill := func(slice *discoveryv1.EndpointSlice) {
		trigger := time.Time{}
		for len(rest) > 0 && len(slice.Endpoints) < k.most {
			w := g.endpoints[rest[0]]
			slice.Endpoints = append(slice.Endpoints, w.Endpoint)
			trigger = earlier(trigger, w.since)
			rest = rest[1:]
		}
		if at, err := time.Parse(time.RFC3339Nano, slice.Annotations[corev1.EndpointsLastChangeTriggerTime]); err == nil {
			trigger = earlier(trigger, at)
		}
		k.setMetadata(slice, trigger)
	}
	// Those that are written anyway, fullest first; then one with room for all; then new ones.
	slices.SortStableFunc(changed, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(len(b.Endpoints), len(a.Endpoints)) })
	for _, slice := range changed {
		if len(rest) > 0 {
			fill(slice)
		}
	}
	p.update = append(p.update, changed...)
	for len(rest) > 0 {
		var best *discoveryv1.EndpointSlice
		for _, slice := range same {
			if len(slice.Endpoints)+len(rest) <= k.most && (best == nil || len(slice.Endpoints) > len(best.Endpoints)) {
				best = slice
			}
		}
		if best != nil {
			now := best.DeepCopy()
			delete(now.Annotations, corev1.EndpointsLastChangeTriggerTime)
			fill(now)
			p.update = append(p.update, now)
			break
		}
		slice := k.newSlice(g.typ, g.ports)
		fill(slice)
		p.create = append(p.create, slice)
	}
}

// earlier is the earlier of two times, of which zero ones are not known.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// placeholder keeps a slice without endpoints, so that readers know that there are
// none and not that nobody has looked yet.
func (k *packing) placeholder(p *plan, typ discoveryv1.AddressType) {
	for i, slice := range p.remove {
		if slice.AddressType != typ || !k.owns(slice) || len(slice.Endpoints)+len(slice.Ports) > 0 {
			continue
		}
		p.remove = slices.Delete(p.remove, i, i+1)
		now := slice.DeepCopy()
		k.setMetadata(now, time.Time{})
		if k.differs(slice, now) {
			p.update = append(p.update, now)
		}
		return
	}
	slice := k.newSlice(typ, nil)
	k.setMetadata(slice, k.trigger)
	p.create = append(p.create, slice)
}

// recycle turns slices that would go into those that would come.
func (k *packing) recycle(p *plan) {
	var create []*discoveryv1.EndpointSlice
	for _, slice := range p.create {
		at := slices.IndexFunc(p.remove, func(gone *discoveryv1.EndpointSlice) bool {
			return gone.AddressType == slice.AddressType && k.owns(gone)
		})
		if at < 0 {
			create = append(create, slice)
			continue
		}
		slice.ObjectMeta = metav1.ObjectMeta{
			Namespace: slice.Namespace, Name: p.remove[at].Name, UID: p.remove[at].UID,
			Labels: slice.Labels, Annotations: slice.Annotations, OwnerReferences: slice.OwnerReferences,
		}
		p.update = append(p.update, slice)
		p.remove = slices.Delete(p.remove, at, at+1)
	}
	p.create = create
}

func (k *packing) newSlice(typ discoveryv1.AddressType, ports []discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       k.prefix.GetNamespace(),
			GenerateName:    k.prefix.GetName() + "-",
			OwnerReferences: []metav1.OwnerReference{k.owner},
		},
		AddressType: typ,
		Ports:       ports,
		Endpoints:   []discoveryv1.Endpoint{},
	}
}

// setMetadata gives a slice its labels and annotations, among them the time of what
// made it change, from which proxies count how long they lag.
func (k *packing) setMetadata(slice *discoveryv1.EndpointSlice, trigger time.Time) {
	slice.Labels = maps.Clone(k.labels)
	slice.Annotations = maps.Clone(k.annotations)
	if trigger.IsZero() {
		return
	}
	if slice.Annotations == nil {
		slice.Annotations = map[string]string{}
	}
	slice.Annotations[corev1.EndpointsLastChangeTriggerTime] = trigger.UTC().Format(time.RFC3339Nano)
}

// differs says that a slice is worth writing.
func (k *packing) differs(slice, now *discoveryv1.EndpointSlice) bool {
	has := maps.Clone(slice.Annotations)
	delete(has, corev1.EndpointsLastChangeTriggerTime)
	return !sameLabels(slice.Labels, now.Labels) || !sameLabels(has, k.annotations) ||
		!slices.EqualFunc(slice.Endpoints, now.Endpoints, func(a, b discoveryv1.Endpoint) bool { return equalEndpoints(&a, &b) })
}

// equalEndpoints compares what slices say of endpoints. It is asked for every endpoint
// of a service whenever one changes, so it does without reflection.
func equalEndpoints(a, b *discoveryv1.Endpoint) bool {
	return slices.Equal(a.Addresses, b.Addresses) && ptr.Equal(a.Hostname, b.Hostname) &&
		ptr.Equal(a.NodeName, b.NodeName) && ptr.Equal(a.Zone, b.Zone) &&
		ptr.Equal(a.Conditions.Ready, b.Conditions.Ready) && ptr.Equal(a.Conditions.Serving, b.Conditions.Serving) &&
		ptr.Equal(a.Conditions.Terminating, b.Conditions.Terminating) && ptr.Equal(a.TargetRef, b.TargetRef) &&
		maps.Equal(a.DeprecatedTopology, b.DeprecatedTopology) && equalHints(a.Hints, b.Hints)
}

func equalHints(a, b *discoveryv1.EndpointHints) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.ForZones, b.ForZones) && slices.Equal(a.ForNodes, b.ForNodes)
}

func sameLabels(a, b map[string]string) bool { return maps.Equal(a, b) }
