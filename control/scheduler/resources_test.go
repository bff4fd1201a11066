package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What a pod asks for as a whole, and what became of it when it was resized, by
// the thousandth of a core and the MiB, as filters and as scores count it.
func TestRequestsOfWholePods(t *testing.T) {
	second := func(pairs ...string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "second", Resources: corev1.ResourceRequirements{Requests: list(pairs...)}})
		}
	}
	whole := func(pairs ...string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Resources = &corev1.ResourceRequirements{Requests: list(pairs...)} }
	}
	resized := func(allocated, actual string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.AllocatedResources = list("cpu", allocated, "memory", "1Gi")
			p.Status.Resources = &corev1.ResourceRequirements{Requests: list("cpu", actual, "memory", "1Gi")}
		}
	}
	for what, c := range map[string]struct {
		change []func(*corev1.Pod)
		want   [4]int64
	}{
		"nothing asked":                        {nil, [4]int64{0, 0, 100, 200}},
		"one container asks":                   {[]func(*corev1.Pod){requesting("cpu", "1", "memory", "1Gi"), second()}, [4]int64{1000, 1024, 1100, 1224}},
		"asks as a whole":                      {[]func(*corev1.Pod){whole("cpu", "2", "memory", "2Gi")}, [4]int64{2000, 2048, 2000, 2048}},
		"asks for cores, nobody for memory":    {[]func(*corev1.Pod){whole("cpu", "2"), second()}, [4]int64{2000, 0, 2000, 400}},
		"asks for cores, one for memory":       {[]func(*corev1.Pod){whole("cpu", "2"), requesting("memory", "1Gi"), second()}, [4]int64{2000, 1024, 2000, 1024}},
		"shrinks, and holds what it had":       {[]func(*corev1.Pod){whole("cpu", "1", "memory", "1Gi"), resized("1", "3")}, [4]int64{3000, 1024, 3000, 1024}},
		"grows, and was promised it":           {[]func(*corev1.Pod){whole("cpu", "1", "memory", "1Gi"), resized("4", "1")}, [4]int64{4000, 1024, 4000, 1024}},
		"asks for more than there can ever be": {[]func(*corev1.Pod){whole("cpu", "64", "memory", "1Gi"), resized("2", "2"), infeasible}, [4]int64{2000, 1024, 2000, 1024}},
	} {
		p := newBoundInfo(makePod("p", c.change...))
		got := [4]int64{p.requests.milliCPU, p.requests.memory >> 20, p.scoredCPU, p.scoredMemory >> 20}
		if got != c.want {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
}

func infeasible(p *corev1.Pod) {
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: corev1.PodReasonInfeasible})
}
