package apiserver

import (
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/musterhq/muster/control/auth"
)

// An operator holds a client that floods to a level of its own, and sees in the
// answers whose configuration it was.
func TestRequestsAreHeldToTheirPriorityLevel(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.ReadsMax, c.WritesMax = 10, 10 })
	const flows = "/apis/flowcontrol.apiserver.k8s.io/v1/"
	level := f.object(201, "POST", flows+"prioritylevelconfigurations", `{"apiVersion":"flowcontrol.apiserver.k8s.io/v1","kind":"PriorityLevelConfiguration",
		"metadata":{"name":"noisy"},"spec":{"type":"Limited","limited":{"nominalConcurrencyShares":1,"limitResponse":{"type":"Reject"}}}}`)
	schema := f.object(201, "POST", flows+"flowschemas", `{"apiVersion":"flowcontrol.apiserver.k8s.io/v1","kind":"FlowSchema","metadata":{"name":"noisy"},
		"spec":{"priorityLevelConfiguration":{"name":"noisy"},"matchingPrecedence":100,"rules":[{"subjects":[{"kind":"User","user":{"name":"noisy"}}],
		"resourceRules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"],"clusterScope":true,"namespaces":["*"]}],"nonResourceRules":[{"verbs":["*"],"nonResourceURLs":["*"]}]}]}}`)
	for _, path := range []string{"/version", "/api/v1/pods", "/api/v1/pods?watch=true&timeoutSeconds=1"} {
		got := f.do(f.config("noisy"), "GET", path, "")
		if s, l := got.header.Get("X-Kubernetes-Pf-Flowschema-Uid"), got.header.Get("X-Kubernetes-Pf-Prioritylevel-Uid"); s != string(schema.GetUID()) || l != string(level.GetUID()) {
			t.Errorf("%s: schema %q and level %q, want %s and %s", path, s, l, schema.GetUID(), level.GetUID())
		}
		if got := f.do(f.config("other"), "GET", path, "").header.Get("X-Kubernetes-Pf-Prioritylevel-Uid"); got == "" || got == string(level.GetUID()) {
			t.Errorf("%s: others are in the level %q, want one of theirs", path, got)
		}
	}

	// Its one seat is taken.
	class := f.server.priority.Of(&auth.Attributes{User: &user.DefaultInfo{Name: "noisy"}, Verb: "get", Path: "/apis"})
	leave, err := class.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := f.do(f.config("noisy"), "GET", "/apis", "")
	if got.code != 429 || got.header.Get("Retry-After") != "1" {
		t.Errorf("beyond its seat: %d %s, want 429", got.code, got.body)
	}
	if got := f.do(f.config("other"), "GET", "/apis", ""); got.code == 429 {
		t.Error("others are refused with it")
	}
	if got := f.do(f.config("noisy"), "GET", "/livez", ""); got.code != 200 {
		t.Errorf("health: %d, want 200: who asks must hear", got.code)
	}
	leave()
	if got := f.do(f.config("noisy"), "GET", "/apis", ""); got.code == 429 {
		t.Error("refused though its seat is free")
	}
	metrics := string(f.do(f.admin(), "GET", "/metrics", "").body)
	for _, want := range []string{`apiserver_flowcontrol_nominal_limit_seats{priority_level="noisy"} 1`, `apiserver_flowcontrol_rejected_requests_total{priority_level="noisy",reason="queue-full"} 1`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}
