package endpoints

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func makeService(change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "service", Labels: map[string]string{"team": "a"}, CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))},
		Spec: corev1.ServiceSpec{
			ClusterIP:  "10.96.0.7",
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Selector:   map[string]string{"app": "web"},
			Ports:      []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("web")}},
		},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func makePod(i int, change ...func(*corev1.Pod)) *corev1.Pod {
	name := fmt.Sprint("p", i)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{
			NodeName:   "n1",
			Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}}}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.244.%d.%d", i/250, i%250+1),
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now)}},
		},
	}
	p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}, {IP: fmt.Sprintf("fd00::%x", i+1)}}
	for _, f := range change {
		f(p)
	}
	return p
}

func notReady(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func leaving(p *corev1.Pod)  { p.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }
func port(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = n }
}

func zoneA(node string) (string, bool) { return "a", node != "gone" }

// carry writes a plan as the controller does.
func carry(have []*discoveryv1.EndpointSlice, p plan, made *int) []*discoveryv1.EndpointSlice {
	for _, slice := range p.create {
		*made++
		slice.Name = fmt.Sprintf("web-%04d", *made)
		slice.UID = types.UID(slice.Name)
		have = append(have, slice)
	}
	for _, slice := range p.update {
		have[slices.IndexFunc(have, func(s *discoveryv1.EndpointSlice) bool { return s.Name == slice.Name })] = slice
	}
	return slices.DeleteFunc(have, func(s *discoveryv1.EndpointSlice) bool {
		return slices.ContainsFunc(p.remove, func(gone *discoveryv1.EndpointSlice) bool { return gone.Name == s.Name })
	})
}

// told is what slices say, in an order of their own.
func told(have []*discoveryv1.EndpointSlice) []string {
	said := []string{}
	for _, slice := range have {
		for _, e := range slice.Endpoints {
			c := e.Conditions
			state := ""
			for word, is := range map[string]*bool{"ready": c.Ready, "serving": c.Serving, "terminating": c.Terminating} {
				if ptr.Deref(is, false) {
					state += word[:1]
				}
			}
			letters := strings.Split(state, "")
			slices.Sort(letters)
			number := int32(0)
			if len(slice.Ports) > 0 {
				number = *slice.Ports[0].Port
			}
			said = append(said, fmt.Sprintf("%s:%d %s", strings.Join(e.Addresses, ","), number, strings.Join(letters, "")))
		}
	}
	slices.Sort(said)
	return said
}

func TestSaysWherePodsAre(t *testing.T) {
	for _, c := range []struct {
		what    string
		service *corev1.Service
		pods    []*corev1.Pod
		want    []string // address:port, and r(eady), s(erving), t(erminating)
		slices  int
	}{
		{what: "no pods, and a slice that says so", service: makeService(), slices: 1},
		{what: "pods by their state", service: makeService(), pods: []*corev1.Pod{makePod(1), makePod(2, notReady), makePod(3, leaving), makePod(4, leaving, notReady)},
			want: []string{"10.244.0.2:8080 rs", "10.244.0.3:8080 ", "10.244.0.4:8080 st", "10.244.0.5:8080 t"}, slices: 1},
		{what: "all are published as ready", service: makeService(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }), pods: []*corev1.Pod{makePod(1, notReady), makePod(2, leaving)},
			want: []string{"10.244.0.2:8080 r", "10.244.0.3:8080 rst"}, slices: 1},
		{what: "finished, without an address, and on no node are left out", service: makeService(), pods: []*corev1.Pod{
			makePod(1, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), makePod(2, func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil }),
			makePod(3, func(p *corev1.Pod) { p.Spec.NodeName = "gone" })}, slices: 1},
		{what: "a port by name differs between pods", service: makeService(), pods: []*corev1.Pod{makePod(1), makePod(2, port(9090))},
			want: []string{"10.244.0.2:8080 rs", "10.244.0.3:9090 rs"}, slices: 2},
		{what: "both families", service: makeService(func(s *corev1.Service) { s.Spec.IPFamilies = append(s.Spec.IPFamilies, corev1.IPv6Protocol) }), pods: []*corev1.Pod{makePod(1)},
			want: []string{"10.244.0.2:8080 rs", "fd00::2:8080 rs"}, slices: 2},
		{what: "headless without ports", service: makeService(func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.Ports = "None", nil }), pods: []*corev1.Pod{makePod(1)},
			want: []string{"10.244.0.2:0 rs"}, slices: 1},
	} {
		t.Run(c.what, func(t *testing.T) {
			made := 0
			have := carry(nil, planSlices(c.service, c.pods, zoneA, nil, nil), &made)
			if got := told(have); !slices.Equal(got, append([]string{}, c.want...)) || len(have) != c.slices {
				t.Errorf("%d slices say %q, want %d that say %q", len(have), got, c.slices, c.want)
			}
			p := planSlices(c.service, c.pods, zoneA, nil, have)
			if len(p.create)+len(p.update)+len(p.remove) > 0 {
				t.Errorf("writes %d, %d, %d slices once more, want none", len(p.create), len(p.update), len(p.remove))
			}
		})
	}
}

