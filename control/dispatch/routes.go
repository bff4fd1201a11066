package dispatch

import (
	"net/netip"
	"sort"
	"sync"

	corev1 "k8s.io/api/core/v1"

	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// routes says where each node's pods are, for the agents to lay routes.
type routes struct {
	changed func()

	mu     sync.Mutex
	byNode map[string]*agentv1.NodeRoute
}

func newRoutes(changed func()) *routes {
	return &routes{changed: changed, byNode: map[string]*agentv1.NodeRoute{}}
}

// change takes one change of a node; nil stands for absence.
func (r *routes) change(old, new *corev1.Node) {
	r.mu.Lock()
	differs := false
	if new == nil {
		_, differs = r.byNode[old.Name]
		delete(r.byNode, old.Name)
	} else if route := routeTo(new); route != nil {
		have := r.byNode[new.Name]
		differs = have == nil || have.Address != route.Address || have.PodCidr != route.PodCidr
		r.byNode[new.Name] = route
	}
	r.mu.Unlock()
	if differs {
		r.changed()
	}
}

func routeTo(node *corev1.Node) *agentv1.NodeRoute {
	address := internalIP(node)
	if node.Spec.PodCIDR == "" || !address.IsValid() {
		return nil
	}
	return &agentv1.NodeRoute{Node: node.Name, Address: address.String(), PodCidr: node.Spec.PodCIDR}
}

func internalIP(node *corev1.Node) netip.Addr {
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			ip, _ := netip.ParseAddr(a.Address)
			return ip
		}
	}
	return netip.Addr{}
}

// to lists the routes that a node needs: those to all others.
func (r *routes) to(node string) *agentv1.Network {
	r.mu.Lock()
	defer r.mu.Unlock()
	network := &agentv1.Network{}
	for name, route := range r.byNode {
		if name != node {
			network.Routes = append(network.Routes, route)
		}
	}
	sort.Slice(network.Routes, func(i, j int) bool { return network.Routes[i].Node < network.Routes[j].Node })
	return network
}
