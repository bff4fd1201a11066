package pod

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/agent/runtime"
)

// statusOf tells how the pod is. last is what was said before, from which a
// condition's time is kept while it does not change. Conditions that are not
// the node's to say are those of the pod as the control plane knows it.
func statusOf(s situation, p plan, node Node, last *corev1.PodStatus) *corev1.PodStatus {
	pod := s.pod
	status := &corev1.PodStatus{
		ObservedGeneration: pod.Generation, StartTime: s.memory.startTime, QOSClass: qosClass(pod),
		NominatedNodeName: pod.Status.NominatedNodeName,
	}
	if node.IP != "" {
		status.HostIP, status.HostIPs = node.IP, []corev1.HostIP{{IP: node.IP}}
	}
	box := s.box()
	if box != nil {
		ips := box.IPs
		if pod.Spec.HostNetwork && node.IP != "" {
			ips = []string{node.IP}
		}
		for _, ip := range ips {
			status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: ip})
		}
	} else if last := firstStatus(last, &pod.Status); p.finished || p.ended {
		status.PodIPs = last.PodIPs // what it was
	}
	if len(status.PodIPs) > 0 {
		status.PodIP = status.PodIPs[0].IP
	}
	initialised := s.initialised(box) || p.finished && p.failure == nil
	for i := range pod.Spec.InitContainers {
		status.InitContainerStatuses = append(status.InitContainerStatuses, s.container(p, &pod.Spec.InitContainers[i], true, initialised, node))
	}
	for i := range pod.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, s.container(p, &pod.Spec.Containers[i], false, initialised, node))
	}
	status.Phase = phase(s, p, status)
	if p.failure != nil {
		status.Reason, status.Message = p.failure.reason, p.failure.message
	}
	status.Conditions = conditions(s, p, status, box, last)
	return status
}

func firstStatus(a, b *corev1.PodStatus) *corev1.PodStatus {
	if a != nil {
		return a
	}
	return b
}

// container tells how one container is.
func (s situation) container(p plan, spec *corev1.Container, init, initialised bool, node Node) corev1.ContainerStatus {
	out := corev1.ContainerStatus{Name: spec.Name, Image: spec.Image}
	no := false
	out.Started = &no
	fill := func(c *runtime.Container) {
		out.RestartCount = int32(c.Attempt)
		out.ImageID = c.ImageID
		out.ContainerID = identify(node, c.ID)
		if c.Image != "" {
			out.Image = c.Image
		}
	}
	before := func(back int) {
		if c := s.recent(spec.Name, back); c != nil && c.State == runtime.Exited {
			out.LastTerminationState.Terminated = terminated(c, node)
		}
	}
	last := s.last(spec.Name)
	if last == nil {
		out.State.Waiting = s.waiting(p, spec, init, initialised)
		if p.ended {
			out.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				ExitCode: 137, Reason: "ContainerStatusUnknown", Message: "The container could not be located when the pod was terminated",
			}}
		}
		return out
	}
	fill(last)
	box := s.box()
	current := box != nil && in(box, spec.Name) != nil
	switch last.State {
	case runtime.Running:
		out.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(last.StartedAt)}
		started := s.memory.probes.started(spec, last)
		out.Started = &started
		out.Ready = !p.ended && s.memory.probes.ready(spec, last)
		before(1)
	case runtime.Exited:
		_, held := p.held[spec.Name]
		trouble, troubled := s.memory.trouble[spec.Name]
		again := !p.finished && !p.ended && (s.restarts(spec, init, last) || init && !current && !initialised)
		if again && (held || troubled && s.now.Before(trouble.until) || !current) {
			out.State.Waiting = s.waiting(p, spec, init, initialised)
			before(0)
			break
		}
		out.State.Terminated = terminated(last, node)
		out.Ready = init && !sidecar(spec) && last.ExitCode == 0
		before(1)
	default:
		out.State.Waiting = s.waiting(p, spec, init, initialised)
		before(1)
	}
	return out
}

// waiting says why a container does not run yet.
func (s situation) waiting(p plan, spec *corev1.Container, init, initialised bool) *corev1.ContainerStateWaiting {
	if held, ok := p.held[spec.Name]; ok {
		return &corev1.ContainerStateWaiting{Reason: held.reason, Message: held.message}
	}
	if t, ok := s.memory.trouble[spec.Name]; ok && t.reason != "" {
		return &corev1.ContainerStateWaiting{Reason: t.reason, Message: t.message}
	}
	if t := s.memory.sandbox; t.reason != "" && s.box() == nil {
		return &corev1.ContainerStateWaiting{Reason: t.reason, Message: t.message}
	}
	if !initialised && len(s.pod.Spec.InitContainers) > 0 {
		return &corev1.ContainerStateWaiting{Reason: "PodInitializing"}
	}
	return &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
}

func terminated(c *runtime.Container, node Node) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message, ContainerID: identify(node, c.ID),
	}
	if !c.StartedAt.IsZero() {
		t.StartedAt = metav1.NewTime(c.StartedAt)
	}
	if !c.FinishedAt.IsZero() {
		t.FinishedAt = metav1.NewTime(c.FinishedAt)
	}
	return t
}

