package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// check is one line of /readyz?verbose.
type check struct {
	name string
	run  func() error
}

// fixedEndpoints are all paths but those of resources.
func (s *Server) fixedEndpoints(cfg Config, openapi, metrics http.Handler) *http.ServeMux {
	mux := http.NewServeMux()
	alive := []check{{"ping", func() error { return nil }}}
	ready := append(alive, check{"quorum", func() error {
		if s.ready == nil {
			return nil
		}
		return s.ready()
	}})
	mux.Handle("GET /livez", health("livez", alive))
	mux.Handle("GET /livez/{check}", health("livez", alive))
	// Upstream's /healthz fails with storage; load balancers in front of us use
	// it to find a node that can answer.
	mux.Handle("GET /healthz", health("healthz", ready))
	mux.Handle("GET /healthz/{check}", health("healthz", ready))
	mux.Handle("GET /readyz", health("readyz", ready))
	mux.Handle("GET /readyz/{check}", health("readyz", ready))
	version, err := json.MarshalIndent(cfg.Version, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("apiserver: version: %v", err)) // strings only
	}
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, r *http.Request) { s.write(w, r, http.StatusOK, mediaJSON, version) })
	mux.HandleFunc("GET /version/{$}", func(w http.ResponseWriter, r *http.Request) { s.write(w, r, http.StatusOK, mediaJSON, version) })
	mux.Handle("GET /metrics", metrics)
	mux.Handle("/openapi/v2", openapi)
	mux.Handle("/openapi/v3", s.withDocumentsOfServices(openapi))
	mux.Handle("/openapi/v3/", s.withDocumentsOfServices(openapi))
	for _, root := range []string{"/api", "/apis"} {
		mux.HandleFunc("GET "+root, s.serveDiscovery)
		mux.HandleFunc("GET "+root+"/", s.serveDiscovery)
	}
	profilingEndpoints(mux)
	s.openIDEndpoints(mux)
	mux.HandleFunc("GET /{$}", s.serveRoot)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { s.fail(w, r, errPathNotFound) })
	return mux
}

// serveRoot lists what there is, as upstream, for people and their tools.
func (s *Server) serveRoot(w http.ResponseWriter, r *http.Request) {
	paths := []string{"/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"}
	body, err := json.MarshalIndent(map[string][]string{"paths": paths}, "", "  ")
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.write(w, r, http.StatusOK, mediaJSON, body)
}

// health answers in upstream's words: "ok", or with ?verbose, or when something
// is wrong, a line for each check.
func health(name string, checks []check) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		only := r.PathValue("check")
		excluded := map[string]bool{}
		for _, e := range r.URL.Query()["exclude"] {
			excluded[e] = true
		}
		var lines strings.Builder
		failed, found := false, only == ""
		for _, c := range checks {
			if only != "" && c.name != only {
				continue
			}
			found = true
			if excluded[c.name] {
				fmt.Fprintf(&lines, "[+]%s excluded: ok\n", c.name)
				continue
			}
			if err := c.run(); err != nil {
				failed = true
				fmt.Fprintf(&lines, "[-]%s failed: %v\n", c.name, err)
				continue
			}
			fmt.Fprintf(&lines, "[+]%s ok\n", c.name)
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, verbose := r.URL.Query()["verbose"]
		switch {
		case !found:
			http.NotFound(w, r)
		case failed:
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprintf(w, "%s%s check failed\n", lines.String(), name)
		case verbose:
			fmt.Fprintf(w, "%s%s check passed\n", lines.String(), name)
		default:
			fmt.Fprint(w, "ok")
		}
	}
}
