package apiserver

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Check is one line of /readyz?verbose, and /readyz/NAME.
type Check struct {
	Name string
	// Run says what is wrong, to anybody who asks.
	Run func() error
}

func (s *Server) healthEndpoints(mux *http.ServeMux, cfg Config) {
	alive := []Check{{"ping", func() error { return nil }}}
	ready := slices.Concat(alive, []Check{{"quorum", func() error {
		if s.ready == nil {
			return nil
		}
		return s.ready()
	}}}, cfg.Checks)
	// Upstream's /healthz fails with storage; load balancers in front of us use
	// it to find a node that can answer.
	for name, checks := range map[string][]Check{"livez": alive, "healthz": ready, "readyz": ready} {
		mux.Handle("GET /"+name, health(name, checks))
		for _, c := range checks {
			mux.Handle("GET /"+name+"/"+c.Name, single(c))
		}
	}
}

// health answers in upstream's words: "ok", or with ?verbose, or when something
// is wrong, a line for each check.
func health(name string, checks []Check) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		unknown := slices.Clone(query["exclude"])
		var lines strings.Builder
		failed := false
		for _, c := range checks {
			if slices.Contains(query["exclude"], c.Name) {
				unknown = slices.DeleteFunc(unknown, func(e string) bool { return e == c.Name })
				fmt.Fprintf(&lines, "[+]%s excluded: ok\n", c.Name)
				continue
			}
			if err := c.Run(); err != nil {
				failed = true
				fmt.Fprintf(&lines, "[-]%s failed: %v\n", c.Name, err)
				continue
			}
			fmt.Fprintf(&lines, "[+]%s ok\n", c.Name)
		}
		if len(unknown) > 0 {
			slices.Sort(unknown)
			unknown = slices.Compact(unknown)
			for i := range unknown {
				unknown[i] = strconv.Quote(unknown[i])
			}
			fmt.Fprintf(&lines, "warn: some health checks cannot be excluded: no matches for %s\n", strings.Join(unknown, ","))
		}
		if failed {
			http.Error(w, lines.String()+name+" check failed", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !query.Has("verbose") {
			fmt.Fprint(w, "ok")
			return
		}
		fmt.Fprintf(w, "%s%s check passed\n", lines.String(), name)
	}
}

// single answers for one check.
func single(c Check) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if err := c.Run(); err != nil {
			http.Error(w, fmt.Sprintf("internal server error: %v", err), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprint(w, "ok")
	}
}
