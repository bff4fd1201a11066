package resource

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// IPAddresses are the addresses that are taken, each named as it is written.
// That of a service comes and goes with it: there is one for each address that a
// service has, and no service could be given an address that has one.
var IPAddresses = &Kind{
	Spec:       store.IPAddresses,
	Singular:   "ipaddress",
	ShortNames: []string{"ip"},
	Strategy:   ipAddressStrategy(),
	Companions: &Companions{OnDelete: keepAddressInUse},
}

func ipAddressStrategy() *Strategy {
	s := strategy(store.IPAddresses, "", Rules[*networkingv1.IPAddress]{
		Validate:       kube.ValidateIPAddress,
		ValidateUpdate: kube.ValidateIPAddressUpdate,
	})
	s.NameGenerator = literalNames{}
	return s
}

// literalNames adds nothing: no address begins with another one.
type literalNames struct{}

func (literalNames) GenerateName(base string) string { return base }

// keepAddressInUse refuses to let go of an address that a service has, or it
// would be given to another. Upstream lets it go and has a controller take it
// again, if it is not too late by then.
func keepAddressInUse(ctx context.Context, s *store.Store, old store.Object) ([]store.Write, error) {
	ref := old.(*networkingv1.IPAddress).Spec.ParentRef
	if ref == nil || ref.Group != "" || ref.Resource != store.Services.Resource.Resource {
		return nil, nil
	}
	service, err := store.Of[*corev1.Service](s, store.Services).Get(ctx, ref.Namespace, ref.Name)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrInvalid):
		return nil, nil
	case err != nil:
		return nil, err
	}
	has := func(text string) bool {
		ip, ok := parseAddress(text)
		return ok && ip.String() == old.GetName()
	}
	if !slices.ContainsFunc(service.Spec.ClusterIPs, has) {
		return nil, nil
	}
	return nil, apierrors.NewForbidden(store.IPAddresses.Resource, old.GetName(),
		fmt.Errorf("service %s/%s has this address: delete the service", ref.Namespace, ref.Name))
}
