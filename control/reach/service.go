package reach

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/musterhq/muster/control/store"
)

// Endpoint is one place where a service is.
type Endpoint struct {
	// Pod is nil for what is outside the cluster; Host says then where it is.
	Pod  *corev1.Pod
	Host string
	Port int32
}

// Endpoint picks one of a service's ready endpoints at random. port is the
// number or the name of a port of the service; "" is the port without a name.
//
// Endpoint slices say where a service is. Without any, the service's selector
// does: who is asked for a webhook must not wait for a controller.
func (d *Dialer) Endpoint(ctx context.Context, namespace, name, port string) (Endpoint, error) {
	if err := ctx.Err(); err != nil {
		return Endpoint{}, err
	}
	service, err := store.Of[*corev1.Service](d.store, store.Services).Get(ctx, namespace, name)
	if errors.Is(err, store.ErrNotFound) {
		return Endpoint{}, fmt.Errorf("service %s/%s: %w", namespace, name, ErrNoService)
	}
	if err != nil {
		return Endpoint{}, err
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		number, err := strconv.ParseInt(port, 10, 32)
		if err != nil {
			return Endpoint{}, fmt.Errorf("service %s/%s, port %q: %w", namespace, name, port, ErrNoPort)
		}
		return Endpoint{Host: service.Spec.ExternalName, Port: int32(number)}, nil
	}
	wanted := findPort(service, port)
	if wanted == nil {
		return Endpoint{}, fmt.Errorf("service %s/%s, port %q: %w", namespace, name, port, ErrNoPort)
	}
	found, err := d.endpoints(ctx, service, wanted)
	if err != nil {
		return Endpoint{}, err
	}
	if len(found) == 0 {
		return Endpoint{}, fmt.Errorf("service %s/%s: %w", namespace, name, ErrNoEndpoints)
	}
	return found[rand.IntN(len(found))], nil
}

func findPort(service *corev1.Service, port string) *corev1.ServicePort {
	number, err := strconv.ParseInt(port, 10, 32)
	for i := range service.Spec.Ports {
		if p := &service.Spec.Ports[i]; err == nil && int64(p.Port) == number || err != nil && p.Name == port {
			return p
		}
	}
	return nil
}

func (d *Dialer) endpoints(ctx context.Context, service *corev1.Service, port *corev1.ServicePort) ([]Endpoint, error) {
	slices, _, err := store.Of[*discoveryv1.EndpointSlice](d.store, store.EndpointSlices).List(ctx, store.ListOptions{
		Namespace: service.Namespace, Labels: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service.Name}),
	})
	if err != nil {
		return nil, err
	}
	if len(slices) > 0 {
		return d.inSlices(ctx, slices, port.Name)
	}
	if len(service.Spec.Selector) == 0 {
		return nil, nil
	}
	pods, _, err := store.Of[*corev1.Pod](d.store, store.Pods).List(ctx, store.ListOptions{
		Namespace: service.Namespace, Labels: labels.SelectorFromSet(service.Spec.Selector),
	})
	if err != nil {
		return nil, err
	}
	var found []Endpoint
	for _, pod := range pods {
		number, ok := targetPort(pod, port)
		if ok && (serves(pod) || service.Spec.PublishNotReadyAddresses && pod.Status.PodIP != "") {
			found = append(found, Endpoint{Pod: pod, Port: number})
		}
	}
	return found, nil
}

// inSlices are the ready endpoints with a port of that name.
func (d *Dialer) inSlices(ctx context.Context, slices []*discoveryv1.EndpointSlice, port string) ([]Endpoint, error) {
	var found []Endpoint
	for _, slice := range slices {
		for _, p := range slice.Ports {
			if p.Port == nil || p.Name == nil && port != "" || p.Name != nil && *p.Name != port {
				continue
			}
			for _, e := range slice.Endpoints {
				if len(e.Addresses) == 0 || e.Conditions.Ready != nil && !*e.Conditions.Ready {
					continue
				}
				endpoint := Endpoint{Host: e.Addresses[0], Port: *p.Port}
				if e.TargetRef != nil && e.TargetRef.Kind == "Pod" {
					pod, err := store.Of[*corev1.Pod](d.store, store.Pods).Get(ctx, slice.Namespace, e.TargetRef.Name)
					if errors.Is(err, store.ErrNotFound) {
						continue
					}
					if err != nil {
						return nil, err
					}
					if !hasAddress(pod, endpoint.Host) {
						continue // who wrote the slice claims a pod that is elsewhere
					}
					endpoint.Pod = pod
				}
				found = append(found, endpoint)
			}
		}
	}
	return found, nil
}

func hasAddress(pod *corev1.Pod, address string) bool {
	for _, ip := range pod.Status.PodIPs {
		if ip.IP == address {
			return true
		}
	}
	return pod.Status.PodIP == address
}

// serves says whether a pod takes a service's connections.
func serves(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil || pod.Spec.NodeName == "" {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// targetPort is where a pod takes what is sent to a port of the service.
func targetPort(pod *corev1.Pod, port *corev1.ServicePort) (int32, bool) {
	if name := port.TargetPort.StrVal; name != "" {
		for _, c := range pod.Spec.Containers {
			for _, p := range c.Ports {
				if p.Name == name && (p.Protocol == port.Protocol || p.Protocol == "" || port.Protocol == "") {
					return p.ContainerPort, true
				}
			}
		}
		return 0, false
	}
	if number := port.TargetPort.IntVal; number != 0 {
		return number, true
	}
	return port.Port, true
}
