package admission

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

func as(ctx context.Context, name string, groups ...string) context.Context {
	return genericrequest.WithUser(ctx, &user.DefaultInfo{Name: name, Groups: groups})
}

// What a node that was taken over may change of itself: what says how it is, and
// nothing that draws pods to it or outlasts it.
func TestANodeChangesOfItselfOnlyHowItIs(t *testing.T) {
	r := newRegistry(t, Settings{})
	labels := map[string]string{"zone": "a", "kubernetes.io/hostname": "n1", "node-restriction.kubernetes.io/secret": "no"}
	for _, name := range []string{"n1", "n2"} {
		if _, err := r.Create(t.Context(), resource.Nodes, "", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, resource.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	n1, admin := as(t.Context(), "system:node:n1", user.NodesGroup), as(t.Context(), "root", user.SystemPrivilegedGroup)
	set := func(key, value string) func(*corev1.Node) { return func(n *corev1.Node) { n.Labels[key] = value } }
	for _, c := range []struct {
		name   string
		who    context.Context
		node   string
		path   string
		change func(*corev1.Node)
		want   string // a part of the refusal
	}{
		{"its status", n1, "n1", "status", func(n *corev1.Node) { n.Status.NodeInfo.KernelVersion = "6.1" }, ""},
		{"another's status", n1, "n2", "status", func(n *corev1.Node) { n.Status.NodeInfo.KernelVersion = "6.1" }, `not allowed to modify node "n2"`},
		{"a label of its own", n1, "n1", "", set("zone", "b"), ""},
		{"a label that nodes say", n1, "n1", "status", set("kubernetes.io/arch", "arm64"), ""},
		{"a label for isolation", n1, "n1", "", set("node-restriction.kubernetes.io/secret", "yes"), "not allowed to modify labels: node-restriction.kubernetes.io/secret"},
		{"the same through its status", n1, "n1", "status", set("node-restriction.kubernetes.io/secret", "yes"), "not allowed to modify labels"},
		{"a label for isolation, with a prefix", n1, "n1", "", set("team.node-restriction.kubernetes.io/a", "b"), "not allowed to modify labels"},
		{"a label for isolation less", n1, "n1", "", func(n *corev1.Node) { delete(n.Labels, "node-restriction.kubernetes.io/secret") }, "not allowed to modify labels"},
		{"a role", n1, "n1", "", set("node-role.kubernetes.io/control-plane", ""), "not allowed to modify labels"},
		{"a taint", n1, "n1", "", func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectNoSchedule}}
		}, "not allowed to modify taints"},
		{"a finalizer", n1, "n1", "status", func(n *corev1.Node) { n.Finalizers = []string{"example.org/stay"} }, "finalizers"},
		{"an owner", n1, "n1", "", func(n *corev1.Node) {
			n.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n2", UID: "x"}}
		}, "ownerReferences"},
		{"a label for isolation, by an administrator", admin, "n1", "", set("node-restriction.kubernetes.io/secret", "yes"), ""},
	} {
		_, _, err := r.Update(c.who, resource.Nodes, "", c.node, c.path, func(current store.Object) (store.Object, error) {
			c.change(current.(*corev1.Node))
			return current, nil
		}, resource.UpdateOptions{})
		refused(t, c.name, err, c.want)
	}
	fresh := func(name string, labels map[string]string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	}
	n3 := as(t.Context(), "system:node:n3", user.NodesGroup)
	_, err := r.Create(n3, resource.Nodes, "", fresh("n4", nil), resource.CreateOptions{})
	refused(t, "creates another", err, `not allowed to modify node "n4"`)
	_, err = r.Create(n3, resource.Nodes, "", fresh("n3", map[string]string{"node-role.kubernetes.io/master": ""}), resource.CreateOptions{})
	refused(t, "creates itself with a role", err, "not allowed to set the following labels: node-role.kubernetes.io/master")
	_, err = r.Create(n3, resource.Nodes, "", fresh("n3", map[string]string{"zone": "c"}), resource.CreateOptions{})
	refused(t, "creates itself", err, "")
}

// refused checks that an error is a refusal with want in it, or none for "".
func refused(t *testing.T, what string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v, want it allowed", what, err)
	case want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: %v, want 403 with %q", what, err, want)
	}
}

func TestANodeTouchesItsOwnPodsOnly(t *testing.T) {
	r := newRegistry(t, Settings{})
	self, err := r.Create(t.Context(), resource.Nodes, "", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, resource.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, node := range map[string]string{"mine": "n1", "theirs": "n2"} {
		pod := newPod(name)
		pod.Spec.NodeName = node
		if _, err := create(t, r, "default", pod); err != nil {
			t.Fatal(err)
		}
	}
	n1 := as(t.Context(), "system:node:n1", user.NodesGroup)
	status := func(name string, change func(*corev1.Pod)) error {
		_, _, err := r.Update(n1, resource.Pods, "default", name, "status", func(current store.Object) (store.Object, error) {
			change(current.(*corev1.Pod))
			return current, nil
		}, resource.UpdateOptions{})
		return err
	}
	refused(t, "its pod's status", status("mine", func(p *corev1.Pod) { p.Status.Message = "x" }), "")
	refused(t, "another's pod's status", status("theirs", func(p *corev1.Pod) { p.Status.Message = "x" }), "can only update pod status for pods with spec.nodeName set to itself")
	refused(t, "a label", status("mine", func(p *corev1.Pod) { p.Labels = map[string]string{"app": "db"} }), "cannot update labels")
	refused(t, "an annotation", status("mine", func(p *corev1.Pod) { p.Annotations = map[string]string{"a": "b"} }), "not metadata")
	refused(t, "a finalizer", status("mine", func(p *corev1.Pod) { p.Finalizers = []string{"example.org/stay"} }), "not metadata")
	_, _, err = r.Delete(n1, resource.Pods, "default", "theirs", &metav1.DeleteOptions{})
	refused(t, "deletes another's", err, "can only delete pods with spec.nodeName set to itself")
	_, _, err = r.Delete(n1, resource.Pods, "default", "mine", &metav1.DeleteOptions{})
	refused(t, "deletes its own", err, "")

	yes := true
	mirror := func(change func(*corev1.Pod)) error {
		pod := newPod("mirror")
		pod.Spec.NodeName = "n1"
		pod.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x", "kubernetes.io/config.source": "file", "kubernetes.io/config.hash": "x"}
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: self.GetUID(), Controller: &yes}}
		change(pod)
		_, err := r.Create(n1, resource.Pods, "default", pod, resource.CreateOptions{DryRun: true})
		return err
	}
	refused(t, "a pod for itself", mirror(func(p *corev1.Pod) { p.Annotations = nil }), "can only create mirror pods")
	refused(t, "a mirror pod of another", mirror(func(p *corev1.Pod) { p.Spec.NodeName = "n2" }), "spec.nodeName set to itself")
	refused(t, "a mirror pod without an owner", mirror(func(p *corev1.Pod) { p.OwnerReferences = nil }), "single owner reference")
	refused(t, "a mirror pod of a node that was", mirror(func(p *corev1.Pod) { p.OwnerReferences[0].UID = types.UID("old") }), "UID mismatch")
	refused(t, "a mirror pod with a secret", mirror(func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "a", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
	}), "may not reference secrets")
	refused(t, "a mirror pod", mirror(func(*corev1.Pod) {}), "")
}
