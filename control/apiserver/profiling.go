package apiserver

import (
	"net/http"
	"net/http/pprof"
)

// profilingEndpoints are Go's own profiles, at upstream's paths, for whoever has a
// role that names them: administrators. A profile costs what it shows, and its
// client's patience bounds it.
func profilingEndpoints(mux *http.ServeMux) {
	mux.HandleFunc("/debug/pprof", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/debug/pprof/", http.StatusMovedPermanently)
	})
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
}
