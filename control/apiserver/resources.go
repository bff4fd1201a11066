package apiserver

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/klog/v2"

	"github.com/musterhq/muster/control/auth"
	"github.com/musterhq/muster/control/resource"
)

// call is one request about an API resource.
type call struct {
	target
	kind *resource.Kind
	// sub is the subresource, nil for the object itself.
	sub *resource.Subresource
}

// handler serves one verb. An error is answered as a Status; a handler that has
// written anything returns nil.
type handler func(s *Server, w http.ResponseWriter, r *http.Request, c *call) error

// handlers are the verbs of every resource.
var handlers = map[string]handler{
	"get":              (*Server).get,
	"list":             (*Server).list,
	"watch":            (*Server).watch,
	"create":           (*Server).create,
	"update":           (*Server).update,
	"patch":            (*Server).patch,
	"delete":           (*Server).delete,
	"deletecollection": (*Server).deleteCollection,
}

// connections are the subresources that lead to somebody else, as streams or by
// passing requests on.
var connections = map[string]connection{
	"pods/exec":        {"PodExecOptions", false, (*Server).exec},
	"pods/attach":      {"PodAttachOptions", false, (*Server).attach},
	"pods/portforward": {"PodPortForwardOptions", false, (*Server).portForward},
	"pods/proxy":       {"PodProxyOptions", true, (*Server).proxyPod},
	"services/proxy":   {"ServiceProxyOptions", true, (*Server).proxyService},
	"nodes/proxy":      {"NodeProxyOptions", true, (*Server).proxyNode},
}

type connection struct {
	// kind is what discovery says of it: the options in the query.
	kind string
	// proxies says that it takes every method, authorized as what it is. The
	// others do something in a container, whatever the method: they take two and
	// are authorized as create.
	proxies bool
	serve   handler
}

// proxied are the methods that proxies pass on.
var proxied = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}

func (c connection) takes(method string) bool {
	return c.proxies && slices.Contains(proxied, method) || method == http.MethodGet || method == http.MethodPost
}

// special are the other subresources that are no view of the stored object.
var special = map[string]map[string]handler{
	"pods/log":              {"get": (*Server).podLog},
	"serviceaccounts/token": {"create": (*Server).requestToken},
	"pods/binding":          {"create": (*Server).bind},
	"pods/eviction":         {"create": (*Server).evict},
}

func (s *Server) serveResource(w http.ResponseWriter, r *http.Request, who user.Info, t target, seen *observed) error {
	kind := s.kindOf(t)
	review := reviews[schema.GroupVersionResource{Group: t.group, Version: t.version, Resource: t.resource}]
	connection, connects := connections[t.resource+"/"+t.subresource]
	if connects = connects && t.group == ""; connects {
		if !connection.takes(r.Method) {
			return apierrors.NewMethodNotSupported(schema.GroupResource{Resource: t.resource + "/" + t.subresource}, t.verb)
		}
		if !connection.proxies {
			t.verb = "create"
		}
	}
	if t.verb == "list" && wantsWatch(r) {
		t.verb = "watch"
	}
	if kind != nil || review != nil {
		seen.target, seen.scope, seen.verb, seen.dryRun = t, metricScope(t), metricVerb(r.Method, t), dryRunLabel(r)
		if !connects && (kind == nil || kind.Subresource(t.subresource) == nil) {
			seen.target.subresource = "" // made up by the client: no label for it
		}
	}
	request := attributesOf(r, who, t)
	if !connects && t.subresource != "log" {
		seen.class = s.classify(w, &request)
	}
	if err := s.allow(r.Context(), request); err != nil {
		return err
	}
	if kind == nil && review == nil {
		if service := s.aggregated(t.group, t.version); service != nil {
			return s.passOn(w, r, who, t, service, seen)
		}
		var err error
		if kind, err = s.newestKindOf(r.Context(), t); err != nil {
			return err
		}
	}
	c := &call{target: t, kind: kind}
	serve, err := s.server(c, review, connection, connects)
	if err != nil {
		return err
	}

	ctx := warning.WithWarningRecorder(r.Context(), &warnings{header: w.Header()})
	if c.namespace != "" {
		ctx = genericrequest.WithNamespace(ctx, c.namespace)
	}
	if connects {
		// The stream libraries call a client that closes its connection an error.
		ctx = klog.NewContext(ctx, klog.Logger{})
	}
	if review != nil && review.Deprecated != "" {
		warning.AddWarning(ctx, "", review.Deprecated)
	}
	if kind != nil && kind.Deprecated != "" {
		warning.AddWarning(ctx, "", kind.Deprecated)
	}
	if kind != nil && kind.Schema != nil && kind.Schema.Deprecated() != "" {
		warning.AddWarning(ctx, "", kind.Schema.Deprecated())
	}
	r = r.WithContext(ctx)
	seen.long = connects || t.verb == "watch" || t.subresource == "log"
	if connects {
		seen.verb = "CONNECT"
	}
	return s.bounded(w, r, t, seen, func(r *http.Request) error { return serve(s, w, r, c) })
}

