package pod

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestAdmit(t *testing.T) {
	asking := func(cpu, memory string) *corev1.Pod {
		pod := newPod("asking", command("c", "run"))
		pod.Spec.Containers[0].Resources.Requests = list(cpu, memory)
		return pod
	}
	port := func(ip string, protocol corev1.Protocol) *corev1.Pod {
		pod := newPod("port", command("c", "run"))
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080, HostIP: ip, Protocol: protocol}}
		return pod
	}
	windows := newPod("windows", command("c", "run"))
	windows.Spec.OS = &corev1.PodOS{Name: corev1.Windows}
	device := newPod("device", command("c", "run"))
	device.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"example.com/device": resource.MustParse("1")}
	passing := port("", "")
	passing.Spec.InitContainers, passing.Spec.Containers = passing.Spec.Containers, newPod("x", command("d", "run")).Spec.Containers

	node := Node{Allocatable: list("2", "1Gi")}
	full := Node{Allocatable: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1")}}
	for _, test := range []struct {
		name   string
		pod    *corev1.Pod
		others []*corev1.Pod
		node   Node
		want   string // of "reason: message"; "" to admit
	}{
		{"fits exactly", asking("1500m", "1Gi"), []*corev1.Pod{asking("500m", "0")}, node, ""},
		{"CPU", asking("1501m", "0"), []*corev1.Pod{asking("500m", "0")}, node, "OutOfcpu: Node didn't have enough resource: cpu, requested: 1501, used: 500, capacity: 2000"},
		{"memory", asking("1", "2Gi"), nil, node, "OutOfmemory: Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824"},
		{"asks for nothing on a node that is too full", asking("0", "0"), []*corev1.Pod{asking("3", "2Gi")}, node, ""},
		{"number of pods", asking("0", "0"), []*corev1.Pod{asking("0", "0")}, full, "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 1, capacity: 1"},
		{"a resource that the node does not count", device, nil, node, ""},
		{"another system", windows, nil, node, "PodOSNotSupported"},
		{"the same port", port("", ""), []*corev1.Pod{port("", "TCP")}, node, "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports"},
		{"a port on all addresses", port("127.0.0.1", ""), []*corev1.Pod{port("0.0.0.0", "")}, node, "NodePorts"},
		{"a port on other addresses", port("127.0.0.1", ""), []*corev1.Pod{port("127.0.0.2", "")}, node, ""},
		{"a port of another protocol", port("", "UDP"), []*corev1.Pod{port("", "TCP")}, node, ""},
		{"a port of an init container that will end", port("", ""), []*corev1.Pod{passing}, node, ""},
	} {
		got := ""
		if f := admit(test.pod, test.others, test.node); f != nil {
			got = f.reason + ": " + f.message
		}
		if test.want == "" && got != "" || !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// A pod that can't be taken fails at once, whatever comes then, and never runs;
// its place is the next one's.
func TestRefusedPodNeverRuns(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		first, second, third := newPod("first", command("c", "run")), newPod("second", command("c", "run")), newPod("third", command("c", "run"))
		for _, pod := range []*corev1.Pod{first, second, third} {
			pod.Spec.Containers[0].Resources.Requests = list("1500m", "0")
		}
		b.manager.Put(first)
		b.wait(time.Millisecond)
		b.manager.Put(second)
		labelled := second.DeepCopy()
		labelled.Labels = map[string]string{"a": "b"}
		b.manager.Put(labelled) // from before its status was stored
		b.wait(2 * time.Second)
		status := b.said.of(second.UID)
		if status.Phase != corev1.PodFailed || status.Reason != "OutOfcpu" || !strings.HasPrefix(status.Message, "Pod was rejected: Node didn't have enough resource: cpu") {
			t.Errorf("got %s %s %q, want a refusal", status.Phase, status.Reason, status.Message)
		}
		if !b.said.heard("Warning OutOfcpu") {
			t.Error("no event tells of the refusal")
		}
		b.restart()
		b.manager.Put(labelled)
		b.wait(10 * time.Second)
		if len(b.containers(second.UID)) > 0 {
			t.Error("the refused pod runs")
		}
		b.manager.Remove(first.UID)
		b.wait(5 * time.Second)
		b.manager.Put(third)
		b.wait(time.Second)
		if b.running(third.UID, "c") == nil {
			t.Error("the refused pod and one that is gone hold the place of a third")
		}
		b.manager.Remove(second.UID)
		b.wait(5 * time.Second)
		b.nothing(second.UID)
	})
}

// A pod that gets the place of one that is on its way out runs, whatever word
// comes first.
func TestPlaceOfOneThatLeaves(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		names := []string{"killed", "ended", "removed"}
		leaves := map[string]func(*corev1.Pod){
			"killed":  func(p *corev1.Pod) { b.manager.Put(deleted(p, 1)); b.wait(2 * time.Second) }, // its object is still there
			"ended":   func(p *corev1.Pod) { b.wait(5 * time.Second) },
			"removed": func(p *corev1.Pod) { time.AfterFunc(200*time.Millisecond, func() { b.manager.Remove(p.UID) }) },
		}
		for _, name := range names {
			first, next := newPod(name, command("c", "run")), newPod("after-"+name, command("c", "run"))
			if name == "ended" {
				first.Spec.Containers[0].Command = []string{"sleep", "3"}
				first.Spec.RestartPolicy = corev1.RestartPolicyNever
			}
			first.Spec.Containers[0].Resources.Requests = list("1500m", "0")
			next.Spec.Containers[0].Resources.Requests = list("1500m", "0")
			b.manager.Put(first)
			b.wait(time.Second)
			if b.running(first.UID, "c") == nil {
				t.Fatalf("%s does not run", name)
			}
			leaves[name](first)
			b.manager.Put(next)
			b.wait(3 * time.Second)
			if b.running(next.UID, "c") == nil {
				t.Errorf("who came after %s was not taken: %+v", name, b.said.of(next.UID))
			}
			b.manager.Remove(first.UID)
			b.manager.Remove(next.UID)
			b.wait(5 * time.Second)
		}
	})
}
