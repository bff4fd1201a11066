package apiserver

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics carry upstream's names and labels, so that dashboards written for
// kube-apiserver show Muster too.
type metrics struct {
	requests    *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	inFlight    *prometheus.GaugeVec
	longRunning *prometheus.GaugeVec
	rejected    *prometheus.CounterVec
	watchEvents *prometheus.CounterVec
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	labels := []string{"verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total",
			Help: "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
		}, append(labels, "code")),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_request_duration_seconds",
			Help:    "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
			Buckets: []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60},
		}, labels),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_current_inflight_requests",
			Help: "Number of currently used inflight request slots of this apiserver per request kind.",
		}, []string{"request_kind"}),
		longRunning: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_longrunning_requests",
			Help: "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component.",
		}, []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_terminations_total",
			Help: "Number of requests which apiserver terminated in self-defense.",
		}, []string{"verb", "group", "version", "resource", "subresource", "scope", "component", "code"}),
		watchEvents: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_watch_events_total",
			Help: "Number of events sent in watch clients.",
		}, []string{"group", "version", "resource"}),
	}
	if registerer != nil {
		registerer.MustRegister(m.requests, m.duration, m.inFlight, m.longRunning, m.rejected, m.watchEvents)
	}
	return m
}

// observed is what the metrics of one request say about it. Only what is served
// gets here by name: labels must not grow with what clients make up.
type observed struct {
	verb   string
	target target
	dryRun string
	scope  string
	long   bool
}

func (o observed) values() []string {
	return []string{o.verb, o.dryRun, o.target.group, o.target.version, o.target.resource, o.target.subresource, o.scope, "apiserver"}
}

func (o observed) withoutDryRun() []string {
	return []string{o.verb, o.target.group, o.target.version, o.target.resource, o.target.subresource, o.scope, "apiserver"}
}

func (m *metrics) observe(o observed, code int, took time.Duration) {
	m.requests.WithLabelValues(append(o.values(), strconv.Itoa(code))...).Inc()
	if !o.long {
		m.duration.WithLabelValues(o.values()...).Observe(took.Seconds())
	}
}

// metricVerb is upstream's label for a verb.
func metricVerb(method string, t target) string {
	switch t.verb {
	case "list", "watch", "deletecollection":
		return strings.ToUpper(t.verb)
	case "get":
		return http.MethodGet
	case "create":
		return http.MethodPost
	case "update":
		return http.MethodPut
	case "patch":
		return http.MethodPatch
	case "delete":
		return http.MethodDelete
	case "connect":
		return "CONNECT"
	}
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead, http.MethodOptions:
		return method
	}
	return "other"
}

// metricScope is upstream's label for how much a request is about.
func metricScope(t target) string {
	switch {
	case t.name != "":
		return "resource"
	case t.namespace != "":
		return "namespace"
	case t.resource != "":
		return "cluster"
	}
	return ""
}
