package apiserver

import "github.com/prometheus/client_golang/prometheus"

// Bounds of requests that are worked on at once. At the bound a request is
// refused at once with 429 and Retry-After, which clients wait out: a queue
// here would only hide that the server is too slow, and hold memory. Requests
// that last (watches, logs, exec) are not counted.
const (
	defaultReadsMax  = 800
	defaultWritesMax = 400
)

// limiter bounds how many requests of one kind are in flight.
type limiter struct {
	slots chan struct{}
	gauge prometheus.Gauge
}

func newLimiter(most int, gauge prometheus.Gauge) *limiter {
	return &limiter{slots: make(chan struct{}, most), gauge: gauge}
}

// enter takes a slot; false means that there is none. Who entered must leave.
func (l *limiter) enter() bool {
	select {
	case l.slots <- struct{}{}:
		l.gauge.Inc()
		return true
	default:
		return false
	}
}

func (l *limiter) leave() {
	<-l.slots
	l.gauge.Dec()
}