func identify(node Node, id string) string {
	if id == "" {
		return ""
	}
	return node.RuntimeName + "://" + id
}

// phase sums up, by Kubernetes' rules.
func phase(s situation, p plan, status *corev1.PodStatus) corev1.PodPhase {
	if p.failure != nil {
		return corev1.PodFailed
	}
	if p.finished || p.ended {
		for _, c := range status.ContainerStatuses {
			if c.State.Terminated == nil || c.State.Terminated.ExitCode != 0 {
				return corev1.PodFailed
			}
		}
		for i, c := range status.InitContainerStatuses {
			if !sidecar(&s.pod.Spec.InitContainers[i]) && c.State.Terminated != nil && c.State.Terminated.ExitCode != 0 {
				return corev1.PodFailed
			}
		}
		return corev1.PodSucceeded
	}
	if !s.initialised(s.box()) {
		for i, c := range status.InitContainerStatuses {
			if !sidecar(&s.pod.Spec.InitContainers[i]) && (c.State.Terminated == nil || c.State.Terminated.ExitCode != 0) {
				return corev1.PodPending
			}
		}
	}
	for _, c := range status.ContainerStatuses {
		// One of them never ran.
		if c.State.Waiting != nil && c.LastTerminationState.Terminated == nil {
			return corev1.PodPending
		}
	}
	return corev1.PodRunning
}

// conditions are those the node says, after those it passes on.
func conditions(s situation, p plan, status *corev1.PodStatus, box *runtime.Sandbox, last *corev1.PodStatus) []corev1.PodCondition {
	own := []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady}
	var all []corev1.PodCondition
	for _, c := range s.pod.Status.Conditions {
		if !slices.Contains(own, c.Type) {
			all = append(all, c)
		}
	}
	add := func(kind corev1.PodConditionType, ok bool, reason, message string) {
		c := corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: s.pod.Generation}
		if ok {
			c.Status = corev1.ConditionTrue
		}
		c.LastTransitionTime = since(kind, c.Status, s.now, last, &s.pod.Status)
		all = append(all, c)
	}
	// A pod that was created with its node was scheduled by nobody, and is all the same.
	if !slices.ContainsFunc(all, func(c corev1.PodCondition) bool { return c.Type == corev1.PodScheduled }) {
		add(corev1.PodScheduled, true, "", "")
	}
	add(corev1.PodReadyToStartContainers, box != nil && (s.pod.Spec.HostNetwork || len(box.IPs) > 0), "", "")

	var incomplete []string
	for i, c := range status.InitContainerStatuses {
		done := c.State.Terminated != nil && c.State.Terminated.ExitCode == 0
		if sidecar(&s.pod.Spec.InitContainers[i]) {
			done = c.Started != nil && *c.Started
		}
		if !done {
			incomplete = append(incomplete, c.Name)
		}
	}
	switch {
	case status.Phase == corev1.PodSucceeded:
		add(corev1.PodInitialized, true, "PodCompleted", "")
	case len(incomplete) == 0 || s.initialised(box):
		add(corev1.PodInitialized, true, "", "")
	default:
		add(corev1.PodInitialized, false, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %s", incomplete))
	}

	var unready []string
	for i, c := range status.InitContainerStatuses {
		if sidecar(&s.pod.Spec.InitContainers[i]) && !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	for _, c := range status.ContainerStatuses {
		if !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	reason, message := "", ""
	switch {
	case status.Phase == corev1.PodSucceeded:
		reason = "PodCompleted"
	case status.Phase == corev1.PodFailed:
		reason = "PodFailed"
	case len(unready) > 0:
		reason, message = "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", unready)
	}
	ready := reason == ""
	if ready {
		if closed := closedGates(s.pod, all); len(closed) > 0 {
			add(corev1.PodReady, false, "ReadinessGatesNotReady", strings.Join(closed, ", "))
			add(corev1.ContainersReady, true, "", "")
			return all
		}
	}
	add(corev1.PodReady, ready, reason, message)
	add(corev1.ContainersReady, ready, reason, message)
	return all
}

func closedGates(pod *corev1.Pod, conditions []corev1.PodCondition) (closed []string) {
	for _, gate := range pod.Spec.ReadinessGates {
		at := slices.IndexFunc(conditions, func(c corev1.PodCondition) bool { return c.Type == gate.ConditionType })
		switch {
		case at < 0:
			closed = append(closed, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case conditions[at].Status != corev1.ConditionTrue:
			closed = append(closed, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, conditions[at].Status))
		}
	}
	return closed
}

// since is when a condition became what it is.
func since(kind corev1.PodConditionType, value corev1.ConditionStatus, now time.Time, known ...*corev1.PodStatus) metav1.Time {
	for _, status := range known {
		if status == nil {
			continue
		}
		for _, c := range status.Conditions {
			if c.Type == kind && c.Status == value && !c.LastTransitionTime.IsZero() {
				return c.LastTransitionTime
			}
		}
	}
	return metav1.NewTime(now.Truncate(time.Second))
}
