// Package apiserver is the Kubernetes API over HTTPS, as every control node
// serves it: paths, verbs, forms and errors are upstream's, so that kubectl and
// client-go work unmodified. It reads from this node's replica through package
// store and writes through package resource; what an object means is their
// business. See DESIGN.md for a request's way through the files.
package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/musterhq/muster/control/aggregate"
	"github.com/musterhq/muster/control/apiserver/flow"
	"github.com/musterhq/muster/control/apiserver/openapi"
	"github.com/musterhq/muster/control/apiserver/priority"
	"github.com/musterhq/muster/control/audit"
	"github.com/musterhq/muster/control/auth"
	"github.com/musterhq/muster/control/reach"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// Config is what a Server needs.
type Config struct {
	Registry *resource.Registry
	Store    *store.Store
	// Authorizer says what users may do; whoever made it runs it.
	Authorizer *auth.Authorizer
	// Tokens are the bearer tokens that are accepted; nil: none.
	Tokens auth.Tokens
	// Audiences are what this API is called in tokens that name who they are for.
	Audiences []string
	// ServiceAccounts issues their tokens; nil: nobody does.
	ServiceAccounts ServiceAccounts
	// Audit writes requests down; nil: nobody does. Whoever opened it closes it.
	Audit *audit.Log
	// Streams reaches agents for logs, exec and port-forward.
	Streams Streams
	// Aggregate passes on requests for groups that services serve. Nil: there are
	// none.
	Aggregate *aggregate.Proxy
	// Ready says why this node cannot answer for the cluster, or nil. It must
	// answer at once. Nil: always ready.
	Ready func() error
	// Checks are what /readyz asks besides. None may block.
	Checks []Check
	// Version is what /version says.
	Version apiversion.Info
	// Failures are the errors of the log below Store.
	Failures Failures
	// ReadsMax and WritesMax bound the requests in flight, LastingMax those that
	// last, of which one client gets half; 0: defaults.
	ReadsMax, WritesMax, LastingMax int
	// WatchTimeout is the shortest time that a watch lasts whose client does
	// not say; each gets up to twice that, so that they do not all come back at
	// once. 0: 30 minutes, as upstream.
	WatchTimeout time.Duration
	Logger       *slog.Logger
	// Registerer takes the metrics, Gatherer is what /metrics shows. Nil: a
	// registry of the server's own.
	Registerer prometheus.Registerer
	Gatherer   prometheus.Gatherer
}

// Server answers HTTP requests. It is an http.Handler for a server that does
// both HTTP/1.1 (streams) and HTTP/2 over TLS.
type Server struct {
	registry      *resource.Registry
	store         *store.Store
	streams       Streams
	accounts      ServiceAccounts
	dialer        *reach.Dialer
	aggregate     *aggregate.Proxy
	ready         func() error
	authenticator *auth.Authenticator
	authorizer    *auth.Authorizer
	audit         *audit.Log
	failures      []failure
	priority      *priority.Levels
	reads, writes *level
	lasting       *flow.Limit
	watchTimeout  time.Duration
	// requestTimeout is how long a request may take that is not meant to last.
	requestTimeout time.Duration
	// slowClient is how long a write of events to a client may take.
	slowClient time.Duration
	metrics    *metrics
	log        *slog.Logger
	fixed      *http.ServeMux
	discovery  *atomic.Pointer[discovery]
	encoded    *eventCache
}

