package resource

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/musterhq/muster/control/store"
)

// serviceCompanions are the addresses of services, each an IPAddress, and their
// node ports, each a claim.
var serviceCompanions = &Companions{
	OnCreate: func(ctx context.Context, s *store.Store, obj store.Object) ([]store.Write, error) {
		a, err := newAllotment(ctx, s, obj.(*corev1.Service), nil)
		if err != nil {
			return nil, err
		}
		err = a.create()
		return a.writes, err
	},
	OnUpdate: func(ctx context.Context, s *store.Store, obj, old store.Object) ([]store.Write, error) {
		a, err := newAllotment(ctx, s, obj.(*corev1.Service), old.(*corev1.Service))
		if err != nil {
			return nil, err
		}
		err = a.update()
		return a.writes, err
	},
	OnDelete: func(ctx context.Context, s *store.Store, old store.Object) ([]store.Write, error) {
		a, err := newAllotment(ctx, s, old.(*corev1.Service), nil)
		if err != nil {
			return nil, err
		}
		err = a.release()
		return a.writes, err
	},
}

// allotment is what one write of a service gives it and takes from it. What is
// given is written down in the service at once; writes make it true.
type allotment struct {
	ctx   context.Context
	store *store.Store
	// service may be changed; old is nil for a new one and stays as it is.
	service, old *corev1.Service
	ranges       serviceRanges
	// ports are those that writes claims.
	ports  map[int32]bool
	writes []store.Write
}

func newAllotment(ctx context.Context, s *store.Store, service, old *corev1.Service) (*allotment, error) {
	ranges, err := readServiceRanges(ctx, s)
	if err != nil {
		return nil, err
	}
	return &allotment{ctx: ctx, store: s, service: service, old: old, ranges: ranges, ports: map[int32]bool{}}, nil
}

func (a *allotment) create() error {
	spec := &a.service.Spec
	if spec.ClusterIP != "" && len(spec.ClusterIPs) == 0 {
		// Of a client that knows only the older of the two fields.
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
	if err := a.settleFamilies(); err != nil {
		return err
	}
	if err := a.giveClusterIPs(); err != nil {
		return err
	}
	return a.giveNodePorts()
}

func (a *allotment) update() error {
	a.keepWhatIsLeftOut()
	a.mendClusterIPs()
	if err := a.settleFamilies(); err != nil {
		return err
	}
	if err := a.changeClusterIPs(); err != nil {
		return err
	}
	return a.changeNodePorts()
}

// release frees all that the service has.
func (a *allotment) release() error {
	for _, ip := range a.service.Spec.ClusterIPs {
		if err := a.releaseIP(ip); err != nil {
			return err
		}
	}
	for _, port := range nodePorts(a.service) {
		a.releasePort(port)
	}
	if needsHealthCheck(a.service) {
		a.releasePort(a.service.Spec.HealthCheckNodePort)
	}
	return nil
}

// keepWhatIsLeftOut spares clients from reading a service before they write it:
// what was given to it, and is not in what they send, stays.
func (a *allotment) keepWhatIsLeftOut() {
	spec, was := &a.service.Spec, &a.old.Spec
	if needsClusterIP(a.old) && needsClusterIP(a.service) {
		if spec.ClusterIP == "" {
			spec.ClusterIP = was.ClusterIP
		}
		if len(spec.ClusterIPs) == 0 && len(was.ClusterIPs) > 0 {
			spec.ClusterIPs = slices.Clone(was.ClusterIPs)
		}
	}
	if givenNodePorts(a.old) && givenNodePorts(a.service) {
		kept, had := nodePorts(a.service), nodePorts(a.old)
		byName := map[string]int32{}
		for _, p := range was.Ports {
			byName[p.Name] = p.NodePort
		}
		for i := range spec.Ports {
			port := &spec.Ports[i]
			// A number that stays with another of its ports is not to be had.
			if n := byName[port.Name]; port.NodePort == 0 && !(slices.Contains(kept, n) && slices.Contains(had, n)) {
				port.NodePort = n
			}
		}
	}
	if needsHealthCheck(a.old) && needsHealthCheck(a.service) && spec.HealthCheckNodePort == 0 {
		spec.HealthCheckNodePort = was.HealthCheckNodePort
	}
}

// mendClusterIPs makes clusterIPs follow clusterIP for clients that know only
// the latter. What is contradictory after that fails in validation.
func (a *allotment) mendClusterIPs() {
	spec, was := &a.service.Spec, &a.old.Spec
	if len(was.ClusterIPs) > 0 && len(spec.ClusterIPs) == 0 && spec.ClusterIP == was.ClusterIP {
		spec.ClusterIPs = slices.Clone(was.ClusterIPs)
	}
	if spec.ClusterIP == was.ClusterIP || !slices.Equal(spec.ClusterIPs, was.ClusterIPs) {
		return
	}
	if spec.ClusterIP == "" && was.ClusterIP != "" {
		spec.ClusterIPs = nil
	} else {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
}

func (a *allotment) invalid(errs ...*field.Error) error {
	return apierrors.NewInvalid(store.Services.Kind.GroupKind(), a.service.Name, errs)
}

// holder is how the service is written down in what it holds.
func (a *allotment) holder() string { return a.service.Namespace + "/" + a.service.Name }
