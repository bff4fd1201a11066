package apiserver

import (
	"strings"
	"testing"
)

// Profiles show what a server works on, and cost it time: they are for those
// whose role names the path.
func TestProfilesAreForAdministrators(t *testing.T) {
	f := newFixture(t)
	const path = "/debug/pprof/goroutine?debug=1"
	if got := f.do(f.admin(), "GET", path, ""); got.code != 200 || !strings.Contains(string(got.body), "goroutine profile") {
		t.Errorf("an administrator got %d %.60q, want a profile", got.code, got.body)
	}
	if got := f.do(f.config("jane"), "GET", path, ""); got.code != 403 {
		t.Errorf("somebody got %d, want 403", got.code)
	}
}
