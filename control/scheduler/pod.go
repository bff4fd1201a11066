package scheduler

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// podInfo is a pod with what decisions ask of it worked out once. It is never
// changed after newPodInfo or newBoundInfo.
type podInfo struct {
	pod      *corev1.Pod
	requests resources
	// cpu and memory as scores count them
	scoredCPU, scoredMemory int64
	ports                   []hostPort
	// controller that keeps this pod, "" when there is none or the pod is leaving
	owner types.UID

	// only of pods that wait for a node:

	priority int32
	// class is the same for pods that every filter treats alike
	class     string
	required  nodeaffinity.RequiredNodeAffinity
	preferred *nodeaffinity.PreferredSchedulingTerms
	// what the pod tolerates without evicting or refusing it, for the score
	softTolerations []corev1.Toleration
}

// newBoundInfo reads what a pod takes from the node that it is on.
func newBoundInfo(pod *corev1.Pod) *podInfo {
	p := &podInfo{pod: pod, requests: requestsOf(pod), ports: hostPortsOf(pod)}
	p.scoredCPU, p.scoredMemory = scoredOf(pod)
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil && pod.DeletionTimestamp == nil {
		p.owner = ref.UID
	}
	return p
}

// newPodInfo also reads what a pod asks of a node before it goes there.
func newPodInfo(pod *corev1.Pod) *podInfo {
	p := newBoundInfo(pod)
	p.priority = schedulinghelper.PodPriority(pod)
	p.required = nodeaffinity.GetRequiredNodeAffinity(pod)
	if a := nodeAffinityOf(pod); a != nil && len(a.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		// A term that does not parse prefers nothing; validation refuses such pods.
		p.preferred, _ = nodeaffinity.NewPreferredSchedulingTerms(a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	for _, t := range pod.Spec.Tolerations {
		if t.Effect == "" || t.Effect == corev1.TaintEffectPreferNoSchedule {
			p.softTolerations = append(p.softTolerations, t)
		}
	}
	p.class = classOf(p)
	return p
}

func nodeAffinityOf(pod *corev1.Pod) *corev1.NodeAffinity {
	if pod.Spec.Affinity == nil {
		return nil
	}
	return pod.Spec.Affinity.NodeAffinity
}

// classOf writes down everything of a pod that filters look at. A filter that
// looks at more must add it here.
func classOf(p *podInfo) string {
	var b strings.Builder
	spec := &p.pod.Spec
	p.requests.key(&b)
	if spec.NodeName != "" {
		b.WriteString("\x00n")
		b.WriteString(spec.NodeName)
	}
	for _, name := range slices.Sorted(maps.Keys(spec.NodeSelector)) {
		b.WriteString("\x00s")
		b.WriteString(name)
		b.WriteByte('=')
		b.WriteString(spec.NodeSelector[name])
	}
	if a := nodeAffinityOf(p.pod); a != nil && a.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		raw, _ := a.RequiredDuringSchedulingIgnoredDuringExecution.Marshal() // fails for no value
		b.WriteString("\x00a")
		b.Write(raw)
	}
	for i := range spec.Tolerations {
		raw, _ := spec.Tolerations[i].Marshal()
		b.WriteString("\x00t")
		b.Write(raw)
	}
	if len(spec.ResourceClaims) > 0 {
		b.WriteString("\x00d")
	}
	for _, port := range p.ports {
		b.WriteString("\x00p")
		b.WriteString(port.ip)
		b.WriteByte('/')
		b.WriteString(string(port.protocol))
		b.WriteByte('/')
		b.WriteString(strconv.Itoa(int(port.port)))
	}
	return b.String()
}

// finished pods have ended for good and use nothing of their node.
func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// wantsNode reports whether it is this scheduler's turn to find the pod a node.
func wantsNode(pod *corev1.Pod) bool {
	return pod.Spec.NodeName == "" &&
		pod.Spec.SchedulerName == corev1.DefaultSchedulerName &&
		len(pod.Spec.SchedulingGates) == 0 &&
		pod.DeletionTimestamp == nil &&
		!finished(pod)
}
