package autoscaling

import (
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/utils/ptr"
)

// Upstream's defaults: scaling down waits for downWindow without a higher wish, and an
// autoscaler without a behavior at most doubles, or goes to four.
const (
	downWindow   = 5 * time.Minute
	upFactor     = 2
	upLimitLeast = 4
)

// history is what an autoscaler remembers. It is of one leader term: the next one begins
// with the present count, so nothing shrinks until a whole window has passed.
type history struct {
	wishes []moment // what metrics asked for, before any limit
	ups    []moment // by how much it scaled up
	downs  []moment
}

type moment struct {
	at       time.Time
	replicas int32
}

// forget drops what is older than any window looks back. Nothing is kept for longer than
// the hour that windows and periods have at most.
func forget(moments []moment, before time.Time) []moment {
	return slices.DeleteFunc(moments, func(m moment) bool { return m.at.Before(before) })
}

// scaled notes a change, for an autoscaler that limits how fast it may change.
func (h *history) scaled(behavior *autoscalingv2.HorizontalPodAutoscalerBehavior, from, to int32, now time.Time) {
	switch {
	case behavior == nil:
	case to > from:
		h.ups = append(forget(h.ups, now.Add(-longestPeriod(behavior.ScaleUp))), moment{now, to - from})
	default:
		h.downs = append(forget(h.downs, now.Add(-longestPeriod(behavior.ScaleDown))), moment{now, from - to})
	}
}

func longestPeriod(rules *autoscalingv2.HPAScalingRules) time.Duration {
	var longest time.Duration
	for _, policy := range rules.Policies {
		longest = max(longest, seconds(policy.PeriodSeconds))
	}
	return longest
}

func seconds(s int32) time.Duration { return time.Duration(s) * time.Second }

// verdict is a number of replicas and how it came about, in upstream's words.
type verdict struct {
	replicas           int32
	stable, stableText string // reason and message of AbleToScale
	limited            bool
	limit, limitText   string // reason and message of ScalingLimited
}

// limit turns what metrics ask for into what may be done now, and remembers it.
func (h *history) limit(spec *autoscalingv2.HorizontalPodAutoscalerSpec, current, wish int32, now time.Time) verdict {
	least := ptr.Deref(spec.MinReplicas, 1)
	v := verdict{stable: "ReadyForNewScale", stableText: "recommended size matches current size"}
	var stabilized int32
	if spec.Behavior == nil {
		stabilized = h.highest(wish, now)
		if stabilized != wish {
			v.stable, v.stableText = stabilizedDown()
		}
		v.replicas, v.limit, v.limitText = bounded(current, stabilized, least, spec.MaxReplicas)
	} else {
		stabilized = h.stabilize(spec.Behavior, current, wish, now)
		if stabilized != wish {
			v.stable, v.stableText = "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"
			if wish < current {
				v.stable, v.stableText = stabilizedDown()
			}
		}
		v.replicas, v.limit, v.limitText = h.paced(spec.Behavior, current, stabilized, least, spec.MaxReplicas, now)
	}
	v.limited = v.replicas != stabilized
	return v
}

func stabilizedDown() (reason, message string) {
	return "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation"
}

// highest is the highest wish of the default window.
func (h *history) highest(wish int32, now time.Time) int32 {
	h.wishes = forget(h.wishes, now.Add(-downWindow))
	highest := wish
	for _, m := range h.wishes {
		highest = max(highest, m.replicas)
	}
	h.wishes = append(h.wishes, moment{now, wish})
	return highest
}

