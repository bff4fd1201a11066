package autoscaling

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
)

// unmeasured is the number of replicas where metrics do not decide: out of bounds it is the
// bound, and what somebody scaled to zero stays there. A target that was scaled to zero by its
// autoscaler comes back by metrics.
func unmeasured(hpa *autoscalingv2.HorizontalPodAutoscaler, current int32) (replicas int32, reason string, byMetrics bool) {
	least := ptr.Deref(hpa.Spec.MinReplicas, 1)
	switch {
	case current == 0 && !(wentToZero(hpa) && (least != 0 || measuresOthers(hpa))):
		condition(hpa, autoscalingv2.ScalingActive, false, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
		return 0, "", false
	case current == 0:
		return 0, "", true
	case current > hpa.Spec.MaxReplicas:
		return hpa.Spec.MaxReplicas, "Current number of replicas above Spec.MaxReplicas", false
	case current < least:
		return least, "Current number of replicas below Spec.MinReplicas", false
	}
	return 0, "", true
}

func wentToZero(hpa *autoscalingv2.HorizontalPodAutoscaler) bool {
	return slices.ContainsFunc(hpa.Status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool {
		return c.Type == autoscalingv2.ScaledToZero && c.Status == corev1.ConditionTrue
	})
}

// measuresOthers says that there is something to measure where there are no pods.
func measuresOthers(hpa *autoscalingv2.HorizontalPodAutoscaler) bool {
	return slices.ContainsFunc(hpa.Spec.Metrics, func(m autoscalingv2.MetricSpec) bool {
		return m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	})
}

// ask measures all metrics, of which there is one at least; the one that asks for most counts. Those that fail are told
// about, and keep the target from shrinking.
func (c *Controller) ask(ctx context.Context, hpa *autoscalingv2.HorizontalPodAutoscaler, target *autoscalingv1.Scale, k *known) (proposal, []autoscalingv2.MetricStatus, error) {
	pods, err := c.podsOf(hpa, target.Status.Selector, k)
	if err != nil {
		return proposal{}, nil, err
	}
	from := &source{namespace: hpa.Namespace, pods: k.pods, situation: situation{
		now: time.Now(), replicas: target.Spec.Replicas, counted: target.Status.Replicas, pods: pods, tolerances: tolerancesOf(hpa),
	}}
	var most proposal
	var first *failure
	failed := 0
	statuses := make([]autoscalingv2.MetricStatus, len(hpa.Spec.Metrics))
	for i := range hpa.Spec.Metrics {
		p, failure := c.metrics.propose(ctx, &hpa.Spec.Metrics[i], from)
		if failure != nil {
			if ctx.Err() != nil {
				return proposal{}, nil, ctx.Err()
			}
			c.event(hpa, corev1.EventTypeWarning, failure.reason, failure.cause.Error())
			failed++
			if first == nil {
				first = failure
			}
			continue
		}
		statuses[i] = p.status
		if most.replicas == 0 || p.replicas > most.replicas {
			most = p
		}
	}
	if first != nil && (failed == len(statuses) || most.replicas < target.Spec.Replicas) {
		condition(hpa, autoscalingv2.ScalingActive, false, first.reason, fmt.Sprintf("the HPA was unable to compute the replica count: %v", first.cause))
		return proposal{}, statuses, fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %w", failed, len(statuses), first)
	}
	condition(hpa, autoscalingv2.ScalingActive, true, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from "+most.metric)
	return most, statuses, nil
}

// podsOf are the pods that a target counts, none of which another autoscaler may scale.
func (c *Controller) podsOf(hpa *autoscalingv2.HorizontalPodAutoscaler, selector string, k *known) ([]*corev1.Pod, error) {
	refuse := func(event, reason, message, shown string) ([]*corev1.Pod, error) {
		c.event(hpa, corev1.EventTypeWarning, event, message)
		condition(hpa, autoscalingv2.ScalingActive, false, reason, shown)
		return nil, errors.New(message)
	}
	if selector == "" {
		return refuse("SelectorRequired", "InvalidSelector", "selector is required", "the HPA target's scale is missing a selector")
	}
	parsed, err := labels.Parse(selector)
	if err != nil {
		message := fmt.Sprintf("couldn't convert selector into a corresponding internal selector object: %v", err)
		return refuse("InvalidSelector", "InvalidSelector", message, message)
	}
	var pods []*corev1.Pod
	for _, pod := range c.caches.Pods.ByIndex(controller.ByNamespace, hpa.Namespace) {
		if parsed.Matches(labels.Set(pod.Labels)) {
			pods = append(pods, pod)
		}
	}
	if both := c.claim(types.NamespacedName{Namespace: hpa.Namespace, Name: hpa.Name}, k, parsed, pods); len(both) > 0 {
		message := fmt.Sprintf("pods by selector %v are controlled by more than one HPA (e.g. %v)", selector, both)
		return refuse("AmbiguousSelector", "AmbiguousSelector", message, message)
	}
	return pods, nil
}

// claim notes whose pods an autoscaler scales. If another's are among them it names both.
func (c *Controller) claim(key types.NamespacedName, k *known, selector labels.Selector, pods []*corev1.Pod) []types.NamespacedName {
	c.mu.Lock()
	defer c.mu.Unlock()
	k.pods = selector
	for other, o := range c.known {
		if other == key || other.Namespace != key.Namespace {
			continue
		}
		for _, pod := range pods {
			if o.pods.Matches(labels.Set(pod.Labels)) {
				return []types.NamespacedName{key, other}
			}
		}
	}
	return nil
}

// decide turns what metrics ask for into a number of replicas, and says why.
func decide(hpa *autoscalingv2.HorizontalPodAutoscaler, current int32, wish proposal, h *history, now time.Time) (replicas int32, reason string) {
	switch {
	case wish.replicas > current:
		reason = wish.metric + " above target"
	case wish.replicas < current:
		reason = "All metrics below target"
	}
	v := h.limit(&hpa.Spec, current, wish.replicas, now)
	condition(hpa, autoscalingv2.AbleToScale, true, v.stable, v.stableText)
	condition(hpa, autoscalingv2.ScalingLimited, v.limited, v.limit, v.limitText)
	if least := ptr.Deref(hpa.Spec.MinReplicas, 1); current == 0 && v.replicas < least {
		v.replicas = least
		if reason == "" {
			reason = "Current number of replicas below Spec.MinReplicas"
		}
	}
	return v.replicas, reason
}

// rescaled says in the conditions that the target was changed, and whether it may come back
// from zero by itself.
func rescaled(hpa *autoscalingv2.HorizontalPodAutoscaler, from, to int32) {
	condition(hpa, autoscalingv2.AbleToScale, true, "SucceededRescale", fmt.Sprintf("the HPA controller was able to update the target scale to %d", to))
	if from > 0 && to == 0 && measuresOthers(hpa) {
		condition(hpa, autoscalingv2.ScaledToZero, true, "ScaledToZero", "the HPA controller scaled the workload to zero")
	} else {
		condition(hpa, autoscalingv2.ScaledToZero, false, "NotScaledToZero", "the HPA controller did not scale the workload to zero")
	}
}

// status sets what is counted and measured. The rest of the status stays.
func status(hpa *autoscalingv2.HorizontalPodAutoscaler, current, desired int32, measured []autoscalingv2.MetricStatus) {
	hpa.Status.CurrentReplicas, hpa.Status.DesiredReplicas, hpa.Status.CurrentMetrics = current, desired, measured
	hpa.Status.ObservedGeneration = &hpa.Generation
}

func condition(hpa *autoscalingv2.HorizontalPodAutoscaler, t autoscalingv2.HorizontalPodAutoscalerConditionType, holds bool, reason, message string) {
	wanted := corev1.ConditionFalse
	if holds {
		wanted = corev1.ConditionTrue
	}
	for i := range hpa.Status.Conditions {
		if c := &hpa.Status.Conditions[i]; c.Type == t {
			if c.Status != wanted {
				c.LastTransitionTime = metav1.Now()
			}
			c.Status, c.Reason, c.Message = wanted, reason, message
			return
		}
	}
	hpa.Status.Conditions = append(hpa.Status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
		Type: t, Status: wanted, Reason: reason, Message: message, LastTransitionTime: metav1.Now(),
	})
}
