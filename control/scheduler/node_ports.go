package scheduler

import (
	corev1 "k8s.io/api/core/v1"
)

// nodePorts refuses nodes on which a host port of the pod is taken. A port on
// every address (0.0.0.0) clashes with the same port on any.
type nodePorts struct{}

type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

const anyAddress = "0.0.0.0"

func (nodePorts) name() string            { return "NodePorts" }
func (nodePorts) applies(p *podInfo) bool { return len(p.ports) > 0 }

func (nodePorts) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	for _, want := range p.ports {
		for taken := range n.ports {
			if want.protocol == taken.protocol && want.port == taken.port &&
				(want.ip == taken.ip || want.ip == anyAddress || taken.ip == anyAddress) {
				return append(reasons, "node(s) didn't have free ports for the requested pod ports")
			}
		}
	}
	return reasons
}

// hostPortsOf lists the host ports that a pod holds while it runs: those of its
// containers and of the init containers that keep running beside them.
func hostPortsOf(pod *corev1.Pod) []hostPort {
	var ports []hostPort
	collect := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort <= 0 {
				continue
			}
			port := hostPort{ip: p.HostIP, protocol: p.Protocol, port: p.HostPort}
			if port.ip == "" {
				port.ip = anyAddress
			}
			if port.protocol == "" {
				port.protocol = corev1.ProtocolTCP
			}
			ports = append(ports, port)
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			collect(c)
		}
	}
	for i := range pod.Spec.Containers {
		collect(&pod.Spec.Containers[i])
	}
	return ports
}
