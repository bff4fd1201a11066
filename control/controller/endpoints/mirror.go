package endpoints

import (
	"fmt"
	"maps"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
)

// mirroredBy marks slices that say what Endpoints say, as upstream's do.
const mirroredBy = "endpointslicemirroring-controller.k8s.io"

// mirrored says that Endpoints are for readers of slices as well.
func mirrored(e *endpointsObject) bool {
	_, elects := e.Annotations[leaderAnnotation]
	return e.Labels[discoveryv1.LabelSkipMirror] != "true" && !elects
}

// mirror plans the slices that say what e says, and reports what cannot be said.
func (c *Controller) mirror(e *endpointsObject, have []*discoveryv1.EndpointSlice) plan {
	p, invalid, skipped := planMirror(e, have)
	if invalid > 0 {
		c.events.Event(store.Endpoints, e, corev1.EventTypeWarning, "InvalidIPAddress",
			fmt.Sprintf("Skipped %d invalid IP addresses when mirroring to EndpointSlices", invalid))
	}
	if skipped > 0 {
		c.events.Event(store.Endpoints, e, corev1.EventTypeWarning, "TooManyAddressesToMirror",
			fmt.Sprintf("A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", addressMost, skipped))
	}
	return p
}

// planMirror also counts addresses that are none, and those too many for a subset.
func planMirror(e *endpointsObject, have []*discoveryv1.EndpointSlice) (p plan, invalid, skipped int) {
	k := packing{
		most:        addressMost,
		labels:      maps.Clone(e.Labels),
		annotations: maps.Clone(e.Annotations),
		owner:       *metav1.NewControllerRef(e, store.Endpoints.Kind),
		prefix:      e,
	}
	if k.labels == nil {
		k.labels = map[string]string{}
	}
	k.labels[discoveryv1.LabelServiceName] = e.Name
	k.labels[discoveryv1.LabelManagedBy] = mirroredBy
	delete(k.annotations, corev1.EndpointsLastChangeTriggerTime)
	delete(k.annotations, corev1.LastAppliedConfigAnnotation)
	for i := range e.Subsets {
		s := &e.Subsets[i]
		var ports []discoveryv1.EndpointPort
		for j := range s.Ports {
			port := &s.Ports[j]
			ports = append(ports, discoveryv1.EndpointPort{Name: &port.Name, Port: &port.Port, Protocol: &port.Protocol, AppProtocol: port.AppProtocol})
		}
		said := 0
		say := func(addresses []address, ready bool) {
			for j := range addresses {
				a := &addresses[j]
				addr, err := netip.ParseAddr(a.IP)
				switch {
				case err != nil:
					invalid++
					continue
				case said == addressMost:
					skipped++
					continue
				}
				said++
				out := discoveryv1.Endpoint{
					Addresses:  []string{addr.String()},
					Conditions: discoveryv1.EndpointConditions{Ready: &ready},
					TargetRef:  a.TargetRef,
					NodeName:   a.NodeName,
				}
				if a.Hostname != "" {
					out.Hostname = &a.Hostname
				}
				typ := discoveryv1.AddressTypeIPv4
				if addr.Is6() && !addr.Is4In6() {
					typ = discoveryv1.AddressTypeIPv6
				}
				k.want(typ, ports, out, time.Time{})
			}
		}
		say(s.Addresses, true)
		say(s.NotReadyAddresses, false)
	}
	return k.pack(have), invalid, skipped
}
