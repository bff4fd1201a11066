package admission

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

func secured(name string, labels ...string) *corev1.Namespace {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
	for _, label := range labels {
		mode, level, _ := strings.Cut(label, ":")
		ns.Labels["pod-security.kubernetes.io/"+mode] = level
	}
	return ns
}

func privileged(name string) *corev1.Pod {
	pod := newPod(name)
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
	return pod
}

func TestPodSecurityHoldsPodsToTheLevelOfTheirNamespace(t *testing.T) {
	r := newRegistry(t, Settings{})
	mustCreate(t, r, resource.Namespaces, "", secured("baseline", "enforce:baseline"))
	mustCreate(t, r, resource.Namespaces, "", secured("restricted", "enforce:restricted"))
	mustCreate(t, r, resource.Namespaces, "", secured("warned", "warn:baseline"))
	for _, c := range []struct {
		namespace string
		pod       *corev1.Pod
		want      string
	}{
		{"default", privileged("p"), ""},
		{"baseline", newPod("plain"), ""},
		{"baseline", privileged("p"), `pods "p" is forbidden: violates PodSecurity "baseline:latest": privileged (container "web" must not set securityContext.privileged=true)`},
		{"restricted", newPod("plain"), `pods "plain" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false`},
		{"warned", privileged("p"), ""},
	} {
		var said recorder
		_, err := r.Create(warning.WithWarningRecorder(t.Context(), &said), resource.Pods, c.namespace, c.pod, resource.CreateOptions{})
		if c.want == "" && err != nil || c.want != "" && (!apierrors.IsForbidden(err) || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%s in %s: error %v, want %q", c.pod.Name, c.namespace, err, c.want)
		}
		if warned := len(said) == 1 && strings.HasPrefix(said[0], `would violate PodSecurity "baseline:latest"`); warned != (c.namespace == "warned") {
			t.Errorf("%s in %s: warnings %q", c.pod.Name, c.namespace, said)
		}
	}
}

func TestPodSecurityWarnsOfWorkloadsAndOfPodsThatAreThere(t *testing.T) {
	r := newRegistry(t, Settings{})
	mustCreate(t, r, resource.Namespaces, "", secured("team", "warn:baseline"))
	var said recorder
	ctx := warning.WithWarningRecorder(t.Context(), &said)
	rc := &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ReplicationControllerSpec{
		Selector: map[string]string{"app": "web"},
		Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: privileged("").Spec},
	}}
	if _, err := r.Create(ctx, resource.ReplicationControllers, "team", rc, resource.CreateOptions{}); err != nil || len(said) != 1 {
		t.Errorf("workload: error %v, warnings %q; want it let in with a warning", err, said)
	}
	mustCreate(t, r, resource.Pods, "team", privileged("old"))
	said = nil
	label := func(level string) error {
		_, _, err := r.Update(ctx, resource.Namespaces, "", "team", "", func(current store.Object) (store.Object, error) {
			current.SetLabels(map[string]string{"pod-security.kubernetes.io/enforce": level})
			return current, nil
		}, resource.UpdateOptions{})
		return err
	}
	if err := label("baseline"); err != nil || len(said) != 2 || !strings.Contains(strings.Join(said, " "), "old: privileged") {
		t.Errorf("error %v, warnings %q; want the pod named that would not be let in", err, said)
	}
	if err := label("strict"); !apierrors.IsInvalid(err) {
		t.Errorf("error %v, want a level that there is", err)
	}
}
