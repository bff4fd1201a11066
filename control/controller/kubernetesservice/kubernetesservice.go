// Package kubernetesservice keeps what pods reach the API server by: the range
// of services, the service default/kubernetes with that range's first address,
// and its endpoints, which are the control nodes. How packets get there is the
// agents' business.
package kubernetesservice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// The service's name, and that of its port.
const (
	name     = "kubernetes"
	portName = "https"
	port     = 443
)

// Control nodes come and go rarely, and nobody tells: they are looked at anew.
// After a failure that is sooner, doubling.
const (
	lookAgain  = 5 * time.Second
	retryFirst = 200 * time.Millisecond
)

// Config is what a Controller of one leader term needs.
type Config struct {
	Registry *resource.Registry
	// ServiceCIDR is the range of a new cluster's services.
	ServiceCIDR netip.Prefix
	// Servers are where control nodes serve the API now.
	Servers func() []netip.AddrPort
	Logger  *slog.Logger
}

// Controller writes only what differs: a cluster that stays as it is costs no write.
type Controller struct{ cfg Config }

// New makes a controller; nothing runs before Run.
func New(cfg Config) *Controller { return &Controller{cfg: cfg} }

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	for retry := retryFirst; ; {
		pause := lookAgain
		if err := c.ensure(ctx); err == nil {
			retry = retryFirst
		} else if ctx.Err() == nil {
			if retry == retryFirst && !errors.Is(err, errTooSoon) {
				c.cfg.Logger.Warn("the service of the API is not as it should be; trying again", "error", err)
			}
			pause, retry = retry, min(2*retry, lookAgain)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// errTooSoon says that the cluster is only just being made.
var errTooSoon = errors.New("no namespace yet")

func (c *Controller) ensure(ctx context.Context) error {
	if _, _, err := c.cfg.Registry.Store().Table(store.Namespaces).GetItem("", metav1.NamespaceDefault); err != nil {
		return errTooSoon
	}
	addresses, target := endpoints(c.cfg.Servers(), c.cfg.ServiceCIDR.Addr().Is4())
	objects := []struct {
		kind   *resource.Kind
		wanted store.Object
		// adjust makes the part of what is there that is kept as wanted, or is nil.
		adjust func(current store.Object)
	}{
		{resource.ServiceCIDRs, &networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: resource.DefaultServiceCIDR},
			Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{c.cfg.ServiceCIDR.Masked().String()}},
		}, nil},
		{resource.Services, c.service(target), nil},
		{resource.Endpoints, endpointsObject(addresses, target), func(current store.Object) {
			current.(*corev1.Endpoints).Subsets = endpointsObject(addresses, target).Subsets //nolint:staticcheck // served all the same
		}},
		{resource.EndpointSlices, c.slice(addresses, target), func(current store.Object) {
			slice, wanted := current.(*discoveryv1.EndpointSlice), c.slice(addresses, target)
			slice.Endpoints, slice.Ports = wanted.Endpoints, wanted.Ports
		}},
	}
	for _, o := range objects {
		if err := c.keep(ctx, o.kind, o.wanted, o.adjust); err != nil {
			return fmt.Errorf("%s %s: %w", o.kind.Singular, o.wanted.GetName(), err)
		}
	}
	return nil
}

// keep creates an object that is missing, and adjusts one that differs.
func (c *Controller) keep(ctx context.Context, kind *resource.Kind, wanted store.Object, adjust func(store.Object)) error {
	ns := wanted.GetNamespace()
	current, err := c.cfg.Registry.Store().Table(kind.Spec).Get(ctx, ns, wanted.GetName())
	switch {
	case errors.Is(err, store.ErrNotFound):
		_, err := c.cfg.Registry.Create(ctx, kind, ns, wanted, resource.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	case err != nil || adjust == nil:
		return err
	}
	adjusted := current.DeepCopyObject().(store.Object)
	adjust(adjusted)
	if apiequality.Semantic.DeepEqual(current, adjusted) {
		return nil
	}
	_, _, err = c.cfg.Registry.Update(ctx, kind, ns, wanted.GetName(), "", func(current store.Object) (store.Object, error) {
		adjust(current)
		return current, nil
	}, resource.UpdateOptions{FieldManager: "muster-kubernetesservice"})
	return err
}

func (c *Controller) service(target uint16) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{"provider": "kubernetes", "component": "apiserver"},
		},
		Spec: corev1.ServiceSpec{
			Type:            corev1.ServiceTypeClusterIP,
			ClusterIP:       c.cfg.ServiceCIDR.Masked().Addr().Next().String(),
			IPFamilyPolicy:  ptr.To(corev1.IPFamilyPolicySingleStack),
			SessionAffinity: corev1.ServiceAffinityNone,
			Ports:           []corev1.ServicePort{{Name: portName, Protocol: corev1.ProtocolTCP, Port: port, TargetPort: intstr.FromInt32(int32(target))}},
		},
	}
}

func endpointsObject(addresses []netip.Addr, target uint16) *corev1.Endpoints { //nolint:staticcheck // served all the same
	obj := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{ //nolint:staticcheck // served all the same
		Name: name, Namespace: metav1.NamespaceDefault,
		// There is a slice already.
		Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"},
	}}
	if len(addresses) == 0 {
		return obj
	}
	subset := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: portName, Port: int32(target), Protocol: corev1.ProtocolTCP}}} //nolint:staticcheck // served all the same
	for _, a := range addresses {
		subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: a.String()}) //nolint:staticcheck // served all the same
	}
	obj.Subsets = append(obj.Subsets, subset)
	return obj
}

func (c *Controller) slice(addresses []netip.Addr, target uint16) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{discoveryv1.LabelServiceName: name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To(portName), Port: ptr.To(int32(target)), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	if c.cfg.ServiceCIDR.Addr().Is6() {
		slice.AddressType = discoveryv1.AddressTypeIPv6
	}
	for _, a := range addresses {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{a.String()}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
		})
	}
	return slice
}

// endpoints are the addresses at which pods find an API server, sorted, and the
// port there. Loopback addresses, which a cluster on one machine has, are none
// that a pod could use. A service has one target port: where control nodes listen
// on different ones, as only those on one machine do, the most frequent counts.
func endpoints(servers []netip.AddrPort, ipv4 bool) ([]netip.Addr, uint16) {
	byPort := map[uint16][]netip.Addr{}
	for _, s := range servers {
		a := s.Addr().Unmap()
		if a.Is4() == ipv4 && !a.IsLoopback() && !a.IsUnspecified() && !a.IsLinkLocalUnicast() {
			byPort[s.Port()] = append(byPort[s.Port()], a)
		}
	}
	target, found := uint16(6443), []netip.Addr(nil)
	for p, addresses := range byPort {
		if len(addresses) > len(found) || len(addresses) == len(found) && p < target {
			target, found = p, addresses
		}
	}
	slices.SortFunc(found, netip.Addr.Compare)
	return slices.Compact(found), target
}
