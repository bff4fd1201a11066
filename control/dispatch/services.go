package dispatch

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// apiService is the one service that every container finds in its environment.
const apiService = "kubernetes"

// servicesOf are the keys of what a pod's containers find of services: those of
// its namespace, unless it does not want them, and the API.
func servicesOf(pod *corev1.Pod) []string {
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	var keys []string
	if links {
		keys = append(keys, store.Services.Prefix(pod.Namespace))
	}
	if !links || pod.Namespace != metav1.NamespaceDefault {
		keys = append(keys, store.Services.Prefix(metav1.NamespaceDefault)+apiService)
	}
	return keys
}

// newServices follows services. What pods refer to is all of a namespace, or one.
func newServices(s *store.Store) *contents {
	c := newContents(s, store.Services, agentv1.Content_SERVICES)
	c.listed, c.read = true, c.services
	return c
}

// services is a ServiceList of those in a namespace, or of the one that is named.
// Only what is in an environment is sent, of services that have an address.
func (c *contents) services(namespace, name string) ([]byte, error) {
	table := store.Of[*corev1.Service](c.store, store.Services)
	var found []*corev1.Service
	if name == "" {
		var err error
		if found, _, err = table.List(context.Background(), store.ListOptions{Namespace: namespace}); err != nil {
			return nil, err
		}
	} else {
		service, err := table.Get(context.Background(), namespace, name)
		switch {
		case err == nil:
			found = append(found, service)
		case !errors.Is(err, store.ErrNotFound):
			return nil, err
		}
	}
	var list corev1.ServiceList
	for _, service := range found {
		if ip := service.Spec.ClusterIP; ip == "" || ip == corev1.ClusterIPNone {
			continue
		}
		sent := corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: service.Name}, Spec: corev1.ServiceSpec{ClusterIP: service.Spec.ClusterIP}}
		for _, port := range service.Spec.Ports {
			sent.Spec.Ports = append(sent.Spec.Ports, corev1.ServicePort{Name: port.Name, Port: port.Port, Protocol: port.Protocol})
		}
		list.Items = append(list.Items, sent)
	}
	return list.Marshal()
}