// bounded runs one request within the bounds of those in flight and of its time,
// unless it is meant to last.
func (s *Server) bounded(w http.ResponseWriter, r *http.Request, t target, seen *observed, run func(*http.Request) error) error {
	client, exempt := clientOf(r)
	if seen.long {
		if rec, ok := w.(*recorder); ok {
			rec.long = true
		}
		if !s.lasting.Enter(client) {
			s.metrics.rejected.WithLabelValues(append(seen.withoutDryRun(), "429")...).Inc()
			return errTooManyRequests
		}
		defer s.lasting.Leave(client)
		gauge := s.metrics.longRunning.WithLabelValues(seen.withoutDryRun()...)
		gauge.Inc()
		defer gauge.Dec()
		return run(r)
	}
	r, cancel := s.withTimeout(r)
	defer cancel()
	// A client that sends its body, or reads its answer, by drops must not hold
	// a place among the requests in flight for longer than a request may take.
	slow := http.NewResponseController(w)
	deadline := time.Now().Add(s.requestTimeout)
	_ = slow.SetReadDeadline(deadline)
	_ = slow.SetWriteDeadline(deadline.Add(lastWords))
	// The connection may serve others, which are not bounded like this. The read
	// deadline stays: what is left of a body is read after this returns, and
	// net/http sets it anew for the next request.
	defer func() { _ = slow.SetWriteDeadline(time.Time{}) }()
	shared := s.writes
	if t.verb == "get" || t.verb == "list" {
		shared = s.reads
	}
	release, err := s.enterLevel(r, &seen.class)
	if err != nil {
		if errors.Is(err, errTooManyRequests) {
			s.metrics.rejected.WithLabelValues(append(seen.withoutDryRun(), "429")...).Inc()
		}
		return err
	}
	defer release()
	leave, err := shared.enter(r.Context(), client, exempt || seen.class.Exempt())
	if errors.Is(err, errTooManyRequests) {
		s.metrics.rejected.WithLabelValues(append(seen.withoutDryRun(), "429")...).Inc()
	}
	if err != nil {
		return err
	}
	defer leave()
	return run(r)
}

// kindOf is the kind that a path names, or nil.
func (s *Server) kindOf(t target) *resource.Kind {
	kind := s.registry.Catalog().Version(schema.GroupVersionResource{Group: t.group, Version: t.version, Resource: t.resource})
	if kind != nil && !kind.Namespaced() && t.resource != "namespaces" && t.namespace != "" {
		return nil // /namespaces/x/nodes
	}
	return kind
}

// newestKindOf is kindOf once every definition that was acknowledged before is
// known here: another control node may have been faster.
func (s *Server) newestKindOf(ctx context.Context, t target) (*resource.Kind, error) {
	if !strings.Contains(t.group, ".") {
		return nil, errPathNotFound // built in or not there: users' groups have a dot
	}
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, revisionTimeout)
	defer cancel()
	if err := s.registry.Current(waiting); err != nil {
		return nil, err
	}
	if kind := s.kindOf(t); kind != nil {
		return kind, nil
	}
	return nil, errPathNotFound
}

