package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/musterhq/muster/control/auth"
	"github.com/musterhq/muster/control/resource"
)

const podJSON = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"spec":{"containers":[{"name":"web","image":"x"}]}}`

func TestBadRequestsAreToldAsUpstreamDoes(t *testing.T) {
	f := newFixture(t)
	admin := f.admin()
	pods := "/api/v1/namespaces/default/pods"
	deep := `{"metadata":{"annotations":` + strings.Repeat(`{"a":`, 20_000) + `1` + strings.Repeat("}", 20_000) + `}}`
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 9), ","))
	}
	for _, c := range []struct {
		name, method, path, contentType, body string
		code                                  int
		reason                                metav1.StatusReason
		message                               string // is in it
	}{
		{"malformed JSON", "POST", pods, mediaJSON, `{"kind":`, 400, "BadRequest", "unexpected end of JSON input"},
		{"malformed YAML", "POST", pods, mediaYAML, "a: [", 400, "BadRequest", "yaml"},
		{"malformed protobuf", "POST", pods, mediaProtobuf, "k8s\x00\xff\xff\xff", 400, "BadRequest", ""},
		{"an empty body", "POST", pods, mediaJSON, "", 400, "BadRequest", ""},
		{"an unknown field", "POST", pods + "?fieldValidation=Strict", mediaJSON, strings.Replace(podJSON, `"image"`, `"imagge"`, 1), 400, "BadRequest", `strict decoding error: unknown field "spec.containers[0].imagge"`},
		{"a field twice", "POST", pods + "?fieldValidation=Strict", mediaJSON, strings.Replace(podJSON, `"image"`, `"image":"a","image"`, 1), 400, "BadRequest", `duplicate field "spec.containers[0].image"`},
		{"an unknown field in YAML", "POST", pods + "?fieldValidation=Strict", mediaYAML, "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {colour: red}\n", 400, "BadRequest", `unknown field "spec.colour"`},
		{"another kind", "POST", pods, mediaJSON, `{"apiVersion":"v1","kind":"Node","metadata":{"name":"n"}}`, 400, "BadRequest", `Node in version "v1" cannot be handled as a Pod`},
		{"a kind that is not there", "POST", pods, mediaJSON, `{"apiVersion":"v1","kind":"Cat","metadata":{"name":"n"}}`, 400, "BadRequest", `no kind "Cat" is registered for version "v1"`},
		{"another version", "POST", pods, mediaJSON, strings.Replace(podJSON, `"v1"`, `"v9"`, 1), 400, "BadRequest", ""},
		{"nesting without end", "POST", pods, mediaJSON, deep, 400, "BadRequest", "exceeded max depth"},
		{"a YAML alias bomb", "POST", pods, mediaYAML, bomb, 400, "BadRequest", "excessive aliasing"},
		{"another namespace", "POST", pods, mediaJSON, strings.Replace(podJSON, `"name":"web"`, `"name":"web","namespace":"kube-system"`, 1), 400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request"},
		{"another name", "PUT", pods + "/other", mediaJSON, podJSON, 400, "BadRequest", "the name of the object (web) does not match the name on the URL (other)"},
		{"an invalid object", "POST", pods, mediaJSON, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"Web!"},"spec":{"restartPolicy":"Sometimes","containers":[{"image":"x"}]}}`, 422, "Invalid", "spec.containers[0].name"},
		{"a body over 3 MiB", "POST", pods, mediaJSON, strings.Repeat(" ", 3<<20+1), 413, "RequestEntityTooLarge", "limit is 3145728"},
		{"a body in a form nobody reads", "POST", pods, "text/plain", podJSON, 415, "UnsupportedMediaType", mediaProtobuf},
		{"a patch of a kind nobody knows", "PATCH", pods + "/web", mediaJSON, "{}", 415, "UnsupportedMediaType", "application/strategic-merge-patch+json"},
		{"an apply in nobody's name", "PATCH", pods + "/web", applyYAML, podJSON, 422, "Invalid", "fieldManager: Required value: is required for apply patch"},
		{"an apply of no YAML", "PATCH", pods + "/web?fieldManager=x", applyYAML, "a: [", 400, "BadRequest", "error decoding patch"},
		{"an apply of an unknown field", "PATCH", pods + "/web?fieldManager=x", applyYAML, strings.Replace(podJSON, `"image"`, `"imagge"`, 1), 500, "", "failed to create typed patch object (/web; /v1, Kind=Pod): .spec.containers[name=\"web\"].imagge: field not declared in schema"},
		{"an apply of another kind", "PATCH", pods + "/web?fieldManager=x", applyYAML, `{"apiVersion":"v1","kind":"Node","metadata":{"name":"web"}}`, 400, "BadRequest", "invalid object type: /v1, Kind=Node"},
		{"an apply with managed fields", "PATCH", pods + "/web?fieldManager=x", applyYAML, strings.Replace(podJSON, `"name":"web"`, `"name":"web","managedFields":[{}]`, 1), 400, "BadRequest", "metadata.managedFields must be nil"},
		{"an apply of a field twice", "PATCH", pods + "/web?fieldManager=x&fieldValidation=Strict", applyYAML, strings.Replace(podJSON, `"image"`, `"image":"a","image"`, 1), 400, "BadRequest", "error strict decoding patch"},
		{"an apply of another name", "PATCH", pods + "/other?fieldManager=x", applyYAML, podJSON, 400, "BadRequest", "the name of the object (web) does not match the name on the URL (other)"},
		{"an apply to another uid", "PATCH", pods + "/web?fieldManager=x", applyYAML, strings.Replace(podJSON, `"name":"web"`, `"name":"web","uid":"1"`, 1), 409, "Conflict", "uid mismatch: the provided object specified uid 1, and no existing object was found"},
		{"force without apply", "PATCH", pods + "/web?force=true", "application/merge-patch+json", "{}", 422, "Invalid", "force: Forbidden: may not be specified for non-apply patch"},
		{"an unknown kind", "GET", "/api/v1/cats", "", "", 404, "NotFound", "the server could not find the requested resource"},
		{"an unknown group", "GET", "/apis/cats.example.org/v1/cats", "", "", 404, "NotFound", "the server could not find the requested resource"},
		{"an unknown version", "GET", "/api/v2/pods", "", "", 404, "NotFound", "the server could not find the requested resource"},
		{"an unknown subresource", "GET", pods + "/web/tail", "", "", 404, "NotFound", ""},
		{"a path that climbs", "GET", "/api/v1/namespaces/..%2F..%2Fnodes/pods", "", "", 404, "NotFound", ""},
		{"a name with a slash in it", "GET", pods + "/a%2Fb", "", "", 404, "NotFound", ""},
		{"nodes of a namespace", "GET", "/api/v1/namespaces/default/nodes", "", "", 404, "NotFound", ""},
		{"an unknown page", "GET", "/favicon.ico", "", "", 404, "NotFound", ""},
		{"an object that is not there", "DELETE", pods + "/none", "", "", 404, "NotFound", `pods "none" not found`},
		{"a create in no namespace", "POST", "/api/v1/pods", mediaJSON, podJSON, 405, "MethodNotAllowed", ""},
		{"a create by path", "POST", pods + "/web", mediaJSON, podJSON, 405, "MethodNotAllowed", ""},
		{"a method that is none", "OPTIONS", pods, "", "", 405, "MethodNotAllowed", ""},
		{"a delete of all namespaces", "DELETE", "/api/v1/namespaces", "", "", 405, "MethodNotAllowed", ""},
		{"an option that is none", "GET", pods + "?limit=many", "", "", 400, "BadRequest", `parsing "many"`},
		{"delete options that are none", "DELETE", pods + "/web", mediaJSON, `{"gracePeriodSeconds":"soon"}`, 400, "BadRequest", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := f.store.Revision()
			got := f.do(admin, c.method, c.path, c.body, "Content-Type", c.contentType)
			if got.code != c.code {
				t.Fatalf("%d %.300s, want %d", got.code, got.body, c.code)
			}
			status := got.status(t)
			if status.Reason != c.reason || !strings.Contains(status.Message, c.message) || int(status.Code) != c.code || status.Status != metav1.StatusFailure {
				t.Errorf("%+v, want reason %s and %q", status, c.reason, c.message)
			}
			if now := f.store.Revision(); now != before {
				t.Errorf("revision %d, want %d: something was written", now, before)
			}
		})
	}
}

