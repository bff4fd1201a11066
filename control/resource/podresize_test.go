package resource

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/store"
)

func TestEphemeralContainersComeAndNeverGo(t *testing.T) {
	r := newRegistry(t)
	must(t, r, Pods, "default", newPod("web"))
	pod := change(t, r, Pods, "default", "web", "ephemeralcontainers", func(p *corev1.Pod) {
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "sh"}}}
		p.Spec.Containers[0].Image = "other"
		p.Labels = map[string]string{"a": "1"}
	})
	if len(pod.Spec.EphemeralContainers) != 1 || pod.Spec.EphemeralContainers[0].TerminationMessagePolicy == "" || pod.Generation != 2 {
		t.Errorf("%+v, generation %d; want one more container, with defaults, and generation 2", pod.Spec.EphemeralContainers, pod.Generation)
	}
	if pod.Spec.Containers[0].Image != "example.org/web:1" || pod.Labels != nil {
		t.Errorf("image %s, labels %v; want both as they were", pod.Spec.Containers[0].Image, pod.Labels)
	}
	err := changeErr(t, r, "ephemeralcontainers", func(p *corev1.Pod) { p.Spec.EphemeralContainers = nil })
	if !named422(err, "spec.ephemeralContainers") {
		t.Errorf("taking it away: %v, want a refusal", err)
	}
}

func TestResizeChangesResourcesOnly(t *testing.T) {
	r := newRegistry(t)
	pod := newPod("web")
	pod.Spec.Containers[0].Resources.Requests = cpu("1")
	must(t, r, Pods, "default", pod)
	pod = change(t, r, Pods, "default", "web", "resize", func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = cpu("2")
		p.Spec.Containers[0].Image = "other"
		p.Labels = map[string]string{"a": "1"}
	})
	if got := pod.Spec.Containers[0].Resources.Requests.Cpu().String(); got != "2" || pod.Generation != 2 {
		t.Errorf("%s cpu, generation %d; want 2 and 2", got, pod.Generation)
	}
	if pod.Spec.Containers[0].Image != "example.org/web:1" || pod.Labels != nil {
		t.Errorf("image %s, labels %v; want both as they were", pod.Spec.Containers[0].Image, pod.Labels)
	}
	for name, f := range map[string]func(*corev1.Pod){
		"quality of service": func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = nil },
		"a container more": func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "b", Image: "b"})
		},
		"another name": func(p *corev1.Pod) { p.Spec.Containers[0].Name = "other" },
	} {
		if err := changeErr(t, r, "resize", f); causes(err) == nil {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	if err := changeErr(t, r, "", func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = cpu("3") }); !named422(err, "spec") {
		t.Errorf("resources by the pod's own path: %v, want a refusal", err)
	}
}

// changeErr is the answer to a change of the pod web.
func changeErr(t *testing.T, r *Registry, subresource string, f func(*corev1.Pod)) error {
	t.Helper()
	_, _, err := r.Update(t.Context(), Pods, "default", "web", subresource, func(current store.Object) (store.Object, error) {
		f(current.(*corev1.Pod))
		return current, nil
	}, UpdateOptions{})
	return err
}
