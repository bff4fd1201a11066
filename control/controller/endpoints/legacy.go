package endpoints

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
)

//nolint:staticcheck // Endpoints are deprecated, and served all the same.
type (
	endpointsObject = corev1.Endpoints
	subset          = corev1.EndpointSubset
	address         = corev1.EndpointAddress
	endpointPort    = corev1.EndpointPort
)

const (
	managedByLabel = "endpoints.kubernetes.io/managed-by"
	writtenBy      = "endpoint-controller"
	// addressMost is how many addresses one Endpoints has; the rest is cut off, and an
	// annotation says so.
	addressMost = 1000
)

// endpointsOf are a service's Endpoints as they must be, in place of those that
// there are, nil for none.
func endpointsOf(service *corev1.Service, pods []*corev1.Pod, have *endpointsObject) *endpointsObject {
	want := &endpointsObject{ObjectMeta: metav1.ObjectMeta{
		Namespace: service.Namespace, Name: service.Name,
		Labels: maps.Clone(sliceLabels(service)),
	}}
	if have != nil {
		want.Annotations = maps.Clone(have.Annotations)
	}
	for _, other := range []string{discoveryv1.LabelManagedBy, discoveryv1.LabelServiceName} {
		delete(want.Labels, other)
		if value, ok := service.Labels[other]; ok {
			want.Labels[other] = value
		}
	}
	want.Labels[managedByLabel] = writtenBy
	var full bool
	want.Subsets, full = truncate(subsetsOf(service, pods))
	delete(want.Annotations, corev1.EndpointsOverCapacity)
	if full {
		metav1.SetMetaDataAnnotation(&want.ObjectMeta, corev1.EndpointsOverCapacity, "truncated")
	}
	if have != nil && equalSubsets(have.Subsets, want.Subsets) {
		return want
	}
	delete(want.Annotations, corev1.EndpointsLastChangeTriggerTime)
	if at := lastChange(service, pods, have == nil); !at.IsZero() {
		metav1.SetMetaDataAnnotation(&want.ObjectMeta, corev1.EndpointsLastChangeTriggerTime, at.UTC().Format(time.RFC3339Nano))
	}
	return want
}

// lastChange is when a pod last became ready or ceased to be: what Endpoints are
// written for, mostly.
func lastChange(service *corev1.Service, pods []*corev1.Pod, first bool) time.Time {
	var last time.Time
	for _, pod := range pods {
		if since, _ := controller.ReadySince(pod); since.After(last) {
			last = since
		}
	}
	if first && last.IsZero() {
		return service.CreationTimestamp.Time
	}
	return last
}

// subsetsOf puts ports that the same addresses have into one subset, in an order
// that depends on nothing else.
func subsetsOf(service *corev1.Service, pods []*corev1.Pod) []subset {
	type listener struct {
		address
		ready bool
	}
	type offer struct {
		ports     []endpointPort
		listeners map[string]listener
	}
	offers := map[string]*offer{} // by port
	add := func(key string, ports []endpointPort, l listener) {
		if offers[key] == nil {
			offers[key] = &offer{ports: ports, listeners: map[string]listener{}}
		}
		offers[key].listeners[fmt.Sprint(l.IP, " ", l.TargetRef.UID, " ", l.ready)] = l
	}
	for _, pod := range pods {
		ip, ok := addressOf(service, pod)
		if !ok || controller.HasFinished(pod) || pod.DeletionTimestamp != nil && !service.Spec.PublishNotReadyAddresses {
			continue
		}
		_, ready := controller.ReadySince(pod)
		l := listener{ready: ready || service.Spec.PublishNotReadyAddresses, address: address{
			IP:        ip,
			NodeName:  &pod.Spec.NodeName,
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		}}
		if pod.Spec.Hostname != "" && pod.Spec.Subdomain == service.Name {
			l.Hostname = pod.Spec.Hostname
		}
		if len(service.Spec.Ports) == 0 && service.Spec.ClusterIP == corev1.ClusterIPNone {
			add("", nil, l)
		}
		for _, p := range portsOf(service, pod) {
			add(fmt.Sprint(*p.Name, " ", *p.Protocol, " ", *p.Port), []endpointPort{{Name: *p.Name, Port: *p.Port, Protocol: *p.Protocol, AppProtocol: p.AppProtocol}}, l)
		}
	}
	byListeners := map[string]*offer{}
	for _, key := range slices.Sorted(maps.Keys(offers)) {
		who := strings.Join(slices.Sorted(maps.Keys(offers[key].listeners)), ",")
		if same := byListeners[who]; same != nil {
			same.ports = append(same.ports, offers[key].ports...)
		} else {
			byListeners[who] = offers[key]
		}
	}
	var subsets []subset
	for _, who := range slices.Sorted(maps.Keys(byListeners)) {
		s := subset{Ports: byListeners[who].ports}
		for _, l := range byListeners[who].listeners {
			if l.ready {
				s.Addresses = append(s.Addresses, l.address)
			} else {
				s.NotReadyAddresses = append(s.NotReadyAddresses, l.address)
			}
		}
		slices.SortFunc(s.Addresses, compareAddresses)
		slices.SortFunc(s.NotReadyAddresses, compareAddresses)
		subsets = append(subsets, s)
	}
	return subsets
}

