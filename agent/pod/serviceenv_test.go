package pod

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/agent/runtime"
)

// Clients in pods find the API by these variables, and old images everything else.
func TestContainersFindServicesInTheirEnvironment(t *testing.T) {
	contents := &told{services: []corev1.Service{
		{Spec: corev1.ServiceSpec{ClusterIP: "10.0.0.1", Ports: []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP}}}},
		{Spec: corev1.ServiceSpec{ClusterIP: "fd00::2", Ports: []corev1.ServicePort{{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}, {Name: "over-tcp", Port: 53}}}},
	}}
	contents.services[0].Name, contents.services[1].Name = "kubernetes", "name-server"
	api := []runtime.Env{
		{Name: "KUBERNETES_SERVICE_HOST", Value: "10.0.0.1"}, {Name: "KUBERNETES_SERVICE_PORT", Value: "443"}, {Name: "KUBERNETES_SERVICE_PORT_HTTPS", Value: "443"},
		{Name: "KUBERNETES_PORT", Value: "tcp://10.0.0.1:443"}, {Name: "KUBERNETES_PORT_443_TCP", Value: "tcp://10.0.0.1:443"},
		{Name: "KUBERNETES_PORT_443_TCP_PROTO", Value: "tcp"}, {Name: "KUBERNETES_PORT_443_TCP_PORT", Value: "443"}, {Name: "KUBERNETES_PORT_443_TCP_ADDR", Value: "10.0.0.1"},
	}
	links := []runtime.Env{
		{Name: "NAME_SERVER_SERVICE_HOST", Value: "fd00::2"}, {Name: "NAME_SERVER_SERVICE_PORT", Value: "53"},
		{Name: "NAME_SERVER_SERVICE_PORT_DNS", Value: "53"}, {Name: "NAME_SERVER_SERVICE_PORT_OVER_TCP", Value: "53"},
		{Name: "NAME_SERVER_PORT", Value: "udp://[fd00::2]:53"},
		{Name: "NAME_SERVER_PORT_53_UDP", Value: "udp://[fd00::2]:53"}, {Name: "NAME_SERVER_PORT_53_UDP_PROTO", Value: "udp"},
		{Name: "NAME_SERVER_PORT_53_UDP_PORT", Value: "53"}, {Name: "NAME_SERVER_PORT_53_UDP_ADDR", Value: "fd00::2"},
		{Name: "NAME_SERVER_PORT_53_TCP", Value: "tcp://[fd00::2]:53"}, {Name: "NAME_SERVER_PORT_53_TCP_PROTO", Value: "tcp"},
		{Name: "NAME_SERVER_PORT_53_TCP_PORT", Value: "53"}, {Name: "NAME_SERVER_PORT_53_TCP_ADDR", Value: "fd00::2"},
	}
	pod := newPod("p", corev1.Container{Name: "main"})
	of := func(env ...corev1.EnvVar) []runtime.Env {
		t.Helper()
		pod.Spec.Containers[0].Env = env
		got, err := environment(pod, &pod.Spec.Containers[0], nil, Node{}, contents)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got, want := of(), slices.Concat(api, links); !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	pod.Spec.EnableServiceLinks = new(false)
	if got := of(); !slices.Equal(got, api) {
		t.Errorf("without links: %v\nwant %v", got, api)
	}
	// What the container declares wins, and may refer to services.
	got := of(corev1.EnvVar{Name: "KUBERNETES_SERVICE_HOST", Value: "api.example.org"}, corev1.EnvVar{Name: "URL", Value: "https://$(KUBERNETES_SERVICE_HOST):$(KUBERNETES_SERVICE_PORT)/"})
	want := append([]runtime.Env{{Name: "KUBERNETES_SERVICE_HOST", Value: "api.example.org"}, {Name: "URL", Value: "https://api.example.org:443/"}}, api[1:]...)
	if !slices.Equal(got, want) {
		t.Errorf("declared: %v\nwant %v", got, want)
	}
}
