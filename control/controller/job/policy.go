package job

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// failureRule finds what a job's failure policy says of a failed pod: the action, ""
// for none, and why the job fails if that is it.
func failureRule(policy *batchv1.PodFailurePolicy, pod *corev1.Pod) (batchv1.PodFailurePolicyAction, string) {
	if policy == nil {
		return "", ""
	}
	for i, rule := range policy.Rules {
		what := ""
		switch {
		case rule.OnExitCodes != nil:
			if c := exited(&pod.Status, rule.OnExitCodes); c != nil {
				what = fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v", c.Name, pod.Namespace, pod.Name, c.State.Terminated.ExitCode)
			}
		default:
			for _, c := range pod.Status.Conditions {
				if slices.ContainsFunc(rule.OnPodConditions, func(p batchv1.PodFailurePolicyOnPodConditionsPattern) bool {
					return p.Type == c.Type && p.Status == c.Status
				}) {
					what = fmt.Sprintf("Pod %s/%s has condition %v", pod.Namespace, pod.Name, c.Type)
					break
				}
			}
		}
		if what != "" {
			return rule.Action, fmt.Sprintf("%s matching %v rule at index %d", what, rule.Action, i)
		}
	}
	return "", ""
}

// exited finds a container that failed as a rule says.
func exited(status *corev1.PodStatus, rule *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{status.ContainerStatuses, status.InitContainerStatuses} {
		for i := range list {
			c := &list[i]
			if c.State.Terminated == nil || c.State.Terminated.ExitCode == 0 || rule.ContainerName != nil && *rule.ContainerName != c.Name {
				continue
			}
			in := slices.Contains(rule.Values, c.State.Terminated.ExitCode)
			if rule.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && in || rule.Operator == batchv1.PodFailurePolicyOnExitCodesOpNotIn && !in {
				return c
			}
		}
	}
	return nil
}

// success says whether a job's success policy is met, and by which rule.
func success(policy *batchv1.SuccessPolicy, succeeded indexes, completions int) (string, bool) {
	if policy == nil || succeeded.total() == 0 {
		return "", false
	}
	for i, rule := range policy.Rules {
		met := false
		if rule.SucceededIndexes != nil {
			required := parseIndexes(*rule.SucceededIndexes, completions)
			both := required.both(succeeded)
			met = required.total() > 0 && (both == required.total() || rule.SucceededCount != nil && both >= int(*rule.SucceededCount))
		} else {
			met = rule.SucceededCount != nil && succeeded.total() >= int(*rule.SucceededCount)
		}
		if met {
			return fmt.Sprintf("Matched rules at index %d", i), true
		}
	}
	return "", false
}

// A pod that failed is replaced after backOffFirst, after twice that when it is the
// second in a row, and so on.
const (
	backOffFirst = 10 * time.Second
	backOffMost  = 10 * time.Minute
)

// backOff is how long to wait after the last of so many failures in a row.
func backOff(failures int, last, now time.Time) time.Duration {
	if failures == 0 {
		return 0
	}
	wait := backOffFirst
	for i := 1; i < failures && wait < backOffMost; i++ {
		wait *= 2
	}
	return max(0, last.Add(min(wait, backOffMost)).Sub(now))
}

// failuresInARow counts the failed pods since the last that succeeded, and says when
// the last failed. It looks at all pods that are there: so the next leader waits as long.
func (v *view) failuresInARow() (n int, last time.Time) {
	var success time.Time
	for _, pod := range v.pods {
		if at := finishedAt(pod); pod.Status.Phase == corev1.PodSucceeded && at.After(success) {
			success = at
		}
	}
	for _, pod := range v.pods {
		if at := finishedAt(pod); v.hasFailed(pod) && at.After(success) {
			n++
			if at.After(last) {
				last = at
			}
		}
	}
	return n, last
}

// finishedAt is when a pod's last container ended, or else when it ceased to be ready,
// was deleted, or was made.
func finishedAt(pod *corev1.Pod) time.Time {
	var last time.Time
	for _, c := range pod.Status.ContainerStatuses {
		t := c.State.Terminated
		if t == nil || t.FinishedAt.IsZero() {
			last = time.Time{}
			break
		}
		if t.FinishedAt.After(last) {
			last = t.FinishedAt.Time
		}
	}
	if !last.IsZero() {
		return last
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
			return c.LastTransitionTime.Time
		}
	}
	if pod.DeletionTimestamp != nil {
		return pod.DeletionTimestamp.Add(-time.Duration(ptr.Deref(pod.DeletionGracePeriodSeconds, 0)) * time.Second)
	}
	return pod.CreationTimestamp.Time
}
