package apiserver

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/musterhq/muster/control/apiserver/flow"
	"github.com/musterhq/muster/control/apiserver/priority"
	"github.com/musterhq/muster/control/auth"
)

// Bounds of requests that are worked on at once. Beyond them a client's requests
// wait in queues of its own, and beyond those they are refused with 429 and
// Retry-After, which clients wait out.
const (
	defaultReadsMax  = 800
	defaultWritesMax = 400
	// turnWait is how long a request waits for its turn: a quarter of its time, as
	// upstream.
	turnWait = requestTimeout / 4
	// Requests that last (watches, logs, exec, proxies) hold memory instead of a
	// turn: some 64 KiB each. One client leaves others room.
	lastingMax  = 8192
	lastingEach = 4096
)

// level is the requests that share one bound.
type level struct {
	queue            *flow.Queue
	running, waiting prometheus.Gauge
	dispatched       prometheus.Counter
	waited           prometheus.Observer
	refusals         *prometheus.CounterVec
	name             string
}

func newLevel(name string, most int, m *metrics) *level {
	return &level{
		name: name, queue: flow.New(most, turnWait),
		running: m.inFlight.WithLabelValues(name), waiting: m.queued.WithLabelValues(name),
		dispatched: m.dispatched.WithLabelValues(name), waited: m.waited.WithLabelValues(name), refusals: m.refused,
	}
}

// enter waits for a client's turn. Who entered calls leave.
func (l *level) enter(ctx context.Context, client string, exempt bool) (leave func(), err error) {
	began := time.Now()
	l.waiting.Inc()
	done, err := l.queue.Enter(ctx, client, exempt)
	l.waiting.Dec()
	switch {
	case errors.Is(err, flow.ErrFull):
		l.refusals.WithLabelValues(l.name, "queue-full").Inc()
		return nil, errTooManyRequests
	case errors.Is(err, flow.ErrLate):
		l.refusals.WithLabelValues(l.name, "time-out").Inc()
		return nil, errTooManyRequests
	case err != nil:
		l.refusals.WithLabelValues(l.name, "cancelled").Inc()
		return nil, err
	}
	l.waited.Observe(time.Since(began).Seconds())
	l.dispatched.Inc()
	l.running.Inc()
	return func() {
		l.running.Dec()
		done()
	}, nil
}

// classify finds the priority level of a request and tells the client, as
// upstream does: who is refused or waits can see by whose configuration.
func (s *Server) classify(w http.ResponseWriter, request *auth.Attributes) priority.Class {
	class := s.priority.Of(request)
	if class.Level != "" {
		header := w.Header()
		header.Set(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID, string(class.SchemaUID))
		header.Set(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID, string(class.LevelUID))
	}
	return class
}

// enterLevel waits until a request's priority level has a seat for it. Who is
// exempt below is so here, whatever the configuration says.
func (s *Server) enterLevel(r *http.Request, class *priority.Class) (leave func(), err error) {
	if _, exempt := clientOf(r); exempt || class.Level == "" || class.Exempt() {
		return func() {}, nil
	}
	leave, err = class.Enter(r.Context())
	reason := ""
	switch {
	case err == nil:
		s.metrics.dispatched.WithLabelValues(class.Level).Inc()
		return leave, nil
	case errors.Is(err, flow.ErrFull):
		reason = "queue-full"
	case errors.Is(err, flow.ErrLate):
		reason = "time-out"
	default:
		s.metrics.refused.WithLabelValues(class.Level, "cancelled").Inc()
		return nil, err
	}
	s.metrics.refused.WithLabelValues(class.Level, reason).Inc()
	return nil, errTooManyRequests
}

// clientOf is whose turn a request takes. Administrators and control nodes never
// wait: they must be able to put an end to a flood.
func clientOf(r *http.Request) (name string, exempt bool) {
	who, ok := genericrequest.UserFrom(r.Context())
	if !ok {
		return "", false
	}
	groups := who.GetGroups()
	return who.GetName(), slices.Contains(groups, user.SystemPrivilegedGroup) || slices.Contains(groups, auth.ServersGroup)
}
