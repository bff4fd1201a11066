package apiserver

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/musterhq/muster/control/apiserver/priority"
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
	watchSizes  *prometheus.HistogramVec
	sizes       *prometheus.HistogramVec
	dispatched  *prometheus.CounterVec
	refused     *prometheus.CounterVec
	queued      *prometheus.GaugeVec
	waited      *prometheus.HistogramVec
	nominal     *prometheus.GaugeVec
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
		watchSizes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_watch_events_sizes",
			Help:    "Watch event size distribution in bytes.",
			Buckets: prometheus.ExponentialBuckets(1024, 2, 8),
		}, []string{"group", "version", "resource"}),
		sizes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_response_sizes",
			Help:    "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
			Buckets: prometheus.ExponentialBuckets(1000, 10, 7),
		}, []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}),
		dispatched: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_flowcontrol_dispatched_requests_total",
			Help: "Number of requests executed by flow control.",
		}, []string{"priority_level"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_flowcontrol_rejected_requests_total",
			Help: "Number of requests rejected by flow control.",
		}, []string{"priority_level", "reason"}),
		queued: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_flowcontrol_current_inqueue_requests",
			Help: "Number of requests currently pending in queues of flow control.",
		}, []string{"priority_level"}),
		waited: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "apiserver_flowcontrol_request_wait_duration_seconds",
			Help:    "Length of time a request spent waiting in its queue.",
			Buckets: []float64{0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30},
		}, []string{"priority_level"}),
	}
	m.nominal = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "apiserver_flowcontrol_nominal_limit_seats",
		Help: "Nominal number of execution seats configured for each priority level.",
	}, []string{"priority_level"})
	if registerer != nil {
		registerer.MustRegister(m.requests, m.duration, m.inFlight, m.longRunning, m.rejected, m.watchEvents, m.watchSizes, m.sizes,
			m.dispatched, m.refused, m.queued, m.waited, m.nominal)
	}
	return m
}

// nominalSeats says what seats each limited priority level has.
func (m *metrics) nominalSeats(seats map[string]int) {
	m.nominal.Reset()
	for name, n := range seats {
		m.nominal.WithLabelValues(name).Set(float64(n))
	}
}

// observed is what the metrics of one request say about it. Only what is served
// gets here by name: labels must not grow with what clients make up.
type observed struct {
	verb   string
	target target
	dryRun string
	scope  string
	long   bool
	// class is the priority level that it belongs to.
	class priority.Class
}

func (o observed) values() []string {
	return []string{o.verb, o.dryRun, o.target.group, o.target.version, o.target.resource, o.target.subresource, o.scope, "apiserver"}
}

func (o observed) withoutDryRun() []string {
	return []string{o.verb, o.target.group, o.target.version, o.target.resource, o.target.subresource, o.scope, "apiserver"}
}

func (m *metrics) observe(o observed, code int, size int64, took time.Duration) {
	m.requests.WithLabelValues(append(o.values(), strconv.Itoa(code))...).Inc()
	if o.verb == http.MethodGet || o.verb == "LIST" {
		m.sizes.WithLabelValues(o.withoutDryRun()...).Observe(float64(size))
	}
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
