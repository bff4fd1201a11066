package session

import (
	corev1 "k8s.io/api/core/v1"
)

// seen compares what is stored of a pod with what was last said of it. The
// leader marks the pods of a node that is not ready, and its mark can land after
// the agent's word that the pod is: nobody else would say so again. As kubelet,
// the agent repeats itself, but only while its node is ready, or the two would
// contradict each other for as long as it is not.
func (o *outbox) seen(pod *corev1.Pod) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.statuses[pod.UID]
	if s == nil {
		return
	}
	s.differs = s.ready != isReady(&pod.Status)
	// What is on its way is newer than what was seen.
	if s.differs && s.stored == s.received {
		o.repeat(pod.UID, s)
	}
}

// nodeIsReady takes note of what is said of the node.
func (o *outbox) nodeIsReady(ready bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.nodeReady = ready
	for uid, s := range o.statuses {
		if s.differs && s.stored == s.received {
			o.repeat(uid, s)
		}
	}
}

func isReady(status *corev1.PodStatus) bool {
	for i := range status.Conditions {
		if c := &status.Conditions[i]; c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func nodeReady(status *corev1.NodeStatus) bool {
	for i := range status.Conditions {
		if c := &status.Conditions[i]; c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
