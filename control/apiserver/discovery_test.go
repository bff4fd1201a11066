package apiserver

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// stable versions are those that kube-apiserver serves unless told otherwise.
var stable = regexp.MustCompile(`^v[0-9]+$`)

// A client that knows Kubernetes must find here what it finds there: every
// resource of every version that is on by default, and nothing that is described
// differently. Kubernetes' own discovery documents lie in its module.
func TestDiscoveryListsAllThatUpstreamDoes(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "api", "discovery", "api*__v*.json"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d documents, %v", len(paths), err)
	}
	ours := newDiscovery(newFixture(t).reg.Catalog()).resources
	for _, path := range paths {
		var list metav1.APIResourceList
		text, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(text, &list)
		}
		if err != nil {
			t.Fatal(err)
		}
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil || len(list.APIResources) == 0 {
			t.Fatalf("%s: %v", path, err)
		}
		if !stable.MatchString(gv.Version) {
			continue
		}
		got := slices.Clone(ours[gv])
		for _, resources := range [][]metav1.APIResource{got, list.APIResources} {
			for i := range resources {
				resources[i].StorageVersionHash = "" // package resource compares them
				slices.Sort(resources[i].Verbs)
			}
		}
		if diff := cmp.Diff(list.APIResources, got); diff != "" {
			t.Errorf("%s (-upstream +ours):\n%s", gv, diff)
		}
		delete(ours, gv)
	}
	for gv := range ours {
		t.Errorf("%s is served here alone", gv)
	}
}