// lastWords is the time to tell a client that it was too slow.
const lastWords = 2 * time.Second

// server is who serves a call, by what its path names.
func (s *Server) server(c *call, review *review, connection connection, connects bool) (handler, error) {
	switch {
	case review != nil:
		return review.find(c)
	case c.kind == nil:
		return nil, errPathNotFound
	}
	if !c.kind.Namespaced() {
		c.namespace = ""
	}
	switch {
	case !connects:
		return s.find(c)
	case c.name == "" || c.kind.Namespaced() && c.namespace == "":
		return nil, errPathNotFound
	}
	return connection.serve, nil
}

// find checks that what the path names is there and takes the verb.
func (s *Server) find(c *call) (handler, error) {
	named := c.name != ""
	if c.kind.Namespaced() && c.namespace == "" && (named || c.verb == "create" || c.verb == "deletecollection") {
		if named {
			return nil, errPathNotFound
		}
		return nil, apierrors.NewMethodNotSupported(c.kind.Qualified(), c.verb)
	}
	qualified := c.kind.Qualified()
	verbs := c.kind.Verbs
	if verbs == nil {
		verbs = resource.AllVerbs
	}
	serve := handlers[c.verb]
	if c.subresource != "" {
		c.sub = c.kind.Subresource(c.subresource)
		if c.sub == nil {
			return nil, errPathNotFound
		}
		verbs = c.sub.Verbs
		qualified.Resource += "/" + c.subresource
		if byVerb := special[c.resource+"/"+c.subresource]; byVerb != nil && c.group == "" {
			serve = byVerb[c.verb]
		}
	}
	// A collection takes create, an object does not.
	if serve == nil || !slices.Contains(verbs, c.verb) || c.verb == "create" && named && c.subresource == "" {
		return nil, apierrors.NewMethodNotSupported(qualified, c.verb)
	}
	return serve, nil
}

func (s *Server) authorize(r *http.Request, who user.Info, t target) error {
	return s.allow(r.Context(), attributesOf(r, who, t))
}

// attributesOf are what a request about a resource wants.
func attributesOf(r *http.Request, who user.Info, t target) auth.Attributes {
	request := auth.Attributes{
		User: who, Verb: t.verb, Group: t.group, Version: t.version, Resource: t.resource,
		Subresource: t.subresource, Namespace: t.namespace, Name: t.name,
	}
	if raw, ok := queryValue(r.URL, "fieldSelector"); ok && (t.verb == "list" || t.verb == "watch" || t.verb == "deletecollection") {
		// One that cannot be read allows nothing here and is told to the client
		// as a bad request where it is used.
		if selector, err := fields.ParseSelector(raw); err == nil {
			request.Fields = selector
			if name, ok := selector.RequiresExactMatch("metadata.name"); ok {
				request.Name = name
			}
		}
	}
	return request
}

func forbiddenStatus(request auth.Attributes, reason string) error {
	return apierrors.NewForbidden(schema.GroupResource{Group: request.Group, Resource: request.Resource}, request.Name,
		errors.New(auth.ForbiddenMessage(request, reason)))
}

// errUnauthorized is upstream's answer to who cannot be told.
var errUnauthorized = apierrors.NewUnauthorized("Unauthorized")

// wantsWatch says whether a get of a collection is a watch. The value may have
// any of the forms that a query can have.
func wantsWatch(r *http.Request) bool {
	value, ok := queryValue(r.URL, "watch")
	return ok && value != "0" && !strings.EqualFold(value, "false")
}

func dryRunLabel(r *http.Request) string {
	value, _ := queryValue(r.URL, "dryRun")
	if value == "All" {
		return value
	}
	return ""
}
