package resource

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Node ports are taken from this range: any of the upper part, or else of the
// lower, which is kept for those who name theirs (KEP-3668).
const (
	nodePortFirst = 30000
	nodePortLast  = 32767
	nodePortLower = 86
)

// nodePortClaims are the node ports that services hold.
const nodePortClaims = "nodeports"

// What upstream's allocator says, word for word.
var (
	errPortTaken        = errors.New("provided port is already allocated")
	errPortOutsideRange = fmt.Errorf("provided port is not in the valid range. The range of valid ports is %d-%d", nodePortFirst, nodePortLast)
)

// giveNodePorts gives a new service the node ports that it asks for, and those
// that its type has. Ports of one number (of TCP and UDP) share theirs.
func (a *allotment) giveNodePorts() error {
	ports := a.service.Spec.Ports
	given := map[int32]int32{} // node port by port
	for i := range ports {
		if !takesNodePorts(a.service) {
			break
		}
		port := &ports[i]
		if port.NodePort == 0 && !givenNodePorts(a.service) {
			continue
		}
		switch shared := given[port.Port]; {
		case shared == 0:
			at := slices.IndexFunc(ports, func(p corev1.ServicePort) bool { return p.Port == port.Port && p.NodePort != 0 })
			if at >= 0 {
				port.NodePort = ports[at].NodePort
				if err := a.takePort(port.NodePort); err != nil {
					return a.invalidPort(i, port.NodePort, err)
				}
			} else if err := a.anyPort(&port.NodePort); err != nil {
				return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
			}
			given[port.Port] = port.NodePort
		case port.NodePort == 0:
			port.NodePort = shared
		case port.NodePort != shared:
			if err := a.takePort(port.NodePort); err != nil {
				return a.invalidPort(i, port.NodePort, err)
			}
		}
	}
	if needsHealthCheck(a.service) {
		return a.giveHealthCheckPort()
	}
	return nil
}

// changeNodePorts gives and takes what differs from what the service had.
func (a *allotment) changeNodePorts() error {
	had := nodePorts(a.old)
	if takesNodePorts(a.service) {
		if err := a.moreNodePorts(had); err != nil {
			return err
		}
		kept := nodePorts(a.service)
		had = slices.DeleteFunc(had, func(p int32) bool { return slices.Contains(kept, p) })
	}
	for _, port := range had {
		a.releasePort(port)
	}
	switch {
	case !needsHealthCheck(a.old) && needsHealthCheck(a.service):
		return a.giveHealthCheckPort()
	case needsHealthCheck(a.old) && !needsHealthCheck(a.service):
		a.releasePort(a.old.Spec.HealthCheckNodePort)
	}
	return nil
}

func (a *allotment) moreNodePorts(had []int32) error {
	type pair struct {
		Protocol corev1.Protocol
		NodePort int32
	}
	seen := map[pair]bool{}
	for i := range a.service.Spec.Ports {
		port := &a.service.Spec.Ports[i]
		switch {
		case port.NodePort == 0 && !givenNodePorts(a.service):
			continue
		case port.NodePort == 0:
			if err := a.anyPort(&port.NodePort); err != nil {
				return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
			}
		case !slices.Contains(had, port.NodePort) && !a.ports[port.NodePort]:
			if err := a.takePort(port.NodePort); err != nil {
				return a.invalidPort(i, port.NodePort, err)
			}
		}
		p := pair{port.Protocol, port.NodePort}
		if seen[p] {
			return fmt.Errorf("duplicate nodePort: %v", p)
		}
		seen[p] = true
	}
	return nil
}

func (a *allotment) giveHealthCheckPort() error {
	wanted := a.service.Spec.HealthCheckNodePort
	if wanted == 0 {
		if err := a.anyPort(&a.service.Spec.HealthCheckNodePort); err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a HealthCheck NodePort %v: %w", wanted, err))
		}
		return nil
	}
	if err := a.takePort(wanted); err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate requested HealthCheck NodePort %v: %w", wanted, err))
	}
	return nil
}

// takePort makes one port the service's.
func (a *allotment) takePort(port int32) error {
	claims := a.store.Claims(nodePortClaims)
	name := strconv.Itoa(int(port))
	switch {
	case port < nodePortFirst || port > nodePortLast:
		return errPortOutsideRange
	case a.ports[port] || claims.Holder(name) != "":
		return errPortTaken
	}
	a.ports[port] = true
	a.writes = append(a.writes, claims.Take(name, a.holder()))
	return nil
}

// anyPort makes a free port the service's and sets it.
func (a *allotment) anyPort(port *int32) error {
	const lower, size = int32(nodePortLower), int32(nodePortLast - nodePortFirst + 1)
	for _, part := range []struct{ from, size int32 }{{lower, size - lower}, {0, lower}} {
		start := rand.Int32N(part.size)
		for i := range part.size {
			n := nodePortFirst + part.from + (start+i)%part.size
			if a.takePort(n) == nil {
				*port = n
				return nil
			}
		}
	}
	return errRangeFull
}

// releasePort frees a port that is the service's.
func (a *allotment) releasePort(port int32) {
	if write, ok := a.store.Claims(nodePortClaims).Release(strconv.Itoa(int(port)), a.holder()); ok {
		a.writes = append(a.writes, write)
	}
}

func (a *allotment) invalidPort(at int, port int32, why error) error {
	return a.invalid(field.Invalid(field.NewPath("spec", "ports").Index(at).Child("nodePort"), port, why.Error()))
}