// New returns a server. It starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Registry == nil || cfg.Store == nil || cfg.Streams == nil || cfg.Authorizer == nil {
		return nil, errors.New("apiserver: Registry, Store, Streams and Authorizer are required")
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if cfg.Registerer == nil || cfg.Gatherer == nil {
		own := prometheus.NewRegistry()
		cfg.Registerer, cfg.Gatherer = own, own
	}
	documents, err := openapi.New()
	if err != nil {
		return nil, fmt.Errorf("read embedded OpenAPI documents: %w", err)
	}
	m := newMetrics(cfg.Registerer)
	s := &Server{
		registry:      cfg.Registry,
		store:         cfg.Store,
		streams:       cfg.Streams,
		accounts:      cfg.ServiceAccounts,
		dialer:        reach.New(cfg.Store, cfg.Streams),
		aggregate:     cfg.Aggregate,
		ready:         cfg.Ready,
		authenticator: auth.NewAuthenticator(cfg.Tokens, cfg.Audiences...),
		authorizer:    cfg.Authorizer,
		audit:         cfg.Audit,
		failures:      failureTable(cfg.Failures),
		reads:         newLevel("readOnly", orDefault(cfg.ReadsMax, defaultReadsMax), m),
		writes:        newLevel("mutating", orDefault(cfg.WritesMax, defaultWritesMax), m),
		priority: priority.New(priority.Config{
			Store: cfg.Store, Seats: orDefault(cfg.ReadsMax, defaultReadsMax) + orDefault(cfg.WritesMax, defaultWritesMax), Wait: turnWait,
			Changed: m.nominalSeats, Logger: log,
		}),
		lasting:      flow.NewLimit(orDefault(cfg.LastingMax, lastingMax), orDefault(cfg.LastingMax/2, lastingEach)),
		watchTimeout: orDefault(cfg.WatchTimeout, 30*time.Minute),

		requestTimeout: requestTimeout,
		slowClient:     slowClient,
		metrics:        m,
		log:            log,
		encoded:        newEventCache(),
	}
	s.discovery = &atomic.Pointer[discovery]{}
	s.discovery.Store(newDiscovery(cfg.Registry.Catalog()))
	s.fixed = s.fixedEndpoints(cfg, documents.WithCustom(cfg.Registry.Catalog), promhttp.HandlerFor(cfg.Gatherer, promhttp.HandlerOpts{}))
	return s, nil
}

func orDefault[T int | time.Duration](value, otherwise T) T {
	if value == 0 {
		return otherwise
	}
	return value
}

func init() {
	// Upstream's bound for "copy" operations of JSON patches, which could
	// otherwise double a document with each. The library has one for all.
	jsonpatch.AccumulatedCopySizeLimit = bodyMax
}

// ServeHTTP answers one request: identify, authenticate, authorize, bound, serve.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	rec := &recorder{ResponseWriter: w}
	rec.Header().Set("Audit-Id", auditID(r))
	rec.began = began
	rec.Header().Set("Cache-Control", "no-cache, private")
	seen := observed{verb: metricVerb(r.Method, target{})}
	defer func() {
		code := rec.code
		if problem := recover(); problem != nil {
			if problem == http.ErrAbortHandler {
				s.metrics.observe(seen, code, rec.size, time.Since(began))
				rec.event.Ended(code)
				panic(problem)
			}
			s.log.Error("panic while serving a request", "method", r.Method, "path", r.URL.Path, "panic", problem, "stack", string(debug.Stack()))
			if code != 0 || rec.hijacked {
				s.metrics.observe(seen, http.StatusInternalServerError, rec.size, time.Since(began))
				rec.event.Panicked(http.StatusInternalServerError, fmt.Sprint(problem))
				panic(http.ErrAbortHandler) // cut the answer short rather than let it pass for whole
			}
			s.fail(rec, r, statusError(http.StatusInternalServerError, "InternalError", "This request caused the API server to panic. Look in the logs for details."))
			code = http.StatusInternalServerError
			rec.event.Panicked(code, fmt.Sprint(problem))
		}
		if code == 0 {
			code = http.StatusOK
		}
		s.metrics.observe(seen, code, rec.size, time.Since(began))
		rec.end(code)
	}()
	if err := s.serve(rec, r, &seen); err != nil {
		s.fail(rec, r, err)
	}
}

// auditID is the request's own, when it is one, or a new one.
func auditID(r *http.Request) string {
	if id := r.Header.Get("Audit-Id"); id != "" && len(id) <= 64 {
		return id
	}
	return uuid.NewString()
}

