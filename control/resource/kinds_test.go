package resource

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/warning"

	"github.com/musterhq/muster/control/store"
)

// Rules that are not connected would go unnoticed: each kind refuses one object
// and one change that only its own rules know to be wrong.
func TestPlainKindsAreHeldToTheirRules(t *testing.T) {
	for _, test := range []struct {
		kind *Kind
		// create and update make the example wrong, and want is the field that is named.
		create     edit
		wantCreate string
		update     edit
		wantUpdate string
	}{
		{ConfigMaps,
			of(func(c *corev1.ConfigMap) { c.Data["no slash/"] = "" }), "data[no slash/]",
			of(func(c *corev1.ConfigMap) { c.Data["no slash/"] = "" }), "data[no slash/]"},
		{Secrets,
			of(func(s *corev1.Secret) { s.Type = corev1.SecretTypeDockerConfigJson }), "data[.dockerconfigjson]",
			of(func(s *corev1.Secret) { s.Type = "other" }), "type"},
		{ServiceAccounts,
			of(func(a *corev1.ServiceAccount) { a.Name = "A" }), "metadata.name",
			of(func(a *corev1.ServiceAccount) { a.Annotations = map[string]string{"no slash/": ""} }), "metadata.annotations"},
		{Endpoints,
			of(func(e *corev1.Endpoints) { e.Subsets[0].Addresses[0].IP = "127.0.0.1" }), "subsets[0].addresses[0].ip",
			of(func(e *corev1.Endpoints) { e.Subsets[0].Ports[0].Port = 0 }), "subsets[0].ports[0].port"},
		{PodTemplates,
			of(func(p *corev1.PodTemplate) { p.Template.Spec.Containers = nil }), "template.spec.containers",
			of(func(p *corev1.PodTemplate) { p.Template.Spec.Containers[0].Name = "" }), "template.spec.containers[0].name"},
		{LimitRanges,
			of(func(l *corev1.LimitRange) { l.Spec.Limits[0].Min = cpu("3") }), "spec.limits[0].min[cpu]",
			of(func(l *corev1.LimitRange) { l.Spec.Limits[0].Min = cpu("3") }), "spec.limits[0].min[cpu]"},
		{ResourceQuotas,
			of(func(q *corev1.ResourceQuota) { q.Spec.Hard["pods"] = resource.MustParse("-1") }), "spec.hard[pods]",
			of(func(q *corev1.ResourceQuota) { q.Spec.Scopes = []corev1.ResourceQuotaScope{"BestEffort"} }), "spec.scopes"},
		{PersistentVolumes,
			of(func(v *corev1.PersistentVolume) { v.Spec.AccessModes = nil }), "spec.accessModes",
			of(func(v *corev1.PersistentVolume) { v.Spec.HostPath.Path = "/other" }), "spec.persistentvolumesource"},
		{PersistentVolumeClaims,
			of(func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes = nil }), "spec.accessModes",
			of(func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes[0] = corev1.ReadOnlyMany }), "spec"},
		{EndpointSlices,
			of(func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses[0] = "fd00::1" }), "endpoints[0].addresses",
			of(func(s *discoveryv1.EndpointSlice) { s.AddressType = discoveryv1.AddressTypeIPv6 }), "addressType"},
		{NetworkPolicies,
			of(func(p *networkingv1.NetworkPolicy) { p.Spec.PolicyTypes = []networkingv1.PolicyType{"Sideways"} }), "spec.policyTypes[0]",
			of(func(p *networkingv1.NetworkPolicy) { p.Spec.PolicyTypes = []networkingv1.PolicyType{"Sideways"} }), "spec.policyTypes[0]"},
		{Ingresses,
			of(func(i *networkingv1.Ingress) { i.Spec.DefaultBackend = nil }), "spec",
			of(func(i *networkingv1.Ingress) { i.Spec.DefaultBackend.Service.Name = "" }), "spec.defaultBackend.service.name"},
		{IngressClasses,
			of(func(c *networkingv1.IngressClass) { c.Spec.Controller = "" }), "spec.controller",
			of(func(c *networkingv1.IngressClass) { c.Spec.Controller = "example.org/other" }), "spec.controller"},
		{ServiceCIDRs,
			of(func(c *networkingv1.ServiceCIDR) { c.Spec.CIDRs = []string{"10.99.0.1/16"} }), "spec.cidrs[0]",
			of(func(c *networkingv1.ServiceCIDR) { c.Spec.CIDRs = []string{"10.98.0.0/16"} }), "spec.cidrs[0]"},
		{IPAddresses,
			of(func(a *networkingv1.IPAddress) { a.Name = "web" }), "metadata.name",
			of(func(a *networkingv1.IPAddress) { a.Spec.ParentRef.Name = "other" }), "spec.parentRef"},
		{Pods,
			of(func(p *corev1.Pod) { p.Spec.Containers = nil }), "spec.containers",
			of(func(p *corev1.Pod) { p.Spec.NodeName = "n" }), "spec"},
	} {
		t.Run(test.kind.Singular, func(t *testing.T) {
			r := newRegistry(t)
			ns := namespaceOf(test.kind)
			wrong := examples()[test.kind]
			test.create(wrong)
			_, err := r.Create(t.Context(), test.kind, ns, wrong, CreateOptions{})
			if !named422(err, test.wantCreate) {
				t.Errorf("create: %v; want a complaint about %s", err, test.wantCreate)
			}
			obj := must(t, r, test.kind, ns, examples()[test.kind])
			_, _, err = r.Update(t.Context(), test.kind, ns, obj.GetName(), "", func(current store.Object) (store.Object, error) {
				test.update(current)
				return current, nil
			}, UpdateOptions{})
			if !named422(err, test.wantUpdate) {
				t.Errorf("update: %v; want a complaint about %s", err, test.wantUpdate)
			}
		})
	}
}

