package resource

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
)

// examples are an object of each kind that its rules accept, called x unless
// the kind demands another name.
func examples() map[*Kind]store.Object {
	all := map[*Kind]store.Object{}
	for _, family := range []map[*Kind]store.Object{coreExamples(), appsExamples(), admissionExamples(), networkingExamples(), clusterExamples(), deviceExamples(), extensionExamples(), apiregistrationExamples(), rbacExamples()} {
		maps.Copy(all, family)
	}
	return all
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

func coreExamples() map[*Kind]store.Object {
	return map[*Kind]store.Object{
		ConfigMaps: &corev1.ConfigMap{ObjectMeta: named("x"), Data: map[string]string{"a": "1"}},
		Endpoints: &corev1.Endpoints{ObjectMeta: named("x"), Subsets: []corev1.EndpointSubset{{ //nolint:staticcheck // served all the same
			Addresses: []corev1.EndpointAddress{{IP: "10.0.0.1"}}, Ports: []corev1.EndpointPort{{Port: 80}},
		}}},
		Events: newEvent("x"),
		LimitRanges: &corev1.LimitRange{ObjectMeta: named("x"), Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
			Type: corev1.LimitTypeContainer, Max: cpu("2"),
		}}}},
		Namespaces: &corev1.Namespace{ObjectMeta: named("x")},
		Nodes:      newNode("x"),
		PersistentVolumes: &corev1.PersistentVolume{ObjectMeta: named("x"), Spec: corev1.PersistentVolumeSpec{
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}},
		}},
		PersistentVolumeClaims: &corev1.PersistentVolumeClaim{ObjectMeta: named("x"), Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		}},
		Pods:                   newPod("x"),
		PodTemplates:           &corev1.PodTemplate{ObjectMeta: named("x"), Template: *newRC("x", 1).Spec.Template},
		ReplicationControllers: newRC("x", 1),
		ResourceQuotas:         &corev1.ResourceQuota{ObjectMeta: named("x"), Spec: corev1.ResourceQuotaSpec{Hard: cpu("4")}},
		Secrets:                &corev1.Secret{ObjectMeta: named("x"), StringData: map[string]string{"a": "1"}},
		Services:               newService("x", func(s *corev1.ServiceSpec) { s.ClusterIP = corev1.ClusterIPNone }),
		ServiceAccounts:        &corev1.ServiceAccount{ObjectMeta: named("x"), Secrets: []corev1.ObjectReference{{Kind: "Secret", Name: "s"}}},
	}
}

func networkingExamples() map[*Kind]store.Object {
	backend := &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "web", Port: networkingv1.ServiceBackendPort{Number: 80}}}
	return map[*Kind]store.Object{
		EndpointSlices: &discoveryv1.EndpointSlice{ObjectMeta: named("x"), AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}}},
		NetworkPolicies: &networkingv1.NetworkPolicy{ObjectMeta: named("x"), Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		}},
		Ingresses:      &networkingv1.Ingress{ObjectMeta: named("x"), Spec: networkingv1.IngressSpec{DefaultBackend: backend}},
		IngressClasses: &networkingv1.IngressClass{ObjectMeta: named("x"), Spec: networkingv1.IngressClassSpec{Controller: "example.org/ingress"}},
		ServiceCIDRs:   &networkingv1.ServiceCIDR{ObjectMeta: named("x"), Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.99.0.0/16"}}},
		IPAddresses: &networkingv1.IPAddress{ObjectMeta: named("10.99.0.1"), Spec: networkingv1.IPAddressSpec{
			ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "web"},
		}},
	}
}

func cpu(quantity string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(quantity)}
}
