package auth

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func selector(s string) fields.Selector { return fields.ParseSelectorOrDie(s) }

// What a stolen node certificate opens: its own node, its own pods, and what they
// refer to.
func TestNodesReachWhatTheirPodsNeed(t *testing.T) {
	c := newCluster(t)
	on := func(node, secret, configMap, account string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.NodeName, p.Spec.ServiceAccountName = node, account
			p.Spec.Volumes = []corev1.Volume{
				{Name: "a", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}},
				{Name: "b", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim-" + node}}},
			}
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: configMap}}}}
			p.Spec.ResourceClaims = []corev1.PodResourceClaim{
				{Name: "a", ResourceClaimName: new("device-" + node)}, {Name: "b", ResourceClaimTemplateName: new("t")},
			}
			p.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "b", ResourceClaimName: new("made-" + node)}}
			p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull-" + node}}
		}
	}
	c.create(store.Pods,
		storetest.Pod("default", "mine", on("n1", "s1", "c1", "sa1")), storetest.Pod("default", "theirs", on("n2", "s2", "c2", "sa2")),
		storetest.Pod("default", "pending", on("", "s3", "c3", "sa3")),
		storetest.Pod("default", "mirror", on("n1", "s4", "c4", "sa4"), func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }))
	for _, node := range []string{"-n1", "-n2", ""} {
		slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "slice" + node}}
		if node != "" {
			slice.Spec.NodeName = new(node[1:])
		}
		c.create(store.ResourceSlices, slice)
	}
	n1 := person("system:node:n1", "system:nodes", "system:authenticated")

	get := func(resource, name string) Attributes {
		return Attributes{User: n1, Verb: "get", Resource: resource, Namespace: "default", Name: name}
	}
	of := func(verb, group, resource, sub, namespace, name, fields string) Attributes {
		a := Attributes{User: n1, Verb: verb, Group: group, Resource: resource, Subresource: sub, Namespace: namespace, Name: name}
		if fields != "" {
			a.Fields = selector(fields)
		}
		return a
	}
	for _, test := range []struct {
		name    string
		request Attributes
		want    bool
	}{
		{"its own node", of("get", "", "nodes", "", "", "n1", ""), true},
		{"another node", of("get", "", "nodes", "", "", "n2", ""), false},
		{"all nodes", of("list", "", "nodes", "", "", "", ""), false},
		{"watches itself", of("watch", "", "nodes", "", "", "n1", "metadata.name=n1"), true},
		{"watches another", of("watch", "", "nodes", "", "", "n2", "metadata.name=n2"), false},
		{"changes itself", of("patch", "", "nodes", "", "", "n1", ""), true},
		{"changes another", of("patch", "", "nodes", "status", "", "n2", ""), false},
		{"deletes its own node", of("delete", "", "nodes", "", "", "n1", ""), false},
		{"proxies to its own node", of("get", "", "nodes", "proxy", "", "n1", ""), false},

		{"its own pod", get("pods", "mine"), true},
		{"another node's pod", get("pods", "theirs"), false},
		{"a pod bound to nobody", get("pods", "pending"), false},
		{"a pod that does not exist", get("pods", "none"), false},
		{"its own pods", of("list", "", "pods", "", "", "", "spec.nodeName=n1,status.phase!=Failed"), true},
		{"all but its own pods", of("watch", "", "pods", "", "", "", "spec.nodeName!=n1"), false},
		{"all pods", of("list", "", "pods", "", "", "", ""), false},
		{"changes its own pod", of("patch", "", "pods", "", "default", "mine", ""), false},
		{"its pod's status", of("patch", "", "pods", "status", "default", "mine", ""), true},
		{"another's pod's status", of("update", "", "pods", "status", "default", "theirs", ""), false},
		{"evicts its own pod", of("create", "", "pods", "eviction", "default", "mine", ""), true},
		{"evicts another's", of("create", "", "pods", "eviction", "default", "theirs", ""), false},
		{"deletes another's", of("delete", "", "pods", "", "default", "theirs", ""), false},
		{"exec into its own pod", of("create", "", "pods", "exec", "default", "mine", ""), false},
		{"deletes its pods all at once", of("deletecollection", "", "pods", "", "default", "", "spec.nodeName=n1"), false},
		{"pods of another group", of("get", "metrics.k8s.io", "pods", "", "default", "mine", ""), false},

		{"its pod's secret", get("secrets", "s1"), true},
		{"its pod's pull secret", get("secrets", "pull-n1"), true},
		{"another's secret", get("secrets", "s2"), false},
		{"the secret of a pod that is bound to nobody", get("secrets", "s3"), false},
		{"the secret of a pod that it made", get("secrets", "s4"), false},
		{"a secret of that name in another namespace", of("get", "", "secrets", "", "kube-system", "s1", ""), false},
		{"watches its pod's secret", of("watch", "", "secrets", "", "default", "s1", "metadata.name=s1"), true},
		{"all secrets", of("list", "", "secrets", "", "default", "", ""), false},
		{"changes its pod's secret", of("update", "", "secrets", "", "default", "s1", ""), false},
		{"its pod's config map", get("configmaps", "c1"), true},
		{"another's config map", get("configmaps", "c2"), false},
		{"its pod's claim", get("persistentvolumeclaims", "claim-n1"), true},
		{"another's claim", get("persistentvolumeclaims", "claim-n2"), false},
		{"its pod's claim's status", of("patch", "", "persistentvolumeclaims", "status", "default", "claim-n1", ""), true},
		{"a volume that nobody claims", of("get", "", "persistentvolumes", "", "", "pv", ""), false},
		{"a token of its pod's account", of("create", "", "serviceaccounts", "token", "default", "sa1", ""), true},
		{"a token of another's", of("create", "", "serviceaccounts", "token", "default", "sa2", ""), false},
		{"its pod's account", of("get", "", "serviceaccounts", "", "default", "sa1", ""), true},
		{"an account of that name in no namespace", of("get", "", "serviceaccounts", "", "", "sa1", ""), false},
		{"an account", of("create", "", "serviceaccounts", "", "default", "sa1", ""), false},

		{"its own lease", of("update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n1", ""), true},
		{"another's lease", of("update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n2", ""), false},
		{"a lease elsewhere", of("update", "coordination.k8s.io", "leases", "", "kube-system", "n1", ""), false},
		{"all leases", of("list", "coordination.k8s.io", "leases", "", "kube-node-lease", "", ""), false},
		{"its own CSINode", of("patch", "storage.k8s.io", "csinodes", "", "", "n1", ""), true},
		{"another's CSINode", of("patch", "storage.k8s.io", "csinodes", "", "", "n2", ""), false},

		{"its pod's device claim", of("get", "resource.k8s.io", "resourceclaims", "", "default", "device-n1", ""), true},
		{"the device claim made for its pod", of("get", "resource.k8s.io", "resourceclaims", "", "default", "made-n1", ""), true},
		{"another's device claim", of("get", "resource.k8s.io", "resourceclaims", "", "default", "device-n2", ""), false},
		{"its pod's device claim's status", of("update", "resource.k8s.io", "resourceclaims", "status", "default", "device-n1", ""), false},
		{"its own devices", of("update", "resource.k8s.io", "resourceslices", "", "", "slice-n1", ""), true},
		{"another's devices", of("delete", "resource.k8s.io", "resourceslices", "", "", "slice-n2", ""), false},
		{"devices of no node", of("get", "resource.k8s.io", "resourceslices", "", "", "slice", ""), false},
		{"all its own devices", of("deletecollection", "resource.k8s.io", "resourceslices", "", "", "", "spec.nodeName=n1"), true},
		{"all devices", of("list", "resource.k8s.io", "resourceslices", "", "", "", ""), false},
		{"offers devices", of("create", "resource.k8s.io", "resourceslices", "", "", "", ""), true},
		{"trust bundles", of("list", "certificates.k8s.io", "clustertrustbundles", "", "", "", ""), true},

		{"an event", of("create", "", "events", "", "default", "", ""), true},
		{"reads events", of("list", "", "events", "", "", "", ""), false},
		{"services", of("list", "", "services", "", "", "", ""), true},
		{"changes services", of("update", "", "services", "", "default", "web", ""), false},
		{"reviews a token", of("create", "authentication.k8s.io", "tokenreviews", "", "", "", ""), true},
		{"reads roles", of("list", "rbac.authorization.k8s.io", "clusterroles", "", "", "", ""), false},
		{"metrics", Attributes{User: n1, Verb: "get", Path: "/metrics"}, false},
	} {
		if got := c.may(test.request); got.Allowed != test.want {
			t.Errorf("%s: allowed %t (%s), want %t", test.name, got.Allowed, got.Reason(), test.want)
		}
	}
	for name, u := range map[string]Attributes{
		"a node's name without the group":   {User: person("system:node:n1"), Verb: "get", Resource: "nodes", Name: "n1"},
		"the group without a node's name":   {User: person("n1", "system:nodes"), Verb: "get", Resource: "nodes", Name: "n1"},
		"a node of no name":                 {User: person("system:node:", "system:nodes"), Verb: "get", Resource: "nodes"},
		"a service account named like node": {User: person("system:serviceaccount:system:node:n1", "system:nodes"), Verb: "get", Resource: "nodes", Name: "n1"},
	} {
		if c.may(u).Allowed {
			t.Errorf("%s is taken for a node", name)
		}
	}
	if got, want := c.may(get("secrets", "s2")).Reason(), "no relationship found between node 'n1' and this object"; got != want {
		t.Errorf("reason %q, want %q", got, want)
	}
	if got, want := c.may(get("secrets", "none")).Reason(), c.may(get("secrets", "s2")).Reason(); got != want {
		t.Errorf("a secret that does not exist: %q, want %q as for another's", got, want)
	}
}

// The pod may have been bound through another control node a moment ago: what
// it refers to is looked up when it is asked for.
func TestANodeReachesWhatAPodNeedsAsSoonAsItIsBound(t *testing.T) {
	c := newCluster(t)
	request := Attributes{User: person("system:node:n1", "system:nodes"), Verb: "get", Resource: "configmaps", Namespace: "a", Name: "settings"}
	pod := storetest.Pod("a", "web", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}}
	})
	c.create(store.Pods, pod)
	if c.may(request).Allowed {
		t.Error("allowed before the pod is bound")
	}
	pod.Spec.NodeName = "n1"
	if _, err := c.store.Table(store.Pods).Update(t.Context(), pod, 0); err != nil {
		t.Fatal(err)
	}
	if !c.may(request).Allowed {
		t.Error("refused once the pod is bound")
	}
	if _, err := c.store.Table(store.Pods).Delete(t.Context(), "a", "web", 0, ""); err != nil {
		t.Fatal(err)
	}
	if c.may(request).Allowed {
		t.Error("allowed though the pod is gone")
	}
}
