package strategies

import (
	"maps"
	"slices"

	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/endpoint"
	"k8s.io/kubernetes/pkg/registry/core/limitrange"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolume"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/kubernetes/pkg/registry/core/podtemplate"
	"k8s.io/kubernetes/pkg/registry/core/replicationcontroller"
	"k8s.io/kubernetes/pkg/registry/core/resourcequota"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/kubernetes/pkg/registry/core/serviceaccount"
	"k8s.io/kubernetes/pkg/registry/discovery/endpointslice"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/ingressclass"
	"k8s.io/kubernetes/pkg/registry/networking/ipaddress"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/networking/servicecidr"
)

// upstream is a kind's strategies, and an object that they accept. object is nil
// where upstream does more to a new object than its strategy says.
type upstream struct {
	object interface {
		rest.RESTCreateStrategy
		rest.RESTUpdateStrategy
	}
	subresources map[string]rest.RESTUpdateStrategy
	example      string
}

// paths are those by which changes are tried, the object's own as "".
func (u upstream) paths() []string {
	paths := slices.Sorted(maps.Keys(u.subresources))
	if u.object != nil {
		paths = append(paths, "")
	}
	return paths
}

func (u upstream) at(path string) rest.RESTUpdateStrategy {
	if path == "" {
		return u.object
	}
	return u.subresources[path]
}

type paths = map[string]rest.RESTUpdateStrategy

var strategies = map[string]upstream{
	"configmaps":  {configmap.Strategy, nil, `{metadata: {name: x}, data: {a: "1"}}`},
	"endpoints":   {endpoint.Strategy, nil, `{metadata: {name: x}, subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}]}`},
	"limitranges": {limitrange.Strategy, nil, `{metadata: {name: x}, spec: {limits: [{type: Container, max: {cpu: "2"}, default: {cpu: "1"}}]}}`},
	"persistentvolumes": {persistentvolume.Strategy, paths{"status": persistentvolume.StatusStrategy},
		`{metadata: {name: x}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /data}}}`},
	"persistentvolumeclaims": {persistentvolumeclaim.Strategy, paths{"status": persistentvolumeclaim.StatusStrategy},
		`{metadata: {name: x}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}, dataSource: {kind: PersistentVolumeClaim, name: a}}}`},
	"pods": {pod.Strategy, paths{"status": pod.StatusStrategy, "resize": pod.ResizeStrategy, "ephemeralcontainers": pod.EphemeralContainersStrategy},
		`{metadata: {name: x}, spec: {containers: [{name: a, image: b, ports: [{containerPort: 80}], resources: {requests: {cpu: "1"}, limits: {memory: 1Gi}}}]}}`},
	"podtemplates": {podtemplate.Strategy, nil, `{metadata: {name: x}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: b}]}}}`},
	"replicationcontrollers": {replicationcontroller.Strategy, paths{"status": replicationcontroller.StatusStrategy},
		`{metadata: {name: x}, spec: {replicas: 1, selector: {a: b}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: b}]}}}}`},
	"resourcequotas": {resourcequota.Strategy, paths{"status": resourcequota.StatusStrategy},
		`{metadata: {name: x}, spec: {hard: {pods: "3", cpu: "2", limits.cpu: "3"}}}`},
	"secrets":         {secret.Strategy, nil, `{metadata: {name: x}, type: kubernetes.io/basic-auth, data: {username: eA==}}`},
	"serviceaccounts": {serviceaccount.Strategy, nil, `{metadata: {name: x}, secrets: [{name: a, kind: Secret}], imagePullSecrets: [{name: b}]}`},
	// Addresses and node ports are given elsewhere.
	"services": {nil, paths{"status": service.StatusStrategy},
		`{metadata: {name: x}, spec: {clusterIP: None, clusterIPs: [None], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack, selector: {a: b}, ports: [{port: 80}]}}`},
	"endpointslices.discovery.k8s.io": {endpointslice.Strategy, nil,
		`{metadata: {name: x}, addressType: IPv4, endpoints: [{addresses: [10.0.0.1], nodeName: n}], ports: [{name: a, port: 80}]}`},
	"ingresses.networking.k8s.io": {ingress.Strategy, paths{"status": ingress.StatusStrategy},
		`{metadata: {name: x}, spec: {rules: [{host: example.org, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}}`},
	"ingressclasses.networking.k8s.io":  {ingressclass.Strategy, nil, `{metadata: {name: x}, spec: {controller: example.org/a}}`},
	"ipaddresses.networking.k8s.io":     {ipaddress.Strategy, nil, `{metadata: {name: 10.0.0.1}, spec: {parentRef: {resource: services, namespace: a, name: b}}}`},
	"networkpolicies.networking.k8s.io": {networkpolicy.Strategy, nil, `{metadata: {name: x}, spec: {podSelector: {matchLabels: {a: b}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 80}]}]}}`},
	"servicecidrs.networking.k8s.io":    {servicecidr.Strategy, paths{"status": servicecidr.StatusStrategy}, `{metadata: {name: x}, spec: {cidrs: [10.99.0.0/16]}}`},
}
