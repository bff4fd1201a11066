package endpoints

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func lead(m *test.Term) {
	m.Run(New(Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run)
}

func service(name string, selector map[string]string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			ClusterIP: corev1.ClusterIPNone, Selector: selector,
			Ports: []corev1.ServicePort{{Port: 80}},
		},
	}
}

// runPod makes a pod that runs on node n1, with an address.
func runPod(t *testing.T, m *test.Term, i int) *corev1.Pod {
	t.Helper()
	pod := test.Pod(fmt.Sprint("p", i))
	pod.Labels = map[string]string{"app": "web"}
	pod = test.Create(m, resource.Pods, pod)
	if err := m.Registry.BindMany(t.Context(), []resource.Binding{{Namespace: "default", Pod: pod.Name, UID: pod.UID, Node: "n1"}})[0]; err != nil {
		t.Fatal(err)
	}
	test.Change(m, resource.Pods, "default", pod.Name, "status", func(p *corev1.Pod) {
		p.Status.PodIP = fmt.Sprint("10.244.0.", i)
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	})
	m.SetReady(pod, true)
	return pod
}

func stored(m *test.Term, service string) (found []*discoveryv1.EndpointSlice) {
	for _, slice := range test.List[*discoveryv1.EndpointSlice](m, store.EndpointSlices) {
		if slice.Labels[discoveryv1.LabelServiceName] == service {
			found = append(found, slice)
		}
	}
	return found
}

func wantTold(t *testing.T, m *test.Term, service string, want ...string) {
	t.Helper()
	test.Eventually(t, func() string {
		if got := told(stored(m, service)); !slices.Equal(got, append([]string{}, want...)) {
			return fmt.Sprintf("slices say %q, want %q", got, want)
		}
		return ""
	})
}

func TestFollowsPodsAndRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		lead(m)
		test.Create(m, resource.Services, service("web", map[string]string{"app": "web"}))
		runPod(t, m, 1) // its node is not there yet
		time.Sleep(time.Second)
		wantTold(t, m, "web")
		test.Create(m, resource.Nodes, test.Node("n1"))
		wantTold(t, m, "web", "10.244.0.1:80 rs")
		second := runPod(t, m, 2)
		wantTold(t, m, "web", "10.244.0.1:80 rs", "10.244.0.2:80 rs")
		m.SetReady(second, false)
		wantTold(t, m, "web", "10.244.0.1:80 rs", "10.244.0.2:80 ")
		test.Eventually(t, func() string {
			e, ok := test.Get[*endpointsObject](m, store.Endpoints, "default", "web")
			if !ok || len(e.Subsets) != 1 || len(e.Subsets[0].Addresses) != 1 || len(e.Subsets[0].NotReadyAddresses) != 1 {
				return fmt.Sprintf("endpoints %v, want one ready and one not", e)
			}
			return ""
		})
		m.Delete(resource.Pods, "default", "p1") // takes its time
		wantTold(t, m, "web", "10.244.0.1:80 st", "10.244.0.2:80 ")
		if len(stored(m, "web")) != 1 {
			t.Errorf("%d slices, want 1", len(stored(m, "web")))
		}
		before := m.Settled(time.Second)
		time.Sleep(24 * time.Hour)
		if after := m.Registry.Store().Revision(); after != before {
			t.Errorf("%d writes while nothing happened", after-before)
		}
		m.Delete(resource.Services, "default", "web")
		test.Eventually(t, func() string {
			if _, there := test.Get[*endpointsObject](m, store.Endpoints, "default", "web"); there {
				return "the endpoints of a service that is gone are there"
			}
			return ""
		})
	})
}

func TestMirrorsWhatOthersWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		lead(m)
		test.Create(m, resource.Endpoints, &endpointsObject{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "outside", Annotations: map[string]string{"note": "x", corev1.LastAppliedConfigAnnotation: "{}"}},
			Subsets: []subset{{
				Addresses:         []address{{IP: "192.0.2.1"}, {IP: "2001:db8::1"}},
				NotReadyAddresses: []address{{IP: "192.0.2.2"}},
				Ports:             []endpointPort{{Port: 443, Protocol: corev1.ProtocolTCP}},
			}},
		})
		time.Sleep(time.Second)
		wantTold(t, m, "outside") // there is no service
		test.Create(m, resource.Services, service("outside", nil))
		wantTold(t, m, "outside", "192.0.2.1:443 r", "192.0.2.2:443 ", "2001:db8::1:443 r")
		for _, slice := range stored(m, "outside") {
			if slice.Labels[discoveryv1.LabelManagedBy] != mirroredBy || slice.OwnerReferences[0].Kind != "Endpoints" || slice.Annotations["note"] != "x" || len(slice.Annotations) != 1 {
				t.Errorf("slice %+v, want one that mirrors", slice.ObjectMeta)
			}
		}
		test.Change(m, resource.Endpoints, "default", "outside", "", func(e *endpointsObject) { e.Subsets[0].Addresses = nil })
		wantTold(t, m, "outside", "192.0.2.2:443 ")
		test.Change(m, resource.Endpoints, "default", "outside", "", func(e *endpointsObject) {
			e.Labels = map[string]string{discoveryv1.LabelSkipMirror: "true"}
		})
		wantTold(t, m, "outside")
		before := m.Settled(time.Second)
		time.Sleep(24 * time.Hour)
		if after := m.Registry.Store().Revision(); after != before {
			t.Errorf("%d writes while nothing happened", after-before)
		}
	})
}

func TestLeaderDiesAtAnyWrite(t *testing.T) {
	test.LeaderDiesAtAnyWrite(t, 5, func(t *testing.T, user *test.Term) {
		test.Create(user, resource.Nodes, test.Node("n1"))
		test.Create(user, resource.Services, service("web", map[string]string{"app": "web"}))
		for i := range 3 {
			runPod(t, user, i+1)
		}
	}, lead, func(t *testing.T, m *test.Term) {
		wantTold(t, m, "web", "10.244.0.1:80 rs", "10.244.0.2:80 rs", "10.244.0.3:80 rs")
		if got := stored(m, "web"); len(got) != 1 {
			t.Errorf("%d slices, want 1", len(got))
		}
	})
}