func TestInvalidNamesEveryField(t *testing.T) {
	f := newFixture(t)
	got := f.do(f.admin(), "POST", "/api/v1/namespaces/default/pods", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"Web!"},"spec":{"restartPolicy":"Sometimes","containers":[{"image":"x"}]}}`, "Content-Type", mediaJSON)
	causes := map[string]metav1.CauseType{}
	for _, cause := range got.status(t).Details.Causes {
		causes[cause.Field] = cause.Type
	}
	for field, want := range map[string]metav1.CauseType{
		"metadata.name":           metav1.CauseTypeFieldValueInvalid,
		"spec.restartPolicy":      metav1.CauseTypeFieldValueNotSupported,
		"spec.containers[0].name": metav1.CauseTypeFieldValueRequired,
	} {
		if causes[field] != want {
			t.Errorf("%s: %q, want %q (all: %v)", field, causes[field], want, causes)
		}
	}
}

func TestFieldValidationWarnsOrIgnores(t *testing.T) {
	f := newFixture(t)
	pods := "/api/v1/namespaces/default/pods?dryRun=All&fieldValidation="
	body := strings.Replace(podJSON, `"image"`, `"imagge":"y","image"`, 1)
	warned := f.do(f.admin(), "POST", pods+"Warn", body, "Content-Type", mediaJSON)
	if want := `299 - "unknown field \"spec.containers[0].imagge\""`; warned.code != http.StatusCreated || warned.header.Get("Warning") != want {
		t.Errorf("Warn: %d, Warning %q, want 201 and %q", warned.code, warned.header.Get("Warning"), want)
	}
	ignored := f.do(f.admin(), "POST", pods+"Ignore", body, "Content-Type", mediaJSON)
	if ignored.code != http.StatusCreated || ignored.header.Get("Warning") != "" {
		t.Errorf("Ignore: %d, Warning %q, want 201 and none", ignored.code, ignored.header.Get("Warning"))
	}
	if got := f.do(f.admin(), "POST", pods+"Maybe", body, "Content-Type", mediaJSON); got.code != http.StatusUnprocessableEntity {
		t.Errorf("Maybe: %d, want 422", got.code)
	}
	if _, err := f.reg.Create(t.Context(), resource.Pods, "default", newPod("web"), resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for media, patch := range map[string]string{
		"application/merge-patch+json":           `{"spec":{"colour":"red"}}`,
		"application/strategic-merge-patch+json": `{"spec":{"colour":"red"}}`,
		"application/json-patch+json":            `[{"op":"add","path":"/spec/colour","value":"red"}]`,
	} {
		path := "/api/v1/namespaces/default/pods/web?fieldValidation="
		strict := f.do(f.admin(), "PATCH", path+"Strict", patch, "Content-Type", media)
		if strict.code != 422 || !strings.Contains(strict.status(t).Message, `unknown field "spec.colour"`) {
			t.Errorf("%s, Strict: %d %s, want 422 naming the field", media, strict.code, strict.body)
		}
		warned := f.do(f.admin(), "PATCH", path+"Warn", patch, "Content-Type", media)
		if warned.code != 200 || !strings.Contains(warned.header.Get("Warning"), "spec.colour") {
			t.Errorf("%s, Warn: %d, Warning %q, want 200 naming the field", media, warned.code, warned.header.Get("Warning"))
		}
	}
}

func TestOnlyKnownUsersAreAnswered(t *testing.T) {
	tokens := auth.TokenTable{}
	f := newFixture(t, func(c *Config) { c.Tokens = tokens })
	nobody := &rest.Config{Host: f.http.URL, TLSClientConfig: rest.TLSClientConfig{CAData: f.ca.pem}}
	for _, path := range []string{"/api", "/apis", "/api/v1/pods", "/openapi/v3", "/metrics", "/", "/api/v1/namespaces/default/pods/x/exec?command=sh"} {
		got := f.do(nobody, "GET", path, "")
		if got.code != http.StatusForbidden || !strings.Contains(got.status(t).Message, `User "system:anonymous" cannot `) {
			t.Errorf("%s without credentials: %d %s, want 403", path, got.code, got.body)
		}
	}
	for _, path := range []string{"/version", "/healthz", "/livez", "/readyz", "/readyz?verbose"} {
		if got := f.do(nobody, "GET", path, ""); got.code != http.StatusOK {
			t.Errorf("%s without credentials: %d %s, want 200", path, got.code, got.body)
		}
	}
	if got := f.do(nobody, "GET", "/healthz", "", "Authorization", "Bearer wrong"); got.code != http.StatusUnauthorized {
		t.Errorf("a wrong token: %d, want 401", got.code)
	}
	stranger := f.config("alice")
	got := f.do(stranger, "GET", "/api/v1/nodes/x", "")
	if want := `nodes "x" is forbidden: User "alice" cannot get resource "nodes" in API group "" at the cluster scope`; got.code != 403 || got.status(t).Message != want {
		t.Errorf("got  %d %s\nwant 403 %s", got.code, got.body, want)
	}
	if got := f.do(f.admin(), "GET", "/api/v1/nodes", "", "Impersonate-User", "alice"); got.code != 403 {
		t.Errorf("an admin as alice: %d, want 403", got.code)
	}
}

// A node that was taken over sees and changes what is its own, over HTTP too.
func TestNodesKeepToThemselves(t *testing.T) {
	f := newFixture(t)
	f.bound("mine", "n1")
	f.bound("theirs", "n2")
	for _, name := range []string{"n1", "n2"} {
		if _, err := f.reg.Create(t.Context(), resource.Nodes, "", &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, resource.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	n1 := f.config("system:node:n1", "system:nodes")
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/api/v1/nodes/n1", "", 200},
		{"GET", "/api/v1/nodes/n2", "", 403},
		{"GET", "/api/v1/nodes", "", 403},
		{"GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dn1", "", 200},
		{"GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", "", 200},
		{"GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2", "", 403},
		{"GET", "/api/v1/pods", "", 403},
		{"GET", "/api/v1/pods?watch=1&timeoutSeconds=1", "", 403},
		{"GET", "/api/v1/namespaces/default/pods/mine", "", 200},
		{"GET", "/api/v1/namespaces/default/pods/theirs", "", 403},
		{"PATCH", "/api/v1/namespaces/default/pods/mine/status", `{"status":{"message":"x"}}`, 200},
		{"PATCH", "/api/v1/namespaces/default/pods/theirs/status", `{"status":{"message":"x"}}`, 403},
		{"PATCH", "/api/v1/nodes/n1/status", `{"status":{"phase":""}}`, 200},
		{"PATCH", "/api/v1/nodes/n2", `{"metadata":{"labels":{"a":"b"}}}`, 403},
		{"GET", "/api/v1/namespaces/default/pods/mine/exec?command=sh&stdout=1", "", 403},
		{"DELETE", "/api/v1/namespaces/default/pods/theirs", "", 403},
	} {
		if got := f.do(n1, c.method, c.path, c.body, "Content-Type", "application/merge-patch+json"); got.code != c.want {
			t.Errorf("%s %s: %d %.200s, want %d", c.method, c.path, got.code, got.body, c.want)
		}
	}
	// A GET that upgrades runs a command: who may only read pods may not.
	got := f.do(n1, "GET", "/api/v1/namespaces/default/pods/mine/exec?command=sh&stdout=1", "")
	if want := `cannot create resource "pods/exec"`; !strings.Contains(got.status(t).Message, want) {
		t.Errorf("exec over GET: %s, want %s", got.body, want)
	}
}

// Without a quorum every request that needs one is answered soon, with when to
// come back; one whose outcome is unknown must not make a client send it again
// by itself.
func TestFailuresOfTheLog(t *testing.T) {
	f := newFixture(t)
	pods := "/api/v1/namespaces/default/pods"
	f.log.Refuse(errNoQuorum)
	for _, c := range []struct{ method, path, body string }{
		{"GET", pods, ""}, {"GET", pods + "/web", ""}, {"POST", pods, podJSON}, {"GET", pods + "?watch=1", ""},
	} {
		got := f.do(f.admin(), c.method, c.path, c.body, "Content-Type", mediaJSON)
		if got.code != 503 || got.header.Get("Retry-After") != "1" || got.status(t).Reason != metav1.StatusReasonServiceUnavailable {
			t.Errorf("%s %s: %d %s, Retry-After %q, want 503 and 1", c.method, c.path, got.code, got.body, got.header.Get("Retry-After"))
		}
	}
	if got := f.do(f.admin(), "GET", pods+"?resourceVersion=0", ""); got.code != 200 {
		t.Errorf("a read of anything: %d, want 200", got.code)
	}
	f.log.Refuse(errTooLarge)
	if got := f.do(f.admin(), "POST", pods, podJSON, "Content-Type", mediaJSON); got.code != 413 {
		t.Errorf("too large for the log: %d, want 413", got.code)
	}
	f.log.Refuse(errNoSpace)
	if got := f.do(f.admin(), "POST", pods, podJSON, "Content-Type", mediaJSON); got.code != 507 || got.header.Get("Retry-After") != "" || !strings.Contains(got.status(t).Message, errNoSpace.Error()) {
		t.Errorf("full disks: %d %s, want 507 and why", got.code, got.body)
	}
	f.log.Refuse(nil)
	f.log.Lose(errLost)
	got := f.do(f.admin(), "POST", pods, podJSON, "Content-Type", mediaJSON)
	if got.code != 504 || got.header.Get("Retry-After") != "" || got.status(t).Reason != metav1.StatusReasonTimeout {
		t.Errorf("outcome unknown: %d %s, Retry-After %q, want 504 and none", got.code, got.body, got.header.Get("Retry-After"))
	}
}

// A leader that does not answer is no quorum either, and is told in under 2 s.
func TestSilentLeaderIsNoQuorumWithin2s(t *testing.T) {
	f := newFixture(t)
	silent := *f.server
	silent.store = f.store.WithLog(silentLog{})
	r, err := http.NewRequestWithContext(t.Context(), "GET", "/api/v1/pods", nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	err = silent.current(r.Context(), "")
	status, _ := silent.statusOf(err)
	if took := time.Since(began); took > 2*time.Second || status.Code != 503 {
		t.Errorf("%d after %s, want 503 within 2 s", status.Code, took)
	}
}

type silentLog struct{}

func (silentLog) Propose(ctx context.Context, _ []byte) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (silentLog) ReadBarrier(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestPanicIsAnsweredAndLogged(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Ready = func() error { panic("boom") } })
	got := f.do(f.admin(), "GET", "/readyz", "")
	if got.code != 500 || got.status(t).Reason != metav1.StatusReasonInternalError {
		t.Errorf("%d %s, want 500 InternalError", got.code, got.body)
	}
	if got := f.do(f.admin(), "GET", "/livez", ""); got.code != 200 {
		t.Errorf("after a panic: %d, want 200", got.code)
	}
}

func TestRequestsInFlightAreBounded(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.ReadsMax, c.WritesMax = 1, 1 })
	var leave func()
	for range 2 { // administrators get twice as much
		var err error
		if leave, err = f.server.reads.enter(t.Context(), "root", true); err != nil {
			t.Fatal(err)
		}
	}
	got := f.do(f.admin(), "GET", "/api/v1/pods", "")
	if got.code != 429 || got.header.Get("Retry-After") != "1" || got.status(t).Reason != metav1.StatusReasonTooManyRequests {
		t.Errorf("at the bound: %d %s, want 429", got.code, got.body)
	}
	if got := f.do(f.admin(), "POST", "/api/v1/namespaces/default/pods", podJSON, "Content-Type", mediaJSON); got.code != 201 {
		t.Errorf("a write while reads are at their bound: %d, want 201", got.code)
	}
	leave()
	if got := f.do(f.admin(), "GET", "/api/v1/pods", ""); got.code != 200 {
		t.Errorf("below the bound: %d, want 200", got.code)
	}
	if metrics := string(f.do(f.admin(), "GET", "/metrics", "").body); !strings.Contains(metrics, `apiserver_request_total{code="429",component="apiserver",dry_run="",group="",resource="pods",scope="cluster",subresource="",verb="LIST",version="v1"} 1`) {
		t.Errorf("metrics do not count the refused request:\n%s", metrics)
	}
}

// Labels live for ever: a client must not be able to make them up.
func TestMetricsHaveNoLabelsFromClients(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{"/api/v1/madeup", "/api/v1/namespaces/default/pods/web/madeup", "/apis/madeup/v1/x", "/madeup", "/api/v1/nodes/x/madeup/y"} {
		f.do(f.admin(), "GET", path, "")
	}
	f.do(f.admin(), "MADEUP", "/api/v1/pods?dryRun=madeup", "")
	if metrics := string(f.do(f.admin(), "GET", "/metrics", "").body); strings.Contains(strings.ToLower(metrics), "madeup") || !strings.Contains(metrics, "apiserver_request_total") {
		t.Errorf("labels from requests:\n%s", metrics)
	}
}

func TestReadinessSaysWhy(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Ready = func() error { return errNoQuorum } })
	got := f.do(f.admin(), "GET", "/readyz?verbose", "")
	if got.code != 500 || !strings.Contains(string(got.body), "[-]quorum failed: no quorum") {
		t.Errorf("readyz: %d %s, want 500 with the reason", got.code, got.body)
	}
	if got := f.do(f.admin(), "GET", "/livez", ""); got.code != 200 || string(got.body) != "ok" {
		t.Errorf("livez: %d %s, want ok: without a quorum a restart helps nobody", got.code, got.body)
	}
}

// Tools leave out checks that they know to fail, and ask for single ones.
func TestHealthIsAskedCheckByCheck(t *testing.T) {
	wrong := errors.New("not yet")
	f := newFixture(t, func(c *Config) {
		c.Checks = []Check{{"informer-sync", func() error { return nil }}, {"poststarthook/slow", func() error { return wrong }}}
	})
	for _, c := range []struct {
		path string
		code int
		want string
	}{
		{"/readyz", 500, "[+]ping ok\n[+]quorum ok\n[+]informer-sync ok\n[-]poststarthook/slow failed: not yet\nreadyz check failed\n"},
		{"/readyz?exclude=poststarthook/slow", 200, "ok"},
		{"/readyz?verbose&exclude=poststarthook/slow&exclude=b&exclude=a", 200, "[+]ping ok\n[+]quorum ok\n[+]informer-sync ok\n[+]poststarthook/slow excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"a\",\"b\"\nreadyz check passed\n"},
		{"/readyz/ping", 200, "ok"},
		{"/readyz/poststarthook/slow", 500, "internal server error: not yet\n"},
		{"/healthz/poststarthook/slow", 500, "internal server error: not yet\n"},
		{"/livez?verbose", 200, "[+]ping ok\nlivez check passed\n"},
		{"/livez/poststarthook/slow", 404, ""},
		{"/readyz/none", 404, ""},
	} {
		got := f.do(f.config("nobody"), "GET", c.path, "")
		if got.code != c.code || c.want != "" && string(got.body) != c.want {
			t.Errorf("%s: %d %q, want %d %q", c.path, got.code, got.body, c.code, c.want)
		}
	}
}

func TestEveryAnswerCarriesItsID(t *testing.T) {
	f := newFixture(t)
	if id := f.do(f.admin(), "GET", "/api/v1/cats", "").header.Get("Audit-Id"); id == "" {
		t.Error("no Audit-Id")
	}
	if id := f.do(f.admin(), "GET", "/version", "", "Audit-Id", "mine").header.Get("Audit-Id"); id != "mine" {
		t.Errorf("Audit-Id %q, want the request's own", id)
	}
	var version struct{ GitVersion string }
	if err := json.Unmarshal(f.do(f.admin(), "GET", "/version", "").body, &version); err != nil || version.GitVersion != "v1.37.1+muster" {
		t.Errorf("version %+v, %v", version, err)
	}
}
