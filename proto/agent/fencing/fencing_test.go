package fencing

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Whoever is heard by the leader does not lack it. Were there a number of nodes
// at which both could act, a pod would run twice.
func TestLeaderAndAgentNeverBothGoOn(t *testing.T) {
	for nodes := 1; nodes <= 100; nodes++ {
		for heard := 0; heard < nodes; heard++ {
			if lacking := nodes - heard; MayFence(nodes, heard) && GoesOn(nodes, lacking) {
				t.Errorf("%d nodes, %d heard by the leader: it may fence, and the other %d go on", nodes, heard, lacking)
			}
		}
	}
}

func TestOutageOfAllControlNodesStopsNothing(t *testing.T) {
	for nodes := 1; nodes <= 100; nodes++ {
		if !GoesOn(nodes, nodes) {
			t.Errorf("%d nodes that all lack the control plane stop, want that they go on", nodes)
		}
	}
}

func TestOneLostNodeIsFenced(t *testing.T) {
	for nodes := 2; nodes <= 100; nodes++ {
		if !MayFence(nodes, nodes-1) {
			t.Errorf("one of %d nodes is lost and not fenced", nodes)
		}
		if GoesOn(nodes, 1) {
			t.Errorf("one of %d nodes goes on alone", nodes)
		}
	}
}

func TestGuards(t *testing.T) {
	owned := func(kind, version, annotation string) *corev1.Pod {
		p := &corev1.Pod{}
		if kind != "" {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: version, Kind: kind, Controller: ptr.To(true)}}
		}
		if annotation != "" {
			p.Annotations = map[string]string{PodAnnotation: annotation}
		}
		return p
	}
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		want bool
	}{
		{"a stateful set's", owned("StatefulSet", "apps/v1", ""), true},
		{"a stateful set's that may", owned("StatefulSet", "apps/v1", "false"), false},
		{"somebody else's StatefulSet", owned("StatefulSet", "example.org/v1", ""), false},
		{"a replica set's", owned("ReplicaSet", "apps/v1", ""), false},
		{"a replica set's that must not", owned("ReplicaSet", "apps/v1", "true"), true},
		{"nobody's", owned("", "", ""), false},
		{"nobody's that must not", owned("", "", "true"), true},
	} {
		if got := Guards(c.pod); got != c.want {
			t.Errorf("%s: guarded %v, want %v", c.name, got, c.want)
		}
	}
}

func TestLeaderWaitsLongerThanTheAgentPromises(t *testing.T) {
	node := &corev1.Node{}
	if _, ok := WaitFor(node); ok {
		t.Error("a node that promises nothing is fenced some time")
	}
	node.Annotations = map[string]string{NodeAnnotation: StopsWithin(StopAfterDefault).String()}
	wait, ok := WaitFor(node)
	if want := 20 * time.Second; !ok || wait != want {
		t.Errorf("waits %v (%v), want %v", wait, ok, want)
	}
	for _, bad := range []string{"", "soon", "-1s", "0"} {
		node.Annotations[NodeAnnotation] = bad
		if _, ok := WaitFor(node); ok {
			t.Errorf("a promise of %q is taken for one", bad)
		}
	}
}