// Users change what they want by the object's own path, controllers say what is
// by the path of the status. Either takes the other part as it was.
func TestStatusAndSpecHavePathsOfTheirOwn(t *testing.T) {
	for _, test := range []struct {
		kind *Kind
		// spec and status are valid changes.
		spec, status edit
		parts        func(store.Object) (spec, status any)
		// grows says that a change of the spec counts as a generation.
		grows bool
	}{
		{ResourceQuotas,
			of(func(q *corev1.ResourceQuota) { q.Spec.Hard = cpu("8") }),
			of(func(q *corev1.ResourceQuota) { q.Status.Used = cpu("1") }),
			func(o store.Object) (any, any) { q := o.(*corev1.ResourceQuota); return q.Spec, q.Status }, false},
		{PersistentVolumes,
			of(func(v *corev1.PersistentVolume) {
				v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
			}),
			of(func(v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumeBound }),
			func(o store.Object) (any, any) { v := o.(*corev1.PersistentVolume); return v.Spec, v.Status }, false},
		{PersistentVolumeClaims,
			of(func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "v" }),
			of(func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimBound }),
			func(o store.Object) (any, any) { c := o.(*corev1.PersistentVolumeClaim); return c.Spec, c.Status }, false},
		{Ingresses,
			of(func(i *networkingv1.Ingress) { i.Spec.DefaultBackend.Service.Name = "other" }),
			of(func(i *networkingv1.Ingress) {
				i.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: "192.0.2.1"}}
			}),
			func(o store.Object) (any, any) { i := o.(*networkingv1.Ingress); return i.Spec, i.Status }, true},
		{ServiceCIDRs,
			of(func(c *networkingv1.ServiceCIDR) { c.Spec.CIDRs = append(c.Spec.CIDRs, "fd00::/112") }),
			of(func(c *networkingv1.ServiceCIDR) {
				c.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: "True", Reason: "Ready", LastTransitionTime: metav1.Unix(1, 0)}}
			}),
			func(o store.Object) (any, any) { c := o.(*networkingv1.ServiceCIDR); return c.Spec, c.Status }, false},
	} {
		t.Run(test.kind.Singular, func(t *testing.T) {
			ns, r := namespaceOf(test.kind), newRegistry(t)
			build := func(prepare edit) store.Object {
				r = newRegistry(t)
				obj := examples()[test.kind]
				prepare(obj)
				must(t, r, test.kind, ns, obj)
				return stored[store.Object](t, r, test.kind, ns, obj.GetName())
			}
			both := func(o store.Object) { test.spec(o); test.status(o) }

			_, fresh := test.parts(build(func(store.Object) {}))
			_, status := test.parts(build(test.status))
			if volume, ok := status.(corev1.PersistentVolumeStatus); ok { // says since when
				volume.LastPhaseTransitionTime = fresh.(corev1.PersistentVolumeStatus).LastPhaseTransitionTime
				status = volume
			}
			if !apiequality.Semantic.DeepEqual(status, fresh) {
				t.Errorf("created with status %+v, want %+v", status, fresh)
			}
			old := build(func(store.Object) {})
			spec, status := test.parts(old)
			updated := change(t, r, test.kind, ns, old.GetName(), "", both)
			newSpec, newStatus := test.parts(updated)
			if apiequality.Semantic.DeepEqual(newSpec, spec) || !apiequality.Semantic.DeepEqual(newStatus, status) {
				t.Errorf("update: %+v, %+v; want another spec and the status %+v", newSpec, newStatus, status)
			}
			want := old.GetGeneration()
			if test.grows {
				want++
			}
			if updated.GetGeneration() != want {
				t.Errorf("generation %d, want %d", updated.GetGeneration(), want)
			}
			old = build(func(store.Object) {})
			spec, status = test.parts(old)
			newSpec, newStatus = test.parts(change(t, r, test.kind, ns, old.GetName(), "status", both))
			if !apiequality.Semantic.DeepEqual(newSpec, spec) || apiequality.Semantic.DeepEqual(newStatus, status) {
				t.Errorf("status: %+v, %+v; want the spec %+v and another status", newSpec, newStatus, spec)
			}
		})
	}
}

