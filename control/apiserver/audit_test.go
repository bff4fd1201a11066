package apiserver

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/musterhq/muster/control/audit"
)

// What the log says of requests of every sort, as upstream's would.
func TestRequestsAreWrittenDownAsThePolicySays(t *testing.T) {
	dir := t.TempDir()
	policy, path := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "audit.log")
	if err := os.WriteFile(policy, []byte(`
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: ["/healthz*"]
- level: Metadata
  resources: [{group: "", resources: [secrets]}]
- level: RequestResponse
  verbs: [create, patch, list, get, delete]
  resources: [{group: "", resources: [configmaps]}]
- level: Metadata
`), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Config{PolicyFile: policy, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	f := newFixture(t, func(c *Config) { c.Audit = log })
	admin := f.admin()
	const configMaps = "/api/v1/namespaces/default/configmaps"
	f.do(admin, "GET", "/healthz", "")
	f.do(admin, "POST", "/api/v1/namespaces/default/secrets", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"stringData":{"password":"hunter2"}}`)
	f.do(admin, "GET", "/api/v1/namespaces/default/secrets/s", "")
	f.do(admin, "POST", configMaps, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"c-"},"data":{"a":"b"}}`)
	f.do(admin, "PATCH", configMaps+"/none", `{"data":{"a":"c"}}`, "Content-Type", "application/merge-patch+json")
	f.do(admin, "GET", configMaps, "", "Accept", "application/vnd.kubernetes.protobuf")
	f.do(admin, "GET", "/api/v1/nodes", "", "Impersonate-User", "alice")
	f.do(admin, "GET", "/api/v1/pods?watch=1&timeoutSeconds=1", "")
	f.do(f.config("eve"), "GET", "/metrics", "", "Authorization", "Bearer wrong")

	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"hunter2", "aHVudGVyMg"} {
		if strings.Contains(string(text), s) {
			t.Errorf("the log holds a secret, %q", s)
		}
	}
	var got []string
	events := map[string]auditv1.Event{}
	for line := range strings.Lines(string(text)) {
		var e auditv1.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		what := e.RequestURI
		if e.ObjectRef != nil {
			what = e.ObjectRef.Resource
		}
		id := strings.Join([]string{e.User.Username, e.Verb, what, string(e.Stage)}, " ")
		got = append(got, id)
		events[id] = e
	}
	want := []string{
		"root create secrets ResponseComplete", "root get secrets ResponseComplete", "root create configmaps ResponseComplete",
		"root patch configmaps ResponseComplete", "root list configmaps ResponseComplete", "root list nodes ResponseComplete",
		"root watch pods ResponseStarted", "root watch pods ResponseComplete", " get /metrics ResponseStarted",
	}
	if !slices.Equal(got, want) {
		t.Errorf("events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	created := events[want[2]]
	if created.RequestObject == nil || created.ResponseObject == nil || created.ResponseStatus.Code != 201 ||
		!strings.Contains(string(created.RequestObject.Raw), `"generateName":"c-"`) || !strings.Contains(string(created.ResponseObject.Raw), `"uid":`) {
		t.Errorf("a create: %+v", created)
	}
	patched := events[want[3]]
	if patched.RequestObject == nil || string(patched.RequestObject.Raw) != `{"data":{"a":"c"}}` || patched.ResponseStatus.Code != 404 || patched.ResponseStatus.Reason != "NotFound" {
		t.Errorf("a patch of what is not there: %+v", patched)
	}
	if listed := events[want[4]]; listed.ResponseObject == nil || !strings.Contains(string(listed.ResponseObject.Raw), `"kind":"ConfigMapList"`) {
		t.Errorf("a list in protobuf: %+v", listed.ResponseObject)
	}
	impersonated := events[want[5]]
	if impersonated.ImpersonatedUser == nil || impersonated.ImpersonatedUser.Username != "alice" || impersonated.ResponseStatus.Code != 403 ||
		impersonated.Annotations["authorization.k8s.io/decision"] != "forbid" {
		t.Errorf("as alice: %+v", impersonated)
	}
	if refused := events[want[8]]; refused.ResponseStatus.Code != 401 {
		t.Errorf("a wrong token: %+v", refused)
	}
}
