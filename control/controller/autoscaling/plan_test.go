package autoscaling

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// podsIn makes a pod for each word: what was measured of it is in the samples, and its
// state is "ready", "starting", "unready", "pending", "going", "failed".
func podsIn(request string, states ...string) []*corev1.Pod {
	var pods []*corev1.Pod
	for i, state := range states {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i)}}
		pod.Spec.Containers = []corev1.Container{{Name: "main"}, {Name: "side"}}
		for j := range pod.Spec.Containers {
			pod.Spec.Containers[j].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse(request)}
		}
		started, ready := metav1.NewTime(begin.Add(-time.Hour)), corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue}
		ready.LastTransitionTime = started
		pod.Status.Phase = corev1.PodRunning
		switch state {
		case "starting":
			started = metav1.NewTime(begin.Add(-time.Minute))
			ready.LastTransitionTime = metav1.NewTime(begin.Add(-10 * time.Second))
		case "unready":
			ready.Status = corev1.ConditionFalse
		case "pending":
			pod.Status.Phase = corev1.PodPending
		case "failed":
			pod.Status.Phase = corev1.PodFailed
		case "going":
			pod.DeletionTimestamp = &started
		}
		pod.Status.StartTime, pod.Status.Conditions = &started, []corev1.PodCondition{ready}
		pods = append(pods, pod)
	}
	return pods
}

// measured gives each pod a value; -1 for one of which nothing is known.
func measured(values ...int64) samples {
	m := samples{}
	for i, v := range values {
		if v >= 0 {
			m[fmt.Sprint(i)] = sample{at: begin, window: 30 * time.Second, value: v}
		}
	}
	return m
}

func TestReplicasFollowUsage(t *testing.T) {
	for name, c := range map[string]struct {
		replicas, target int32
		states           []string
		values           []int64
		want, percent    int32
	}{
		"on target":                                {3, 50, []string{"ready", "ready", "ready"}, []int64{100, 100, 100}, 3, 50},
		"within tolerance":                         {3, 50, []string{"ready", "ready", "ready"}, []int64{110, 110, 110}, 3, 55},
		"above":                                    {3, 50, []string{"ready", "ready", "ready"}, []int64{200, 200, 200}, 6, 100},
		"below":                                    {3, 50, []string{"ready", "ready", "ready"}, []int64{20, 20, 20}, 1, 10},
		"above, one pending counts as idle":        {3, 50, []string{"ready", "ready", "pending"}, []int64{200, 200, -1}, 4, 100},
		"above, one starting counts as idle":       {3, 50, []string{"ready", "ready", "starting"}, []int64{200, 200, 900}, 4, 100},
		"above, but not with idle ones":            {3, 50, []string{"ready", "starting", "starting"}, []int64{200, 0, 0}, 3, 100},
		"below, one starting is left out":          {3, 50, []string{"ready", "ready", "starting"}, []int64{20, 20, 900}, 1, 10},
		"below, one unknown counts as full":        {4, 50, []string{"ready", "ready", "ready", "ready"}, []int64{10, 10, 10, -1}, 3, 5},
		"below, but not with unknown ones":         {2, 50, []string{"ready", "ready"}, []int64{10, -1}, 2, 5},
		"above, one unknown counts as idle":        {2, 50, []string{"ready", "ready"}, []int64{400, -1}, 4, 200},
		"one that failed or goes is not counted":   {3, 50, []string{"ready", "failed", "going"}, []int64{200, 900, 900}, 2, 100},
		"one unready from the start is not either": {2, 50, []string{"ready", "unready"}, []int64{100, 0}, 2, 50},
	} {
		s := situation{now: begin, replicas: c.replicas, pods: podsIn("100m", c.states...), tolerances: tolerances{0.1, 0.1}}
		got, percent, _, err := s.byUtilization(measured(c.values...), corev1.ResourceCPU, "", c.target)
		if err != nil || got != c.want || percent != c.percent {
			t.Errorf("%s: %d replicas at %d %% (%v), want %d at %d %%", name, got, percent, err, c.want, c.percent)
		}
	}
	s := situation{now: begin, replicas: 1, pods: podsIn("100m", "ready"), tolerances: tolerances{0.1, 0.1}}
	if got, percent, _, err := s.byUtilization(measured(100), corev1.ResourceCPU, "main", 50); err != nil || got != 2 || percent != 100 {
		t.Errorf("of one container: %d replicas at %d %% (%v), want 2 at 100 %%", got, percent, err)
	}
	for name, f := range map[string]func() error{
		"missing request for memory in container main of Pod 0": func() error {
			_, _, _, err := s.byUtilization(measured(100), corev1.ResourceMemory, "", 50)
			return err
		},
		"container other not found in Pod 0": func() error {
			_, _, _, err := s.byUtilization(measured(100), corev1.ResourceCPU, "other", 50)
			return err
		},
		errNoSamples.Error(): func() error { _, _, err := s.byAverage(samples{}, "", 50); return err },
		errNoPods.Error():    func() error { _, _, err := (&situation{}).byAverage(measured(1), "", 50); return err },
	} {
		if err := f(); err == nil || err.Error() != name {
			t.Errorf("error %v, want %q", err, name)
		}
	}
	if got := sum([]int64{math.MaxInt64, 5}); got != math.MaxInt64 {
		t.Errorf("a sum overflows to %d", got)
	}
}