// stabilize keeps the present count within the lowest wish of the window for scaling up and the
// highest of that for scaling down.
func (h *history) stabilize(behavior *autoscalingv2.HorizontalPodAutoscalerBehavior, current, wish int32, now time.Time) int32 {
	up := seconds(ptr.Deref(behavior.ScaleUp.StabilizationWindowSeconds, 0))
	down := downWindow
	if s := behavior.ScaleDown.StabilizationWindowSeconds; s != nil {
		down = seconds(*s)
	}
	h.wishes = forget(h.wishes, now.Add(-max(up, down)))
	lowest, highest := wish, wish
	for _, m := range h.wishes {
		if m.at.After(now.Add(-up)) {
			lowest = min(lowest, m.replicas)
		}
		if m.at.After(now.Add(-down)) {
			highest = max(highest, m.replicas)
		}
	}
	h.wishes = append(h.wishes, moment{now, wish})
	return min(max(current, lowest), highest)
}

const (
	withinRange     = "DesiredWithinRange"
	withinRangeText = "the desired count is within the acceptable range"
	tooFew          = "TooFewReplicas"
	tooFewText      = "the desired replica count is less than the minimum replica count"
	tooMany         = "TooManyReplicas"
	tooManyText     = "the desired replica count is more than the maximum replica count"
	upLimit         = "ScaleUpLimit"
	upLimitText     = "the desired replica count is increasing faster than the maximum scale rate"
	downLimit       = "ScaleDownLimit"
	downLimitText   = "the desired replica count is decreasing faster than the maximum scale rate"
)

// bounded keeps a count within the bounds of an autoscaler without a behavior.
func bounded(current, wish, least, most int32) (int32, string, string) {
	reason, message := tooMany, tooManyText
	if limit := int32(min(max(upFactor*int64(current), upLimitLeast), math.MaxInt32)); most > limit {
		most, reason, message = limit, upLimit, upLimitText
	}
	switch {
	case wish < least:
		return least, tooFew, tooFewText
	case wish > most:
		return most, reason, message
	}
	return wish, withinRange, withinRangeText
}

// paced keeps a count within the bounds and changes it no faster than policies allow.
func (h *history) paced(behavior *autoscalingv2.HorizontalPodAutoscalerBehavior, current, wish, least, most int32, now time.Time) (int32, string, string) {
	switch {
	case wish > current:
		reason, message := tooMany, tooManyText
		if limit := max(h.allowed(behavior.ScaleUp, current, +1, now), current); most > limit {
			most, reason, message = limit, upLimit, upLimitText
		}
		if wish > most {
			return most, reason, message
		}
	case wish < current:
		reason, message := tooFew, tooFewText
		if limit := min(h.allowed(behavior.ScaleDown, current, -1, now), current); least < limit {
			least, reason, message = limit, downLimit, downLimitText
		}
		if wish < least {
			return least, reason, message
		}
	}
	return wish, withinRange, withinRangeText
}

// allowed is how far rules let a count go in a direction. Of several policies the one that
// allows the greatest change counts, unless the rules say the smallest.
func (h *history) allowed(rules *autoscalingv2.HPAScalingRules, current int32, direction float64, now time.Time) int32 {
	choice := ptr.Deref(rules.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if choice == autoscalingv2.DisabledPolicySelect {
		return current
	}
	highest := (direction > 0) == (choice != autoscalingv2.MinChangePolicySelect)
	var result int32 = math.MaxInt32
	if highest {
		result = math.MinInt32
	}
	for _, policy := range rules.Policies {
		since := now.Add(-seconds(policy.PeriodSeconds))
		start := current - changeSince(h.ups, since) + changeSince(h.downs, since)
		proposed := float64(start) + direction*float64(policy.Value)
		if policy.Type == autoscalingv2.PercentScalingPolicy {
			proposed = float64(start) * (1 + direction*float64(policy.Value)/100)
			if direction > 0 {
				proposed = math.Ceil(proposed) // or a small target would never grow
			}
		}
		count := int32(max(min(proposed, math.MaxInt32), math.MinInt32))
		if highest {
			result = max(result, count)
		} else {
			result = min(result, count)
		}
	}
	return result
}

func changeSince(moments []moment, since time.Time) (change int32) {
	for _, m := range moments {
		if m.at.After(since) {
			change += m.replicas
		}
	}
	return change
}