func TestSlicesCarryWhatProxiesAndPeopleLookFor(t *testing.T) {
	service := makeService(func(s *corev1.Service) {
		s.Spec.ClusterIP = "None"
		s.Spec.TrafficDistribution = ptr.To(corev1.ServiceTrafficDistributionPreferSameNode)
	})
	pod := makePod(1, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "host", "web" })
	slice := planSlices(service, []*corev1.Pod{pod}, zoneA, nil, nil).create[0]
	for name, want := range map[string]string{
		"team": "a", "kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io", corev1.IsHeadlessService: "",
	} {
		if got, ok := slice.Labels[name]; !ok || got != want {
			t.Errorf("label %s is %q, want %q", name, got, want)
		}
	}
	if ref := slice.OwnerReferences[0]; ref.Kind != "Service" || ref.APIVersion != "v1" || ref.UID != "service" || !*ref.Controller {
		t.Errorf("owner %+v, want the service", ref)
	}
	if got := slice.Annotations[corev1.EndpointsLastChangeTriggerTime]; got != now.Format(time.RFC3339Nano) {
		t.Errorf("triggered at %q, want when the pod became ready, %v", got, now)
	}
	e := slice.Endpoints[0]
	if *e.NodeName != "n1" || *e.Zone != "a" || *e.Hostname != "host" || e.TargetRef.Name != "p1" || e.TargetRef.UID != "p1" {
		t.Errorf("endpoint %+v, want node, zone, host name and pod", e)
	}
	if e.Hints == nil || e.Hints.ForNodes[0].Name != "n1" || e.Hints.ForZones[0].Name != "a" {
		t.Errorf("hints %+v, want the node and its zone", e.Hints)
	}
}

// However pods come and go, slices say of each pod once what it is, none has more
// endpoints than there may be, and a second look writes nothing. One pod's change
// writes one slice.
func TestSlicesFollowWithFewWrites(t *testing.T) {
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 4))
		service := makeService()
		pods := map[int]*corev1.Pod{}
		var have []*discoveryv1.EndpointSlice
		made := 0
		look := func() plan {
			var list []*corev1.Pod
			for _, p := range pods {
				list = append(list, p)
			}
			return planSlices(service, list, zoneA, nil, slices.Clone(have))
		}
		for range 30 {
			for range 1 + r.IntN(60) {
				i := r.IntN(600)
				if _, ok := pods[i]; ok && r.IntN(2) == 0 {
					delete(pods, i)
				} else {
					pods[i] = makePod(i)
				}
			}
			have = carry(have, look(), &made)
			if got := len(told(have)); got != len(pods) || len(slices.Compact(told(have))) != got {
				t.Fatalf("seed %d: %d endpoints, want %d", seed, got, len(pods))
			}
			for _, slice := range have {
				if len(slice.Endpoints) > sliceMost {
					t.Fatalf("seed %d: %d endpoints in a slice", seed, len(slice.Endpoints))
				}
			}
			if p := look(); len(p.create)+len(p.update)+len(p.remove) > 0 {
				t.Fatalf("seed %d: a second look writes", seed)
			}
			for i := range pods {
				pods[i] = makePod(i, notReady)
				p := look()
				if len(p.create)+len(p.remove) > 0 || len(p.update) != 1 {
					t.Fatalf("seed %d: one change writes %d, %d, %d slices, want one update", seed, len(p.create), len(p.update), len(p.remove))
				}
				pods[i] = makePod(i)
				break
			}
		}
	}
}

func TestEndpointsSayTheSame(t *testing.T) {
	service := makeService(func(s *corev1.Service) {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "metrics", Port: 90, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(9000)})
	})
	pods := []*corev1.Pod{makePod(2), makePod(1), makePod(3, notReady), makePod(4, leaving), makePod(5, port(9090))}
	e := endpointsOf(service, pods, nil)
	var got []string
	for _, s := range e.Subsets {
		text := ""
		for _, a := range s.Addresses {
			text += a.IP + " "
		}
		for _, a := range s.NotReadyAddresses {
			text += "!" + a.IP + " "
		}
		for _, p := range s.Ports {
			text += fmt.Sprint(p.Name, "=", p.Port, " ")
		}
		got = append(got, text)
	}
	slices.Sort(got)
	want := []string{"10.244.0.2 10.244.0.3 !10.244.0.4 http=8080 ", "10.244.0.2 10.244.0.3 10.244.0.6 !10.244.0.4 metrics=9000 ", "10.244.0.6 http=9090 "}
	if !slices.Equal(got, want) {
		t.Errorf("subsets %q, want %q", got, want)
	}
	if e.Labels[managedByLabel] != writtenBy || e.Labels["team"] != "a" || len(e.Labels) != 2 {
		t.Errorf("labels %v, want the service's and who wrote it", e.Labels)
	}
	slices.Reverse(pods)
	if again := endpointsOf(service, pods, e); fmt.Sprint(again.Annotations) != fmt.Sprint(e.Annotations) || len(again.Subsets) != len(e.Subsets) {
		t.Errorf("a second look says %v, want the same as %v", again, e)
	}
}

func TestEndpointsAreCutOff(t *testing.T) {
	var pods []*corev1.Pod
	for i := range 1300 {
		if i%2 == 0 {
			pods = append(pods, makePod(i, notReady))
		} else {
			pods = append(pods, makePod(i))
		}
	}
	e := endpointsOf(makeService(), pods, nil)
	if s := e.Subsets[0]; len(s.Addresses) != 650 || len(s.NotReadyAddresses) != 350 || e.Annotations[corev1.EndpointsOverCapacity] != "truncated" {
		t.Errorf("%d ready and %d others, annotations %v, want 650 and 350, truncated", len(s.Addresses), len(s.NotReadyAddresses), e.Annotations)
	}
}
