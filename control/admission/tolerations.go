package admission

import (
	"cmp"
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/resource"
)

// defaultTolerations lets a pod that does not say otherwise outlast a failed
// node for a moment only. What the user wrote about either taint stands.
type defaultTolerations struct {
	mutating
	notReady, unreachable int64 // seconds
}

func newDefaultTolerations(s Settings) defaultTolerations {
	return defaultTolerations{
		notReady:    int64(cmp.Or(s.NotReadyToleration, DefaultNotReadyToleration) / time.Second),
		unreachable: int64(cmp.Or(s.UnreachableToleration, DefaultUnreachableToleration) / time.Second),
	}
}

func (d defaultTolerations) Admit(_ context.Context, a *resource.Attributes) error {
	if a.Kind != resource.Pods || a.Subresource != "" || a.Operation == resource.Delete {
		return nil
	}
	pod := a.Object.(*corev1.Pod)
	addToleration(pod, corev1.TaintNodeNotReady, d.notReady)
	addToleration(pod, corev1.TaintNodeUnreachable, d.unreachable)
	return nil
}

func addToleration(pod *corev1.Pod, taint string, seconds int64) {
	for _, t := range pod.Spec.Tolerations {
		if (t.Key == taint || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return
		}
	}
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
		Key:               taint,
		Operator:          corev1.TolerationOpExists,
		Effect:            corev1.TaintEffectNoExecute,
		TolerationSeconds: &seconds,
	})
}