func TestKindsKeepWhatTheyAlonePrepare(t *testing.T) {
	r := newRegistry(t)
	secret := must(t, r, Secrets, "default", examples()[Secrets].(*corev1.Secret))
	if string(secret.Data["a"]) != "1" || secret.StringData != nil || secret.Type != corev1.SecretTypeOpaque {
		t.Errorf("secret %+v, want Opaque with stringData in data", secret)
	}
	secret = change(t, r, Secrets, "default", "x", "", func(s *corev1.Secret) { s.Type, s.Data = "", nil })
	if secret.Type != corev1.SecretTypeOpaque {
		t.Errorf("type %q after an update without one, want the old one", secret.Type)
	}
	account := must(t, r, ServiceAccounts, "default", examples()[ServiceAccounts].(*corev1.ServiceAccount))
	if account.Secrets[0].Kind != "" || account.Secrets[0].Name != "s" {
		t.Errorf("account's secret %+v, want its name alone", account.Secrets[0])
	}
	claim := examples()[PersistentVolumeClaims].(*corev1.PersistentVolumeClaim)
	claim.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "from"}
	claim = must(t, r, PersistentVolumeClaims, "default", claim)
	if claim.Spec.DataSourceRef == nil || claim.Spec.DataSourceRef.Name != "from" || claim.Status.Phase != corev1.ClaimPending {
		t.Errorf("claim %+v, want its data source in both fields, pending", claim)
	}
	volume := must(t, r, PersistentVolumes, "", examples()[PersistentVolumes].(*corev1.PersistentVolume))
	if volume.Status.Phase != corev1.VolumePending || volume.Status.LastPhaseTransitionTime == nil {
		t.Errorf("volume status %+v, want pending since now", volume.Status)
	}
	template := must(t, r, PodTemplates, "default", examples()[PodTemplates].(*corev1.PodTemplate))
	template = change(t, r, PodTemplates, "default", template.Name, "", func(p *corev1.PodTemplate) { p.Template.Spec.Containers[0].Image = "other" })
	if template.Generation != 2 {
		t.Errorf("template generation %d after a change, want 2", template.Generation)
	}
	slice := must(t, r, EndpointSlices, "default", examples()[EndpointSlices].(*discoveryv1.EndpointSlice))
	slice = change(t, r, EndpointSlices, "default", slice.Name, "", func(s *discoveryv1.EndpointSlice) {
		s.Labels = map[string]string{discoveryv1.LabelServiceName: "web"}
		s.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.2"}, DeprecatedTopology: map[string]string{corev1.LabelHostname: "n1"}}}
	})
	if slice.Generation != 2 || slice.Endpoints[0].DeprecatedTopology != nil || slice.Endpoints[0].NodeName != nil {
		t.Errorf("slice %+v, want generation 2 without topology", slice)
	}
}

func TestKindsWarnOfWhatIsAllowedAndUnwise(t *testing.T) {
	for _, test := range []struct {
		kind *Kind
		edit edit
		want string
	}{
		{Secrets, of(func(s *corev1.Secret) {
			s.Type, s.StringData = corev1.SecretTypeTLS, map[string]string{"tls.crt": "no", "tls.key": "no"}
		}), "tls: failed to find any PEM data in certificate input"},
		{ServiceAccounts, of(func(a *corev1.ServiceAccount) {
			a.Annotations = map[string]string{"kubernetes.io/enforce-mountable-secrets": "true"}
		}), "metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"},
		{ResourceQuotas, of(func(q *corev1.ResourceQuota) { q.Spec.Hard["limits.cpu"] = resource.MustParse("1") }),
			"ResourceQuota cpu (4) should be less than limits.cpu (1)"},
		{EndpointSlices, of(func(s *discoveryv1.EndpointSlice) {
			s.AddressType, s.Endpoints[0].Addresses[0] = discoveryv1.AddressTypeFQDN, "example.org"
		}), "spec.addressType: FQDN endpoints are deprecated"},
		{Ingresses, of(func(i *networkingv1.Ingress) { i.Annotations = map[string]string{"kubernetes.io/ingress.class": "c"} }),
			`annotation "kubernetes.io/ingress.class" is deprecated, please use 'spec.ingressClassName' instead`},
	} {
		t.Run(test.kind.Singular, func(t *testing.T) {
			r := newRegistry(t)
			heard := &warnings{}
			obj := examples()[test.kind]
			test.edit(obj)
			ctx := warning.WithWarningRecorder(t.Context(), heard)
			if _, err := r.Create(ctx, test.kind, namespaceOf(test.kind), obj, CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(heard.texts, test.want) {
				t.Errorf("warnings %q, want %q", heard.texts, test.want)
			}
		})
	}
}
