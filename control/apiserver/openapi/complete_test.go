package openapi

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Clients are generated from the definitions, and kubectl explains them: of what
// upstream has in stable versions none may be missing.
func TestAllStableDefinitionsAreThere(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		t.Fatal(err)
	}
	type swagger struct {
		Definitions map[string]json.RawMessage `json:"definitions"`
	}
	var theirs, ours swagger
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "api", "openapi-spec", "swagger.json"))
	if err == nil {
		err = json.Unmarshal(text, &theirs)
	}
	if err != nil {
		t.Fatal(err)
	}
	h, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if text, err = h.swagger.uncompressed(); err == nil {
		err = json.Unmarshal(text, &ours)
	}
	if err != nil {
		t.Fatal(err)
	}
	unstable := regexp.MustCompile(`\.v[0-9]+(alpha|beta)[0-9]+\.`)
	found := 0
	for name := range theirs.Definitions {
		if unstable.MatchString(name) {
			continue
		}
		if found++; ours.Definitions[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
	if found < 500 {
		t.Errorf("%d definitions compared, want all", found)
	}
}