func compareAddresses(a, b address) int {
	return cmp.Or(bytes.Compare([]byte(a.IP), []byte(b.IP)), cmp.Compare(a.TargetRef.UID, b.TargetRef.UID))
}

// addressOf is a pod's address of the service's first family.
func addressOf(service *corev1.Service, pod *corev1.Pod) (string, bool) {
	if len(service.Spec.IPFamilies) == 0 {
		return pod.Status.PodIP, pod.Status.PodIP != ""
	}
	for _, ip := range pod.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil && addr.Is6() == (service.Spec.IPFamilies[0] == corev1.IPv6Protocol) {
			return addr.String(), true
		}
	}
	return "", false
}

// truncate leaves as many addresses as there may be, ready ones before others.
func truncate(subsets []subset) ([]subset, bool) {
	room, full := addressMost, false
	cut := func(addresses []address) []address {
		n := min(room, len(addresses))
		room -= n
		full = full || n < len(addresses)
		return addresses[:n]
	}
	for i := range subsets {
		subsets[i].Addresses = cut(subsets[i].Addresses)
	}
	for i := range subsets {
		subsets[i].NotReadyAddresses = cut(subsets[i].NotReadyAddresses)
	}
	return slices.DeleteFunc(subsets, func(s subset) bool { return len(s.Addresses)+len(s.NotReadyAddresses) == 0 }), full
}

func (c *Controller) writeEndpoints(ctx context.Context, have, want *endpointsObject) error {
	if have == nil {
		_, err := c.registry.Create(ctx, resource.Endpoints, want.Namespace, want, resource.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("create endpoints: %w", err)
		}
		return nil
	}
	if maps.Equal(have.Labels, want.Labels) && maps.Equal(have.Annotations, want.Annotations) && equalSubsets(have.Subsets, want.Subsets) {
		return nil
	}
	return controller.Change(ctx, c.registry, resource.Endpoints, have, "", func(now *endpointsObject) bool {
		now.Labels, now.Annotations, now.Subsets = want.Labels, want.Annotations, want.Subsets
		return true
	})
}

func equalSubsets(a, b []subset) bool {
	return slices.EqualFunc(a, b, func(a, b subset) bool {
		return slices.EqualFunc(a.Ports, b.Ports, equalPorts) && slices.EqualFunc(a.Addresses, b.Addresses, equalAddresses) &&
			slices.EqualFunc(a.NotReadyAddresses, b.NotReadyAddresses, equalAddresses)
	})
}

func equalPorts(a, b endpointPort) bool {
	return a.Name == b.Name && a.Port == b.Port && a.Protocol == b.Protocol && ptr.Equal(a.AppProtocol, b.AppProtocol)
}

func equalAddresses(a, b address) bool {
	return a.IP == b.IP && a.Hostname == b.Hostname && ptr.Equal(a.NodeName, b.NodeName) && ptr.Equal(a.TargetRef, b.TargetRef)
}
