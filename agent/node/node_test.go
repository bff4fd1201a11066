package node

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/version"
)

func ready(s corev1.NodeStatus) corev1.NodeCondition {
	for _, c := range s.Conditions {
		if c.Type == corev1.NodeReady {
			return c
		}
	}
	return corev1.NodeCondition{}
}

func TestObjectDescribesTheMachine(t *testing.T) {
	n := New(Config{Name: "n1", Hostname: "host1", IP: "192.0.2.1", Dir: t.TempDir(), Version: "v0.1.0-dev+dirty", Labels: map[string]string{"zone": "a"}})
	o := n.Object()
	for key, want := range map[string]string{corev1.LabelHostname: "n1", corev1.LabelOSStable: "linux", "zone": "a"} {
		if got := o.Labels[key]; got != want {
			t.Errorf("label %s is %q, want %q", key, got, want)
		}
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourcePods} {
		capacity, allocatable := o.Status.Capacity[name], o.Status.Allocatable[name]
		if capacity.IsZero() || allocatable.IsZero() || allocatable.Cmp(capacity) > 0 {
			t.Errorf("%s: %s of %s is allocatable", name, allocatable.String(), capacity.String())
		}
	}
	want := []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeHostName, Address: "host1"}}
	if !slices.Equal(o.Status.Addresses, want) {
		t.Errorf("addresses are %v, want %v", o.Status.Addresses, want)
	}
	if _, err := version.ParseSemantic(o.Status.NodeInfo.KubeletVersion); err != nil {
		t.Errorf("tools can't read kubelet's version: %v", err)
	}
	if i := o.Status.NodeInfo; i.KernelVersion == "" || i.OSImage == "" || i.BootID == "" || i.Architecture == "" {
		t.Errorf("got %+v, want the system described", i)
	}
	if got := ready(o.Status); got.Status != corev1.ConditionFalse {
		t.Errorf("ready is %s before the runtime was asked", got.Status)
	}
}

func TestCapacityCanBePretended(t *testing.T) {
	n := New(Config{Dir: t.TempDir(), Capacity: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("256Gi")}})
	for name, want := range map[corev1.ResourceName]string{corev1.ResourceCPU: "64", corev1.ResourceMemory: "256Gi", corev1.ResourcePods: "110"} {
		got := n.Allocatable()[name]
		if got.Cmp(resource.MustParse(want)) != 0 {
			t.Errorf("%s: %s is allocatable, want %s", name, got.String(), want)
		}
	}
}

// Nothing is said while nothing changes, and what changes is said soon.
func TestConditionsFollowTheRuntime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var health atomic.Pointer[Health]
		health.Store(&Health{Runtime: "containerd://2.4.2", Ready: true, NetworkReady: true})
		n := New(Config{Dir: t.TempDir(), Health: func(context.Context) Health { return *health.Load() }})
		said := make(chan *corev1.NodeStatus, 100)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx, func(s *corev1.NodeStatus) { said <- s }) }()
		next := func(want corev1.ConditionStatus, message string) *corev1.NodeStatus {
			t.Helper()
			select {
			case s := <-said:
				if c := ready(*s); c.Status != want || c.Message != message {
					t.Errorf("ready is %s (%s), want %s (%s)", c.Status, c.Message, want, message)
				}
				return s
			case <-time.After(2 * checkEvery):
				t.Fatal("nothing was said")
				return nil
			}
		}
		first := next(corev1.ConditionTrue, "muster agent is ready")
		time.Sleep(time.Hour)
		if len(said) > 5 { // the disk and memory are the real machine's
			t.Errorf("%d statuses in an hour in which nothing happened", len(said))
		}
		for len(said) > 0 {
			<-said
		}
		health.Store(&Health{Message: "connection refused"})
		down := next(corev1.ConditionFalse, "container runtime is not ready: connection refused")
		if down.NodeInfo.ContainerRuntimeVersion != "containerd://2.4.2" {
			t.Errorf("the runtime's version is %q while it is down, want it kept", down.NodeInfo.ContainerRuntimeVersion)
		}
		if a, b := ready(*first).LastTransitionTime, ready(*down).LastTransitionTime; !b.After(a.Time) {
			t.Errorf("became ready at %v and not ready at %v", a, b)
		}
		health.Store(&Health{Runtime: "containerd://2.4.2", Ready: true, Message: "cni plugin not initialized"})
		next(corev1.ConditionFalse, "container runtime network not ready: cni plugin not initialized")
		cancel()
		if err := <-done; err != context.Canceled {
			t.Errorf("Run ended with %v", err)
		}
	})
}
