// Package fencing is what leader and agents agree on so that no pod that must
// not run twice ever does. An agent that the control plane may have given up
// stops such pods by itself; only when it certainly has does the leader remove
// them, so that they are made anew elsewhere. How an agent stops pods, and how a
// leader judges nodes, is theirs. DESIGN.md says why it is safe.
package fencing

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// PodAnnotation says of a pod whether it must not run twice: "true" or
	// "false". Without it those of stateful sets must not.
	PodAnnotation = "muster.dev/fence"
	// NodeAnnotation is the agent's promise, a duration: so long after it was last
	// certain of the control plane, nothing runs there that must not run twice.
	// No pod of a node without it is ever taken for stopped.
	NodeAnnotation = "muster.dev/stops-within"
)

const (
	// StopAfterDefault is how long an agent goes on without the control plane
	// before it begins to stop. It is longer than the loss of a control node costs.
	StopAfterDefault = 10 * time.Second
	// StopGrace is what containers get then, if they ask for so much.
	StopGrace = 5 * time.Second
	// Freshness bounds the age of what other agents have said. It is less than
	// any StopAfter.
	Freshness = 4 * time.Second
	// LackingAfter is how long an agent hears no control plane before it says
	// that it lacks one. A move between control nodes takes less.
	LackingAfter = 5 * time.Second
	// Slack is what the leader waits beyond an agent's promise: for clocks that
	// run differently, and a runtime that is slow to kill.
	Slack = 5 * time.Second
	// SettledAge is how long a node must have existed to be counted: agents hear
	// of new ones within a heartbeat or two.
	SettledAge = 15 * time.Second
)

// Guards says whether a pod must not run twice.
func Guards(pod *corev1.Pod) bool {
	switch pod.Annotations[PodAnnotation] {
	case "true":
		return true
	case "false":
		return false
	}
	owner := metav1.GetControllerOf(pod)
	return owner != nil && owner.Kind == "StatefulSet" && owner.APIVersion == appsv1.SchemeGroupVersion.String()
}

// StopsWithin is what an agent that goes on for stopAfter can promise.
func StopsWithin(stopAfter time.Duration) time.Duration { return stopAfter + StopGrace }

// WaitFor is how long the leader must not have heard a node to take its guarded
// pods for stopped; false for never.
func WaitFor(node *corev1.Node) (time.Duration, bool) {
	promise, err := time.ParseDuration(node.Annotations[NodeAnnotation])
	if err != nil || promise <= 0 {
		return 0, false
	}
	return promise + Slack, true
}

// GoesOn says whether an agent that hears no control plane need not stop: of all
// nodes, itself included, so many lack it that the others are too few for a
// leader to act (MayFence).
func GoesOn(nodes, lacking int) bool { return 2*lacking > nodes }

// SampleGoesOn is GoesOn for an agent that has asked some of very many others at
// random: three quarters of them must lack it, so that chance does not decide.
func SampleGoesOn(asked, lacking int) bool { return 4*lacking > 3*asked }

// MayFence says whether a leader that has held sessions of so many of all nodes
// for as long as it waits may take the others' pods for stopped.
func MayFence(nodes, heard int) bool { return heard > 0 && 2*heard >= nodes }
