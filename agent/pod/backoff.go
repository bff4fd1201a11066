package pod

import "time"

// Kubernetes' back-off between restarts of a container, and between attempts
// to pull an image.
const (
	backOffFirst = 10 * time.Second
	backOffMost  = 5 * time.Minute
)

// backOff holds back what failed again and again. The zero value holds nothing
// back: the first try after a failure is at once.
type backOff struct {
	delay time.Duration // before the next try, counted from the last failure
	tried time.Time     // when the last try was allowed
}

// until says when the next try may be, after a failure at failed. A zero time
// is now. Who has been quiet for long starts over.
func (b backOff) until(failed time.Time) time.Time {
	if b.delay == 0 || b.quiet(failed) {
		return time.Time{}
	}
	return failed.Add(b.delay)
}

// next is the back-off after a try at now that answers a failure at failed.
func (b backOff) next(failed, now time.Time) backOff {
	if b.delay == 0 || b.quiet(failed) {
		return backOff{delay: backOffFirst, tried: now}
	}
	return backOff{delay: min(2*b.delay, backOffMost), tried: now}
}

func (b backOff) quiet(failed time.Time) bool { return failed.Sub(b.tried) > 2*backOffMost }
