package strategies

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/kubernetes/pkg/registry/certificates/clustertrustbundle"
	"k8s.io/kubernetes/pkg/registry/certificates/podcertificaterequest"
	"k8s.io/kubernetes/pkg/registry/resource/deviceclass"
	"k8s.io/kubernetes/pkg/registry/resource/devicetaintrule"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaim"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaimtemplate"
	"k8s.io/kubernetes/pkg/registry/resource/resourceslice"
	"k8s.io/kubernetes/pkg/registry/storagemigration/storagemigration"
	"k8s.io/utils/clock"
)

// forAdministrators are namespaces whose claims may have an administrator's
// access: whose may is admission's to say here.
type forAdministrators struct {
	typedcorev1.NamespaceInterface
}

func (forAdministrators) Get(_ context.Context, name string, _ metav1.GetOptions) (*corev1.Namespace, error) {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{resourcev1.DRAAdminNamespaceLabelKey: "true"}}}, nil
}

// anybody may do everything, for the same reason.
var anybody = authorizer.AuthorizerFunc(func(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
})

// bundle and request are what only certificates can be: a CA's and an empty
// request for one, both of a key that nobody has.
const (
	bundle  = `-----BEGIN CERTIFICATE-----\nMIHkMIGXoAMCAQICAQEwBQYDK2VwMAAwIhgPMDAwMTAxMDEwMDAwMDBaGA8yMTA2\nMDIwNzA2MjgxNlowADAqMAUGAytlcAMhAHX9uG4Y6BP+5P8WCr3PTYVXYyJA4WLf\npD7+kWhU3l5kozIwMDAPBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBTzJrSAB/VB\nlAdHqICbiDes/lO2cjAFBgMrZXADQQAYT6hXetpuUvapSaldSsgTLYagTv2LvHdP\nJ5vTbYC7JdsVTVjk5Im4UHoMWjnEs6Xl7/uSgIQikAvNpnVBY7cM\n-----END CERTIFICATE-----\n`
	request = `MH8wMwIBADAAMCowBQYDK2VwAyEAdf24bhjoE/7k/xYKvc9NhVdjIkDhYt+kPv6RaFTeXmSgADAFBgMrZXADQQA5cxyfIj7QsETghyo1LiNtCHHDK4JT8fpO+ZmrMmP7ZoDYgbs3ufmalG0lhbAqDrsGxvzghiD0rcM7SGMAk9YL`
)

const claim = `{devices: {requests: [{name: a, exactly: {deviceClassName: x, selectors: [{cel: {expression: "device.driver == \"example.org\""}}]}}], constraints: [{matchAttribute: example.org/a}]}}`

func init() {
	claims := resourceclaim.NewStrategy(forAdministrators{}, anybody)
	requests := podcertificaterequest.NewStrategy()
	maps.Copy(strategies, map[string]upstream{
		"deviceclasses.resource.k8s.io": {deviceclass.Strategy, nil, `{metadata: {name: x}, spec: {selectors: [{cel: {expression: "true"}}], extendedResourceName: example.org/a}}`},
		"devicetaintrules.resource.k8s.io": {devicetaintrule.Strategy, paths{"status": devicetaintrule.StatusStrategy},
			`{metadata: {name: x}, spec: {deviceSelector: {driver: example.org}, taint: {key: example.org/a, effect: NoSchedule}}}`},
		"resourceclaims.resource.k8s.io":         {claims, paths{"status": resourceclaim.NewStatusStrategy(claims)}, `{metadata: {name: x}, spec: ` + claim + `}`},
		"resourceclaimtemplates.resource.k8s.io": {resourceclaimtemplate.NewStrategy(forAdministrators{}), nil, `{metadata: {name: x}, spec: {spec: ` + claim + `}}`},
		"resourceslices.resource.k8s.io": {resourceslice.Strategy, nil,
			`{metadata: {name: x}, spec: {driver: example.org, nodeName: n, pool: {name: n, resourceSliceCount: 1}, devices: [{name: a, attributes: {a: {string: b}}, capacity: {b: {value: 1Gi}}}]}}`},

		"clustertrustbundles.certificates.k8s.io": {clustertrustbundle.Strategy, nil, `{metadata: {name: x}, spec: {trustBundle: "` + bundle + `"}}`},
		"podcertificaterequests.certificates.k8s.io": {requests, paths{"status": podcertificaterequest.NewStatusStrategy(requests, anybody, clock.RealClock{})},
			`{metadata: {name: x}, spec: {signerName: example.org/a, podName: p, podUID: "1", serviceAccountName: a, serviceAccountUID: "2", nodeName: n, nodeUID: "3", stubPKCS10Request: ` + request + `}}`},
		"storageversionmigrations.storagemigration.k8s.io": {storagemigration.Strategy, paths{"status": storagemigration.StatusStrategy}, `{metadata: {name: x}, spec: {resource: {resource: secrets}}}`},
	})
}
