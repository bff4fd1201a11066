package resource

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/deprecation"

	"github.com/musterhq/muster/control/kube"
)

// olderUpstream are what upstream stores in a version from before, which its last
// release could still read.
var olderUpstream = []string{
	"clustertrustbundles", "podcertificaterequests", "storageversionmigrations", "devicetaintrules", "customresourcedefinitions",
}

// Kubernetes' own discovery documents lie in its module: what we list must be
// in them, word for word.
func TestDiscoveryIsUpstreams(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		t.Fatal(err)
	}
	documents := map[schema.GroupVersion]metav1.APIResourceList{}
	document := func(gv schema.GroupVersion) metav1.APIResourceList {
		if _, read := documents[gv]; !read {
			name := "api__v1.json"
			if gv.Group != "" {
				name = "apis__" + gv.Group + "__" + gv.Version + ".json"
			}
			data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "api", "discovery", name))
			if err != nil {
				t.Fatal(err)
			}
			var list metav1.APIResourceList
			if err := json.Unmarshal(data, &list); err != nil {
				t.Fatal(err)
			}
			documents[gv] = list
		}
		return documents[gv]
	}
	for _, kind := range Builtin() {
		upstream := document(kind.Spec.Kind.GroupVersion())
		for _, got := range kind.APIResources() {
			at := slices.IndexFunc(upstream.APIResources, func(r metav1.APIResource) bool { return r.Name == got.Name })
			if at < 0 {
				t.Errorf("%s is not upstream's", got.Name)
				continue
			}
			want := upstream.APIResources[at]
			if slices.Contains(olderUpstream, got.Name) {
				want.StorageVersionHash = got.StorageVersionHash
			}
			slices.Sort(got.Verbs)
			slices.Sort(want.Verbs)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-upstream +ours):\n%s", got.Name, diff)
			}
		}
	}
}

func TestEveryStoredFieldCanBeSelected(t *testing.T) {
	for _, kind := range newRegistry(t).Kinds() {
		if got := kube.Scheme.Recognizes(kind.Spec.Kind); !got {
			t.Errorf("%s is not in the scheme", kind.Spec.Kind)
		}
		if kind.Spec.Fields == nil {
			continue
		}
		for name := range kind.Spec.Fields(kind.Spec.New()) {
			if _, err := kube.FieldSelector(kind.Spec.Kind, fields.OneTermEqualSelector(name, "x")); err != nil {
				t.Errorf("%s: %v", kind.Singular, err)
			}
		}
	}
}

func TestDeprecatedKindsSaySo(t *testing.T) {
	for _, kind := range Builtin() {
		obj := kind.Spec.New()
		obj.GetObjectKind().SetGroupVersionKind(kind.Spec.Kind)
		if want := deprecation.WarningMessage(obj); kind.Deprecated != want {
			t.Errorf("%s: %q, want %q", kind.Singular, kind.Deprecated, want)
		}
	}
}

func TestKindsAreFoundByResource(t *testing.T) {
	r := newRegistry(t)
	for _, kind := range r.Kinds() {
		if r.Kind(kind.Spec.Resource) != kind {
			t.Errorf("%s is not found", kind.Spec.Resource)
		}
	}
	if r.Kind(Pods.Spec.Resource).Subresource("status").Strategy == nil || Pods.Subresource("log").Strategy != nil || Pods.Subresource("none") != nil {
		t.Error("subresources of pods: want status with rules, log without, none nil")
	}
	if gvr := Pods.GroupVersionResource(); gvr.Version != "v1" || gvr.Resource != "pods" {
		t.Errorf("%v, want v1 pods", gvr)
	}
}