// However metrics jump, pods of which nothing is known make a change smaller and never
// turn it around, and a count within tolerance stays.
func TestWhatIsNotKnownOnlyDampens(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	states := []string{"ready", "ready", "ready", "starting", "unready", "pending", "failed", "going"}
	for range 5000 {
		n := 1 + random.IntN(12)
		all, values := make([]string, n), make([]int64, n)
		for i := range n {
			all[i], values[i] = states[random.IntN(len(states))], random.Int64N(400)-50
		}
		s := situation{now: begin, replicas: int32(n), pods: podsIn("100m", all...), tolerances: tolerances{0.1, 0.1}}
		target := int32(10 + random.IntN(150))
		known := group(s.pods, measured(values...), corev1.ResourceCPU, begin)
		got, percent, _, err := s.byUtilization(measured(values...), corev1.ResourceCPU, "", target)
		if err != nil {
			continue
		}
		ratio := float64(percent) / float64(target)
		bare := ceil(ratio * float64(known.ready))
		switch {
		case ratio > 1 && len(known.unready)+len(known.missing) > 0 && (got < s.replicas || got > max(ceil(ratio*float64(n)), s.replicas)):
			t.Fatalf("%v %v at %d %% of %d %%: %d of %d replicas", all, values, percent, target, got, s.replicas)
		case ratio < 1 && len(known.missing) > 0 && got > s.replicas:
			t.Fatalf("%v %v at %d %% of %d %%: %d of %d replicas", all, values, percent, target, got, s.replicas)
		case len(known.unready)+len(known.missing) == 0 && s.hold(ratio) && got != s.replicas:
			t.Fatalf("%v %v within tolerance: %d of %d replicas", all, values, got, s.replicas)
		case len(known.unready)+len(known.missing) == 0 && !s.hold(ratio) && got != bare:
			t.Fatalf("%v %v: %d replicas, want %d", all, values, got, bare)
		}
	}
}