func (s *Server) serve(w *recorder, r *http.Request, seen *observed) error {
	who, err := s.identify(r)
	// Resource paths never meet the mux: it would redirect "//" and "..", and
	// reads paths unescaped.
	var t target
	where := errNoResource
	if path := r.URL.EscapedPath(); strings.HasPrefix(path, "/api/") || strings.HasPrefix(path, "/apis/") {
		t, where = parsePath(r.Method, path)
	}
	if s.audit != nil {
		r = s.beginAudit(w, r, who, t, where == nil)
	}
	if r.ProtoMajor == 2 && (err != nil || who.GetName() == user.Anonymous) {
		// Who is not known gets no second request over this connection: what
		// floods it must begin with a handshake each time (CVE-2023-44487).
		w.Header().Set("Connection", "close")
	}
	if err != nil {
		return err
	}
	if who, err = s.impersonate(r, who); err != nil {
		return err
	}
	r = r.WithContext(genericrequest.WithUser(r.Context(), who))
	switch {
	case where == nil:
		return s.serveResource(w, r, who, t, seen)
	case errors.Is(where, errBadPath):
		return errPathNotFound
	}
	request := fixedAttributes(r, who)
	class := s.classify(w, &request)
	if !auth.IsPublic(r.URL.Path) {
		leave, err := s.enterLevel(r, &class)
		if err != nil {
			return err
		}
		defer leave()
		if err := s.allow(r.Context(), request); err != nil {
			return err
		}
	}
	s.fixed.ServeHTTP(w, r)
	return nil
}

// beginAudit has a request written down, of a sender who is nil if nobody knows.
func (s *Server) beginAudit(w *recorder, r *http.Request, who user.Info, t target, named bool) *http.Request {
	wants := fixedAttributes(r, who)
	if named {
		if t.verb == "list" && wantsWatch(r) {
			t.verb = "watch"
		}
		wants = attributesOf(r, who, t)
	}
	w.unknown = who == nil
	w.event = s.audit.Begin(r, w.Header().Get("Audit-Id"), authorizer.AttributesRecord{
		User: who, Verb: wants.Verb, Namespace: wants.Namespace, APIGroup: wants.Group, APIVersion: wants.Version,
		Resource: wants.Resource, Subresource: wants.Subresource, Name: wants.Name, ResourceRequest: named, Path: r.URL.Path,
	}, w.began)
	return r.WithContext(audit.With(r.Context(), w.event))
}

// identify says who sends r.
func (s *Server) identify(r *http.Request) (user.Info, error) {
	who, err := s.authenticator.Authenticate(r)
	switch {
	case errors.Is(err, auth.ErrNoCredentials):
		// What nobody in particular may do is for roles to say, as upstream.
		who = auth.Anonymous()
	case errors.Is(err, auth.ErrBadCredentials):
		s.log.Debug("request refused", "path", r.URL.Path, "error", err)
		return nil, errUnauthorized
	case err != nil:
		return nil, err
	}
	return who, nil
}

// impersonate says in whose name a request of who is answered.
func (s *Server) impersonate(r *http.Request, who user.Info) (user.Info, error) {
	as, err := s.authorizer.Impersonate(r.Context(), who, r.Header)
	var forbidden *auth.Forbidden
	switch {
	case errors.As(err, &forbidden):
		return nil, forbiddenStatus(forbidden.Request, forbidden.Reason)
	case errors.Is(err, auth.ErrIncompleteImpersonation):
		return nil, badRequest(err)
	case err == nil && as != who:
		audit.From(r.Context()).Impersonated(as)
	}
	return as, err
}

// fixedAttributes are what a request about no resource wants.
func fixedAttributes(r *http.Request, who user.Info) auth.Attributes {
	verb := strings.ToLower(r.Method)
	if r.Method == http.MethodHead {
		verb = "get"
	}
	return auth.Attributes{User: who, Verb: verb, Path: r.URL.Path}
}

// allow answers a request that is not allowed with an error.
func (s *Server) allow(ctx context.Context, request auth.Attributes) error {
	decision, err := s.authorizer.Authorize(ctx, request)
	if err != nil {
		return err
	}
	if event := audit.From(ctx); event != nil {
		event.Decided(decision.Allowed, decision.Reason())
	}
	if !decision.Allowed {
		return forbiddenStatus(request, decision.Reason())
	}
	return nil
}

// withTimeout bounds a request by upstream's default, or by less if the client
// asks for less.
func (s *Server) withTimeout(r *http.Request) (*http.Request, context.CancelFunc) {
	timeout := s.requestTimeout
	if asked, ok := queryValue(r.URL, "timeout"); ok {
		if d, err := time.ParseDuration(asked); err == nil && d > 0 && d < timeout {
			timeout = d
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	return r.WithContext(ctx), cancel
}

// requestTimeout is upstream's.
const requestTimeout = 60 * time.Second
