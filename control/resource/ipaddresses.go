package resource

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// IPAddresses are the taken addresses of services, each named as it is written.
var IPAddresses = &Kind{
	Spec:       store.IPAddresses,
	Singular:   "ipaddress",
	ShortNames: []string{"ip"},
	Strategy:   ipAddressStrategy(),
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
