package pod

import (
	"fmt"
	"maps"
	goruntime "runtime"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// admit says why a pod that is new here can't be taken beside those others, or
// nil. The scheduler has asked the same, but not everybody asks the scheduler: a
// pod may name its node itself. Reasons and texts are kubelet's, whose rules on
// the node's labels and taints are not looked at here.
func admit(pod *corev1.Pod, others []*corev1.Pod, node Node) *failure {
	if os := pod.Spec.OS; os != nil && string(os.Name) != goruntime.GOOS {
		return &failure{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}
	}
	if f := outOf(pod, others, node.Allocatable); f != nil {
		return f
	}
	for _, other := range others {
		for _, taken := range hostPorts(other) {
			if slices.ContainsFunc(hostPorts(pod), taken.clashes) {
				return &failure{"NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
			}
		}
	}
	return nil
}

// outOf looks at what the pods ask for, the number of pods first as upstream.
// What the node does not count at all it does not refuse: such resources may be
// the cluster's.
func outOf(pod *corev1.Pod, others []*corev1.Pod, allocatable corev1.ResourceList) *failure {
	short := func(name corev1.ResourceName, requested, used, capacity int64) *failure {
		return &failure{"OutOf" + string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, requested, used, capacity)}
	}
	if most, counted := allocatable[corev1.ResourcePods]; counted && int64(len(others)+1) > most.Value() {
		return short(corev1.ResourcePods, 1, int64(len(others)), most.Value())
	}
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	used := make([]corev1.ResourceList, len(others))
	for i, other := range others {
		used[i] = resourcehelper.PodRequests(other, resourcehelper.PodResourcesOptions{UseStatusResources: true})
	}
	for _, name := range slices.Sorted(maps.Keys(requests)) { // the same pod is refused for the same reason
		capacity, counted := allocatable[name]
		if !counted {
			continue
		}
		amount, free := requests[name], capacity.DeepCopy()
		for _, u := range used {
			free.Sub(u[name])
		}
		if amount.IsZero() || amount.Cmp(free) <= 0 {
			continue
		}
		taken := capacity.DeepCopy()
		taken.Sub(free)
		if name == corev1.ResourceCPU {
			return short(name, amount.MilliValue(), taken.MilliValue(), capacity.MilliValue())
		}
		return short(name, amount.Value(), taken.Value(), capacity.Value())
	}
	return nil
}

// anyAddress is a host port's that names none.
const anyAddress = "0.0.0.0"

type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

// clashes: a port on every address is the same port on any.
func (p hostPort) clashes(q hostPort) bool {
	return p.port == q.port && p.protocol == q.protocol && (p.ip == q.ip || p.ip == anyAddress || q.ip == anyAddress)
}

// hostPorts are those that the pod holds while it runs: init containers that end
// before it does hold none.
func hostPorts(pod *corev1.Pod) []hostPort {
	var ports []hostPort
	collect := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort <= 0 {
				continue
			}
			port := hostPort{p.HostIP, p.Protocol, p.HostPort}
			if port.ip == "" {
				port.ip = anyAddress
			}
			if port.protocol == "" {
				port.protocol = corev1.ProtocolTCP
			}
			ports = append(ports, port)
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; sidecar(c) {
			collect(c)
		}
	}
	for i := range pod.Spec.Containers {
		collect(&pod.Spec.Containers[i])
	}
	return ports
}

// admitWait is how long a pod may not fit before it is refused: what it takes the
// place of may be on its way out, or word of that.
const (
	admitWait  = time.Second
	admitEvery = 100 * time.Millisecond
)

// admit asks whether the worker's pod fits beside the others. If not, it answers
// when to look again: soon, or at once for a pod that has been refused for good,
// which has ended then.
func (m *Manager) admit(w *worker) (admitted bool, again time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w.admitted || w.mode != keeping {
		return true, 0
	}
	why := admit(w.pod, m.active(), m.cfg.Node())
	if why == nil {
		w.admitted = true
		return true, 0
	}
	if w.asked.IsZero() {
		w.asked = time.Now()
	}
	if time.Since(w.asked) < admitWait {
		return false, admitEvery
	}
	w.admitted = true
	w.end = refusal(w.pod, why)
	w.pod = w.ended(w.pod)
	w.event(w.pod, "", corev1.EventTypeWarning, why.reason, why.message)
	m.save(w.pod)
	return false, 0
}

// active are the pods that hold what they asked for. m.mu is held.
func (m *Manager) active() []*corev1.Pod {
	var pods []*corev1.Pod
	for _, w := range m.workers {
		if w.admitted && !w.stopped && w.end == nil && (w.mode == keeping || w.mode == terminating) {
			pods = append(pods, w.pod)
		}
	}
	return pods
}

// refusal is the status of a pod that ends without having begun.
func refusal(pod *corev1.Pod, why *failure) *corev1.PodStatus {
	status := pod.Status.DeepCopy()
	status.Phase, status.Reason, status.Message = corev1.PodFailed, why.reason, "Pod was rejected: "+why.message
	status.ObservedGeneration, status.QOSClass = pod.Generation, qosClass(pod)
	return status
}
