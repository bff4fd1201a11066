package autoscaling

import (
	"errors"
	"fmt"
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	podrequests "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
)

// Of the processor time that a pod uses when it starts, upstream's defaults say
// what is left out.
const (
	startingFor      = 5 * time.Minute  // since its start: while it is not ready, and a window longer
	readinessDelay   = 30 * time.Second // later: if it was not ready beyond this
	defaultTolerance = 0.1
)

var (
	errNoPods    = errors.New("no pods returned by selector while calculating replica count")
	errNoSamples = errors.New("did not receive metrics for targeted pods (pods might be unready)")
)

// sample is what was measured of a pod, in thousandths.
type sample struct {
	at     time.Time
	window time.Duration
	value  int64
}

// samples are by the name of the pod.
type samples map[string]sample

// tolerances are how far below and above 1 a ratio of usage to target may be
// without a change.
type tolerances struct{ down, up float64 }

func tolerancesOf(hpa *autoscalingv2.HorizontalPodAutoscaler) tolerances {
	t := tolerances{defaultTolerance, defaultTolerance}
	if b := hpa.Spec.Behavior; b != nil {
		if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
			t.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
		}
		if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
			t.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
		}
	}
	return t
}

func (t tolerances) hold(ratio float64) bool { return 1-t.down <= ratio && ratio <= 1+t.up }

// situation is what replica counts are worked out from beside measurements.
type situation struct {
	now      time.Time
	replicas int32 // wanted at present
	counted  int32 // there at present, as the target says
	pods     []*corev1.Pod
	tolerances
}

// byUtilization works out how many replicas use the target percentage of what they
// request, and what they use now, in percent and in thousandths each.
func (s *situation) byUtilization(measured samples, name corev1.ResourceName, container string, target int32) (replicas, percent int32, average int64, err error) {
	var requests map[string]int64
	first := true
	replicas, err = s.byPods(measured, name,
		func(m samples) (float64, error) {
			if requests == nil {
				if requests, err = requestsOf(s.pods, container, name); err != nil {
					return 0, err
				}
			}
			ratio, now, each, err := utilization(m, requests, target)
			if first {
				first, percent, average = false, now, each
			}
			return ratio, err
		},
		func(pod string) int64 { return requests[pod] * int64(max(100, target)) / 100 })
	return replicas, percent, average, err
}

// byAverage works out how many replicas have the target each, in thousandths, and
// what they have now. Name is empty for what is no resource.
func (s *situation) byAverage(measured samples, name corev1.ResourceName, target int64) (replicas int32, average int64, err error) {
	first := true
	replicas, err = s.byPods(measured, name,
		func(m samples) (float64, error) {
			now := mean(m)
			if first {
				first, average = false, now
			}
			return float64(now) / float64(target), nil
		},
		func(string) int64 { return target })
	return replicas, average, err
}

// byPods is upstream's reckoning with pods of which nothing was measured, or that are
// not ready: they are first left out, and then counted so that they make the change
// smaller, never turn it around. Missing is what such a pod is said to use when the
// others use little.
func (s *situation) byPods(measured samples, name corev1.ResourceName, ratioOf func(samples) (float64, error), missing func(pod string) int64) (int32, error) {
	if len(s.pods) == 0 {
		return 0, errNoPods
	}
	groups := group(s.pods, measured, name, s.now)
	for _, out := range [][]string{groups.ignored, groups.unready} {
		for _, pod := range out {
			delete(measured, pod)
		}
	}
	if len(measured) == 0 {
		return 0, errNoSamples
	}
	ratio, err := ratioOf(measured)
	if err != nil {
		return 0, err
	}
	unreadyCount := len(groups.unready) > 0 && ratio > 1
	if !unreadyCount && len(groups.missing) == 0 {
		if s.hold(ratio) {
			return s.replicas, nil
		}
		return ceil(ratio * float64(groups.ready)), nil
	}
	for _, pod := range groups.missing {
		switch {
		case ratio < 1:
			measured[pod] = sample{value: missing(pod)}
		case ratio > 1:
			measured[pod] = sample{}
		}
	}
	if unreadyCount {
		for _, pod := range groups.unready {
			measured[pod] = sample{}
		}
	}
	again, err := ratioOf(measured)
	if err != nil {
		return 0, err
	}
	if s.hold(again) || ratio < 1 && again > 1 || ratio > 1 && again < 1 {
		return s.replicas, nil
	}
	replicas := ceil(again * float64(len(measured)))
	if again < 1 && replicas > s.replicas || again > 1 && replicas < s.replicas {
		return s.replicas, nil
	}
	return replicas, nil
}

