package beat

import "time"

const (
	intervalLeast = 500 * time.Millisecond
	intervalMost  = 3 * time.Second
	// beatsMost bounds the beats that a control node takes in a second, until
	// intervalMost is reached.
	beatsMost = 500
	// slack is what a beat may be late at least. One that is not answered is sent again
	// twice within it.
	slack = 500 * time.Millisecond
)

// Interval is how often each of so many agents sends a beat to one control node.
func Interval(sessions int) time.Duration {
	even := time.Duration(sessions) * time.Second / beatsMost
	return min(max(even, intervalLeast), intervalMost).Round(time.Millisecond)
}

// SilentAfter is how long nothing is heard of an agent that was told this
// interval before that is worth a word. Where there are many, some are always late.
func SilentAfter(interval time.Duration) time.Duration { return interval + max(slack, interval/2) }
