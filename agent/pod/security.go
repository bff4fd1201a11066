package pod

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/agent/runtime"
)

// containerSecurity joins what the pod and the container say.
func containerSecurity(pod *corev1.Pod, spec *corev1.Container, image runtime.Image) (runtime.ContainerSecurity, error) {
	podContext, own := pod.Spec.SecurityContext, spec.SecurityContext
	if podContext == nil {
		podContext = &corev1.PodSecurityContext{}
	}
	if own == nil {
		own = &corev1.SecurityContext{}
	}
	out := runtime.ContainerSecurity{
		Privileged: isTrue(own.Privileged), ReadOnlyRootFilesystem: isTrue(own.ReadOnlyRootFilesystem),
		AllowPrivilegeEscalation: own.AllowPrivilegeEscalation == nil || *own.AllowPrivilegeEscalation,
		RunAsUser:                first(own.RunAsUser, podContext.RunAsUser),
		RunAsGroup:               first(own.RunAsGroup, podContext.RunAsGroup),
		Groups:                   groups(podContext),
	}
	if first(own.RunAsNonRoot, podContext.RunAsNonRoot) != nil && *first(own.RunAsNonRoot, podContext.RunAsNonRoot) {
		switch {
		case out.RunAsUser != nil && *out.RunAsUser == 0:
			return out, fmt.Errorf("container's runAsUser breaks non-root policy (pod: %q, container: %s)", pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")", spec.Name)
		case out.RunAsUser == nil && image.User != "":
			return out, fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root (pod: %q, container: %s)", image.User, pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")", spec.Name)
		case out.RunAsUser == nil && image.UID <= 0:
			return out, fmt.Errorf("container has runAsNonRoot and image will run as root (pod: %q, container: %s)", pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")", spec.Name)
		}
	}
	if own.Capabilities != nil {
		for _, c := range own.Capabilities.Add {
			out.AddCapabilities = append(out.AddCapabilities, string(c))
		}
		for _, c := range own.Capabilities.Drop {
			out.DropCapabilities = append(out.DropCapabilities, string(c))
		}
	}
	profile := own.SeccompProfile
	if profile == nil {
		profile = podContext.SeccompProfile
	}
	if profile != nil {
		switch profile.Type {
		case corev1.SeccompProfileTypeRuntimeDefault:
			out.Seccomp.RuntimeDefault = true
		case corev1.SeccompProfileTypeLocalhost:
			return out, fmt.Errorf("seccomp profiles of the node are not supported by this version of muster")
		}
	}
	if !out.Privileged && (own.ProcMount == nil || *own.ProcMount == corev1.DefaultProcMount) {
		out.MaskedPaths = maskedPaths
		out.ReadOnlyPaths = readOnlyPaths
	}
	return out, nil
}

// What containers do not see, or can't change, of the kernel: as in Docker.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	readOnlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func first[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

const cpuPeriod = 100_000 // microseconds

// resources turns requests and limits into what cgroups know.
func resources(pod *corev1.Pod, spec *corev1.Container, node Node) runtime.Resources {
	limits, requests := spec.Resources.Limits, spec.Resources.Requests
	out := runtime.Resources{CPUPeriod: cpuPeriod, MemoryBytes: limits.Memory().Value()}
	cpu := requests.Cpu().MilliValue()
	if _, ok := requests[corev1.ResourceCPU]; !ok {
		cpu = limits.Cpu().MilliValue()
	}
	out.CPUShares = min(max(cpu*1024/1000, 2), 262144)
	if limit := limits.Cpu().MilliValue(); limit > 0 {
		out.CPUQuota = max(limit*cpuPeriod/1000, 1000)
	}
	out.OOMScoreAdj = oomScore(pod, spec, node.Allocatable.Memory().Value())
	return out
}

// oomScore makes the kernel, when memory is short, first kill who asked for
// none, and last who is held to what it asked for. The numbers are kubelet's.
func oomScore(pod *corev1.Pod, spec *corev1.Container, nodeBytes int64) int64 {
	switch qosClass(pod) {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		return 1000
	}
	if nodeBytes <= 0 {
		return 999
	}
	score := 1000 - 1000*spec.Resources.Requests.Memory().Value()/nodeBytes
	return min(max(score, 1000-997), 999)
}

// qosClass is what the control plane said, or would say.
func qosClass(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	any, all := false, true
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				limit, limited := c.Resources.Limits[name]
				request, requested := c.Resources.Requests[name]
				limited, requested = limited && !limit.IsZero(), requested && !request.IsZero()
				any = any || limited || requested
				if !limited || requested && request.Cmp(limit) != 0 {
					all = false
				}
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case all:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
