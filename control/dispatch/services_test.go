package dispatch

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// What is in a container's environment must be at the node before its pod is, and
// follow services that come later: the next container sees them.
func TestAgentsAreToldOfServicesInTheirPodsEnvironment(t *testing.T) {
	n := newControlNodes(t, "c1")[0]
	put := func(namespace, name, ip string, port int32) {
		t.Helper()
		if _, err := store.Of[*corev1.Service](n.store, store.Services).Create(t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec:       corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: port}}, Selector: map[string]string{"a": "b"}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	pod := func(namespace, name string, links bool) {
		t.Helper()
		if _, err := n.registry.Create(t.Context(), resource.Pods, namespace, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.PodSpec{NodeName: "n1", EnableServiceLinks: &links, Containers: []corev1.Container{{Name: "main", Image: "hello"}}},
		}, resource.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	put("default", "kubernetes", "10.0.0.1", 443)
	put("default", "headless", corev1.ClusterIPNone, 80)
	put("team", "db", "10.0.0.2", 5432)
	put("other", "secret", "10.0.0.3", 80)
	pod("team", "web", true)
	agent := n.connect("n1")
	agent.keepBeating()
	n.givePodCIDR("n1")
	hear := func(want ...string) {
		t.Helper()
		for _, w := range want {
			if got := agent.hearServices(); got != w {
				t.Fatalf("heard %s, want %s", got, w)
			}
		}
	}
	hear("default/kubernetes: kubernetes=10.0.0.1:443", "team/: db=10.0.0.2:5432")
	put("other", "more", "10.0.0.5", 80)
	put("team", "cache", "10.0.0.4", 6379)
	hear("team/: cache=10.0.0.4:6379 db=10.0.0.2:5432")
	pod("quiet", "alone", false) // wants the API alone, which the node has
	pod("default", "first", true)
	hear("default/: kubernetes=10.0.0.1:443")
	if _, err := store.Of[*corev1.Pod](n.store, store.Pods).Delete(t.Context(), "team", "web", 0, ""); err != nil {
		t.Fatal(err)
	}
	hear("team/: dropped")
}
