package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// fixedEndpoints are all paths but those of resources.
func (s *Server) fixedEndpoints(cfg Config, openapi, metrics http.Handler) *http.ServeMux {
	mux := http.NewServeMux()
	s.healthEndpoints(mux, cfg)
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
