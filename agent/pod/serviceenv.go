package pod

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/agent/runtime"
)

// serviceEnvironment is where a container finds services, as kubelet tells it:
// NAME_SERVICE_HOST and NAME_SERVICE_PORT, and what Docker called links.
func serviceEnvironment(pod *corev1.Pod, contents Contents) ([]runtime.Env, error) {
	if contents == nil {
		return nil, nil
	}
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	services, err := contents.Services(pod.Namespace, links)
	if err != nil {
		return nil, fmt.Errorf("services: %w", err)
	}
	var env []runtime.Env
	add := func(name, value string) { env = append(env, runtime.Env{Name: name, Value: value}) }
	for i := range services {
		service := &services[i]
		if len(service.Spec.Ports) == 0 {
			continue
		}
		name, ip := variable(service.Name), service.Spec.ClusterIP
		add(name+"_SERVICE_HOST", ip)
		add(name+"_SERVICE_PORT", strconv.Itoa(int(service.Spec.Ports[0].Port)))
		for _, port := range service.Spec.Ports {
			if port.Name != "" {
				add(name+"_SERVICE_PORT_"+variable(port.Name), strconv.Itoa(int(port.Port)))
			}
		}
		for i, port := range service.Spec.Ports {
			number, protocol := strconv.Itoa(int(port.Port)), strings.ToLower(string(port.Protocol))
			if protocol == "" {
				protocol = "tcp"
			}
			url := protocol + "://" + net.JoinHostPort(ip, number)
			if i == 0 {
				add(name+"_PORT", url)
			}
			link := name + "_PORT_" + number + "_" + strings.ToUpper(protocol)
			add(link, url)
			add(link+"_PROTO", protocol)
			add(link+"_PORT", number)
			add(link+"_ADDR", ip)
		}
	}
	return env, nil
}

func variable(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }
