package endpoints

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func inZones(counts ...int) map[string]string {
	own := map[string]string{}
	for z, n := range counts {
		for i := range n {
			own[fmt.Sprintf("%c%02d", 'a'+z, i)] = fmt.Sprint("z", z)
		}
	}
	return own
}

func countsOf(zones map[string]string) map[string]int {
	counts := map[string]int{}
	for _, zone := range zones {
		counts[zone]++
	}
	return counts
}

func TestZonesHaveEndpointsAsTheyHaveCores(t *testing.T) {
	third := map[string]float64{"z0": 1. / 3, "z1": 1. / 3, "z2": 1. / 3}
	for name, c := range map[string]struct {
		own    map[string]string
		shares map[string]float64
		want   map[string]int
		why    string
	}{
		"even":                {inZones(3, 3, 3), third, map[string]int{"z0": 3, "z1": 3, "z2": 3}, ""},
		"one gives":           {inZones(5, 3, 1), third, map[string]int{"z0": 3, "z1": 3, "z2": 3}, ""},
		"an empty zone":       {inZones(9, 0, 0), third, map[string]int{"z0": 3, "z1": 3, "z2": 3}, ""},
		"unequal zones":       {inZones(5, 5), map[string]float64{"z0": .7, "z1": .3}, map[string]int{"z0": 7, "z1": 3}, ""},
		"a zone with no core": {inZones(4, 4, 2), map[string]float64{"z0": .5, "z1": .5}, map[string]int{"z0": 5, "z1": 5}, ""},
		"too few":             {inZones(1, 1), third, nil, tooFewEnds},
		"too uneven":          {inZones(2, 1, 1), third, nil, tooUneven},
		"no shares":           {inZones(3, 3), nil, nil, noShares},
		"no zone":             {map[string]string{"a": "z0", "b": "z1", "c": "", "d": "z2"}, map[string]float64{"z0": .5, "z1": .5}, nil, noZone},
	} {
		zones, why := spread(c.own, nil, c.shares)
		if got := countsOf(zones); !strings.HasPrefix(why, c.why) || (why == "") != (c.why == "") || c.want != nil && !maps.Equal(got, c.want) {
			t.Errorf("%s: %v %q, want %v %q", name, got, why, c.want, c.why)
		}
	}
}

// Whatever zones there are, each has its least, all endpoints are for a zone with cores, the
// outcome is the same each time, and stays when it is looked at again.
func TestNoZoneIsOverloaded(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	spreads := 0
	for range 3000 {
		counts := make([]int, 2+random.IntN(4))
		shares, total := map[string]float64{}, 0.0
		for z := range counts {
			counts[z] = random.IntN(12)
			shares[fmt.Sprint("z", z)] = 1 + 4*random.Float64()
			total += shares[fmt.Sprint("z", z)]
		}
		for zone := range shares {
			shares[zone] /= total
		}
		own := inZones(counts...)
		before := map[string]string{}
		for id := range own {
			if random.IntN(3) > 0 {
				before[id] = fmt.Sprint("z", random.IntN(len(counts)+1))
			}
		}
		zones, why := spread(own, before, shares)
		if why != "" {
			continue
		}
		spreads++
		has := countsOf(zones)
		for zone, share := range shares {
			if least := int(math.Ceil(share * float64(len(own)) / (1 + overload))); has[zone] < least {
				t.Fatalf("%v of %v before %v: %v, want %d in %s at least", own, shares, before, has, least, zone)
			}
			delete(has, zone)
		}
		if len(has) > 0 || len(zones) != len(own) {
			t.Fatalf("%v: %d of %d endpoints, %v in no zone", own, len(zones), len(own), has)
		}
		if again, _ := spread(own, before, shares); !maps.Equal(again, zones) {
			t.Fatalf("%v and then %v", zones, again)
		}
		if after, _ := spread(own, zones, shares); !maps.Equal(after, zones) {
			t.Fatalf("%v becomes %v when it is looked at again", zones, after)
		}
	}
	if spreads < 500 {
		t.Errorf("only %d were spread", spreads)
	}
}

func TestAServiceInAutoModeIsHinted(t *testing.T) {
	m := test.Begin(t, storetest.New(t))
	m.Run(New(Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run)
	for i, zone := range []string{"east", "west"} {
		node := test.Node(fmt.Sprint("n", i))
		node.Labels[corev1.LabelTopologyZone] = zone
		test.Create(m, resource.Nodes, node)
	}
	service := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}}}
	service.Namespace, service.Name = "default", "web"
	service.Annotations = map[string]string{corev1.AnnotationTopologyMode: "Auto"}
	test.Create(m, resource.Services, service)
	for i := range 4 {
		pod := test.Pod(fmt.Sprint("p", i))
		pod.Labels = map[string]string{"app": "web"}
		pod.Spec.NodeName = fmt.Sprint("n", i/3) // three of four are in the east
		pod = test.Create(m, resource.Pods, pod)
		test.Change(m, resource.Pods, "default", pod.Name, "status", func(p *corev1.Pod) {
			p.Status.PodIP, p.Status.PodIPs = fmt.Sprint("10.0.0.", i+1), []corev1.PodIP{{IP: fmt.Sprint("10.0.0.", i+1)}}
		})
		m.SetReady(pod, true)
	}
	hinted := func(want map[string]int) func() string {
		return func() string {
			got := map[string]int{}
			for _, slice := range test.List[*discoveryv1.EndpointSlice](m, store.EndpointSlices) {
				for _, e := range slice.Endpoints {
					if e.Hints != nil {
						got[e.Hints.ForZones[0].Name]++
					}
				}
			}
			if !maps.Equal(got, want) {
				return fmt.Sprintf("endpoints for zones %v, want %v", got, want)
			}
			return ""
		}
	}
	test.Eventually(t, hinted(map[string]int{"east": 2, "west": 2}))
	// The west loses most of its cores: one endpoint is enough there.
	test.Change(m, resource.Nodes, "", "n1", "status", func(n *corev1.Node) {
		n.Status.Allocatable[corev1.ResourceCPU] = apiresource.MustParse("500m")
	})
	test.Eventually(t, hinted(map[string]int{"east": 3, "west": 1}))
	// Nobody is hinted while a node is in no zone.
	test.Change(m, resource.Nodes, "", "n1", "", func(n *corev1.Node) { delete(n.Labels, corev1.LabelTopologyZone) })
	test.Eventually(t, hinted(map[string]int{}))
}