// Whatever is asked for, a behavior's bounds, policies and windows hold at every look.
func TestBehaviorsHold(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 300 {
		up, down := int32(random.IntN(5)+1), int32(random.IntN(5)+1)
		upPeriod, downPeriod := int32(15*(1+random.IntN(20))), int32(15*(1+random.IntN(20)))
		upWindow, downWindow := int32(15*random.IntN(10)), int32(15*random.IntN(10))
		spec := autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: ptr.To[int32](2), MaxReplicas: 30, Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{
			ScaleUp: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &upWindow, SelectPolicy: ptr.To(autoscalingv2.MaxChangePolicySelect),
				Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: up, PeriodSeconds: upPeriod}}},
			ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &downWindow, SelectPolicy: ptr.To(autoscalingv2.MinChangePolicySelect),
				Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: down, PeriodSeconds: downPeriod}}},
		}}
		h, current, now := history{}, int32(2+random.IntN(20)), begin
		h.wishes = []moment{{now, current}}
		type look struct {
			at                   time.Time
			wish, before, counts int32
		}
		var looks []look
		for range 200 {
			wish := int32(random.IntN(40))
			v := h.limit(&spec, current, wish, now)
			if v.replicas != current {
				h.scaled(spec.Behavior, current, v.replicas, now)
			}
			looks = append(looks, look{now, wish, current, v.replicas})
			lowest, highest, grown, shrunk := wish, wish, int32(0), int32(0)
			for _, l := range looks {
				if l.at.After(now.Add(-seconds(upWindow))) {
					lowest = min(lowest, l.wish)
				}
				if l.at.After(now.Add(-seconds(downWindow))) {
					highest = max(highest, l.wish)
				}
				if l.at.After(now.Add(-seconds(upPeriod))) {
					grown += l.counts - l.before
				}
				if l.at.After(now.Add(-seconds(downPeriod))) {
					shrunk += l.before - l.counts
				}
			}
			switch {
			case v.replicas < 2 || v.replicas > 30:
				t.Fatalf("round %d: %d replicas, want 2 to 30", round, v.replicas)
			case v.replicas > current && v.replicas > max(lowest, 2):
				t.Fatalf("round %d: up to %d, beyond %d of the window", round, v.replicas, lowest)
			case v.replicas < current && v.replicas < min(highest, 30):
				t.Fatalf("round %d: down to %d, below %d of the window", round, v.replicas, highest)
			case v.replicas > current && grown > up:
				t.Fatalf("round %d: %d more in a period that allows %d", round, grown, up)
			case v.replicas < current && shrunk > down:
				t.Fatalf("round %d: %d fewer in a period that allows %d", round, shrunk, down)
			}
			current, now = v.replicas, now.Add(15*time.Second)
		}
		if most := 1 + 3600/15; len(h.wishes) > most || len(h.ups) > most || len(h.downs) > most {
			t.Errorf("%d, %d and %d moments remembered", len(h.wishes), len(h.ups), len(h.downs))
		}
	}
}

func TestPoliciesAreChosenFrom(t *testing.T) {
	rules := func(choice autoscalingv2.ScalingPolicySelect) *autoscalingv2.HPAScalingRules {
		return &autoscalingv2.HPAScalingRules{SelectPolicy: &choice, Policies: []autoscalingv2.HPAScalingPolicy{
			{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 60}, {Type: autoscalingv2.PercentScalingPolicy, Value: 15, PeriodSeconds: 60},
		}}
	}
	var h history
	for _, c := range []struct {
		choice    autoscalingv2.ScalingPolicySelect
		current   int32
		direction float64
		want      int32
	}{
		{autoscalingv2.MaxChangePolicySelect, 10, +1, 14}, {autoscalingv2.MinChangePolicySelect, 10, +1, 12}, {autoscalingv2.DisabledPolicySelect, 10, +1, 10},
		{autoscalingv2.MaxChangePolicySelect, 10, -1, 6}, {autoscalingv2.MinChangePolicySelect, 10, -1, 8}, {autoscalingv2.DisabledPolicySelect, 10, -1, 10},
		{autoscalingv2.MaxChangePolicySelect, 100, +1, 115}, {autoscalingv2.MinChangePolicySelect, 100, -1, 96},
	} {
		if got := h.allowed(rules(c.choice), c.current, c.direction, begin); got != c.want {
			t.Errorf("%s from %d, %+.0f: %d, want %d", c.choice, c.current, c.direction, got, c.want)
		}
	}
	for _, c := range []struct {
		current, wish, want int32
		reason              string
	}{{1, 9, 4, upLimit}, {10, 30, 20, upLimit}, {20, 50, 30, tooMany}, {5, 0, 2, tooFew}, {5, 7, 7, withinRange}} {
		if got, reason, _ := bounded(c.current, c.wish, 2, 30); got != c.want || reason != c.reason {
			t.Errorf("without a behavior from %d to %d: %d, %s; want %d, %s", c.current, c.wish, got, reason, c.want, c.reason)
		}
	}
}