// byValue works out how many replicas bring a value that all share to its target. From
// none it goes by the value alone.
func (s *situation) byValue(value, target int64) (int32, error) {
	ratio := float64(value) / float64(target)
	if s.replicas == 0 {
		return ceil(ratio), nil
	}
	if s.hold(ratio) {
		return s.replicas, nil
	}
	if len(s.pods) == 0 {
		return 0, fmt.Errorf("unable to calculate ready pods: %w", errNoPods)
	}
	ready := 0
	for _, pod := range s.pods {
		if _, is := controller.ReadySince(pod); is && pod.Status.Phase == corev1.PodRunning {
			ready++
		}
	}
	return ceil(ratio * float64(ready)), nil
}

// byShare works out how many replicas have the target each of a value that all share,
// and what each has now.
func (s *situation) byShare(value, target int64) (replicas int32, share int64) {
	replicas = s.counted
	if !s.hold(float64(value) / (float64(target) * float64(replicas))) {
		replicas = ceil(float64(value) / float64(target))
	}
	// Nobody has a share where there is nobody: it is told as it is.
	each := math.Ceil(float64(value) / float64(max(s.counted, 1)))
	if each >= math.MaxInt64 {
		return replicas, math.MaxInt64
	}
	return replicas, int64(each)
}

func ceil(f float64) int32 { return int32(min(math.Ceil(f), math.MaxInt32)) }

// sum never overflows.
func sum(values []int64) int64 {
	var total int64
	for _, v := range values {
		if v > 0 && total > math.MaxInt64-v {
			return math.MaxInt64
		}
		total += v
	}
	return total
}

func mean(m samples) int64 {
	total := int64(0)
	for _, s := range m {
		total += s.value
	}
	return total / int64(len(m))
}

// utilization is of the pods whose requests are known, all together.
func utilization(m samples, requests map[string]int64, target int32) (ratio float64, percent int32, average int64, err error) {
	used, requested, pods := int64(0), int64(0), int64(0)
	for pod, s := range m {
		if request, ok := requests[pod]; ok {
			used, requested, pods = used+s.value, requested+request, pods+1
		}
	}
	if requested == 0 {
		return 0, 0, 0, errors.New("no metrics returned matched known pods")
	}
	percent = int32(used * 100 / requested)
	return float64(percent) / float64(target), percent, used / pods, nil
}

type groups struct {
	ready                     int
	unready, missing, ignored []string
}

// group sorts pods by whether what was measured of them says how busy they are.
func group(pods []*corev1.Pod, measured samples, name corev1.ResourceName, now time.Time) (g groups) {
	for _, pod := range pods {
		s, ok := measured[pod.Name]
		switch {
		case pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed:
			g.ignored = append(g.ignored, pod.Name)
		case pod.Status.Phase == corev1.PodPending:
			g.unready = append(g.unready, pod.Name)
		case !ok:
			g.missing = append(g.missing, pod.Name)
		case name == corev1.ResourceCPU && isStarting(pod, s, now):
			g.unready = append(g.unready, pod.Name)
		default:
			g.ready++
		}
	}
	return g
}

// isStarting says that what a pod was measured to use may be for its start.
func isStarting(pod *corev1.Pod, s sample, now time.Time) bool {
	var ready *corev1.PodCondition
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady {
			ready = c
		}
	}
	if ready == nil || pod.Status.StartTime == nil {
		return true
	}
	started := pod.Status.StartTime.Time
	if started.Add(startingFor).After(now) {
		return ready.Status == corev1.ConditionFalse || s.at.Before(ready.LastTransitionTime.Add(s.window))
	}
	return ready.Status == corev1.ConditionFalse && started.Add(readinessDelay).After(ready.LastTransitionTime.Time)
}

// requestsOf are in thousandths. What the pod as a whole requests counts, if it does and
// no container is asked for.
func requestsOf(pods []*corev1.Pod, container string, name corev1.ResourceName) (map[string]int64, error) {
	all := make(map[string]int64, len(pods))
	for _, pod := range pods {
		if container == "" && podrequests.IsPodLevelRequestsSet(pod) {
			request, ok := podrequests.PodRequests(pod, podrequests.PodResourcesOptions{})[name]
			if !ok {
				return nil, fmt.Errorf("missing pod-level request for %s in Pod %s", name, pod.Name)
			}
			all[pod.Name] = request.MilliValue()
			continue
		}
		found := false
		for _, c := range running(pod) {
			if container != "" && c.Name != container {
				continue
			}
			request, ok := c.Resources.Requests[name]
			if !ok {
				return nil, fmt.Errorf("missing request for %s in container %s of Pod %s", name, c.Name, pod.Name)
			}
			all[pod.Name] += request.MilliValue()
			found = true
		}
		if container != "" && !found {
			return nil, fmt.Errorf("container %s not found in Pod %s", container, pod.Name)
		}
	}
	return all, nil
}

// running are the containers that run as long as the pod does.
func running(pod *corev1.Pod) []corev1.Container {
	all := pod.Spec.Containers[:len(pod.Spec.Containers):len(pod.Spec.Containers)]
	for _, c := range pod.Spec.InitContainers {
		if ptr.Deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways {
			all = append(all, c)
		}
	}
	return all
}
