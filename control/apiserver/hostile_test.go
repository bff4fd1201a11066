package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/musterhq/muster/control/resource"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// allocated is how much memory work asks for, whether or not it keeps it.
func allocated(work func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	work()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// CVE-2019-11253, the billion laughs: a small text that stands for a huge one.
func TestCVE201911253AliasBombsAreDefused(t *testing.T) {
	f := newFixture(t)
	laughs := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		laughs += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 9), ","))
	}
	merges := "a: &a {k: v}\n"
	for c := 'b'; c < 'z'; c++ {
		merges += fmt.Sprintf("%c: &%c\n  <<: *%c\n  x%c: *%c\n  y%c: *%c\n", c, c, c-1, c, c-1, c, c-1)
	}
	pods := "/api/v1/namespaces/default/pods"
	for name, body := range map[string]string{
		"aliases":          laughs,
		"merged aliases":   merges,
		"deep lists":       "a: " + strings.Repeat("[", 100_000),
		"deep blocks":      strings.Repeat("- ", 100_000) + "x",
		"deep JSON":        `{"metadata":` + strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_001),
		"deep JSON arrays": `{"spec":` + strings.Repeat("[", 1_000_000),
	} {
		media := mediaYAML
		if strings.Contains(name, "JSON") {
			media = mediaJSON
		}
		var got answer
		took := allocated(func() { got = f.do(f.admin(), "POST", pods, body, "Content-Type", media) })
		if got.code != 400 {
			t.Errorf("%s: %d %.200s, want 400", name, got.code, got.body)
		}
		if took > 256<<20 {
			t.Errorf("%s: %d MiB were asked for, want less than 256", name, took>>20)
		}
	}
}

// CVE-2019-1002100: a JSON patch whose work is out of proportion to its text.
func TestCVE20191002100JSONPatchesAreBounded(t *testing.T) {
	f := newFixture(t)
	if _, err := f.reg.Create(t.Context(), resource.Pods, "default", newPod("web"), resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	operations := func(n int, one string) string {
		return "[" + strings.TrimSuffix(strings.Repeat(one+",", n), ",") + "]"
	}
	big := strings.Repeat("x", 64<<10)
	doubling := []string{fmt.Sprintf(`{"op":"add","path":"/metadata/annotations","value":{"a":%q}}`, big)}
	for i := range 64 {
		doubling = append(doubling, fmt.Sprintf(`{"op":"copy","from":"/metadata","path":"/metadata/annotations/c%d"}`, i))
	}
	for name, body := range map[string]string{
		"an index without end":    `[{"op":"add","path":"/spec/containers/1000000000","value":{}}]`,
		"a negative index":        `[{"op":"replace","path":"/spec/containers/-1000000000","value":{}}]`,
		"copies that double":      "[" + strings.Join(doubling, ",") + "]",
		"operations without end":  operations(10_001, `{"op":"test","path":"/kind","value":"Pod"}`),
		"a path that is too deep": fmt.Sprintf(`[{"op":"add","path":%q,"value":1}]`, strings.Repeat("/a", 100_000)),
		"not a list":              `{"op":"add"}`,
	} {
		var got answer
		took := allocated(func() {
			got = f.do(f.admin(), "PATCH", "/api/v1/namespaces/default/pods/web", body, "Content-Type", "application/json-patch+json")
		})
		if got.code < 400 || got.code >= 500 {
			t.Errorf("%s: %d %.200s, want the client to be refused", name, got.code, got.body)
		}
		if took > 256<<20 {
			t.Errorf("%s: %d MiB were asked for, want less than 256", name, took>>20)
		}
	}
}

// Names become keys, and those are paths of a kind (upstream's issue 23860): no
// part of a request may name another object than it seems to.
func TestNamesDoNotClimb(t *testing.T) {
	f := newFixture(t)
	if _, err := f.reg.Create(t.Context(), resource.Pods, "default", newPod("web"), resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"/api/v1/namespaces/../pods/web", "/api/v1/namespaces/default/pods/../pods/web", "/api/v1/namespaces/default/pods/./web",
		"/api/v1/namespaces/%2e%2e/pods", "/api/v1/namespaces/default/pods/%2e%2e%2fdefault%2fweb", "/api/v1/namespaces/default/pods/..%2fweb",
		"/api/v1/namespaces/default/pods/web%00", "/api/v1/namespaces/default/pods/%00", "/api/v1/namespaces/default%00/pods/web",
		"/api/v1/namespaces/default/pods/web%2Fstatus", "/api/v1/namespaces/default%2Fpods%2Fweb/pods", "/api/v1/namespaces/default/pods//web",
		"/api/v1/namespaces/default/pods/web%252e", "/api/v1/pods/default%2fweb", "/api/v1/namespaces/default/pods/web%0d%0aX-Evil:%201",
		"/api/v1/namespaces/default/pods/%ff%fe", "/apis/../api/v1/namespaces/default/pods/web", "/api/v1/" + strings.Repeat("/", 100_000),
		"/api/v1/namespaces/default/pods/web/" + strings.Repeat("a/", 1000), "/api/v1/namespaces/default/pods/" + strings.Repeat("x", 500_000),
	} {
		for _, method := range []string{"GET", "PUT", "PATCH", "DELETE"} {
			got := f.do(f.admin(), method, path, podJSON, "Content-Type", map[string]string{"PATCH": "application/merge-patch+json"}[method])
			if got.code != 404 && got.code != 405 && got.code != 400 {
				t.Errorf("%s %.100s: %d %.200s, want 404", method, path, got.code, got.body)
			}
			if got.header.Get("X-Evil") != "" {
				t.Errorf("%s %.100s: the path became a header", method, path)
			}
		}
	}
	for _, name := range []string{"..", ".", "a/b", "../default/web", "a%2fb", "a\x00b", "A", strings.Repeat("x", 254), "ａ"} {
		encoded, err := json.Marshal(name)
		if err != nil {
			t.Fatal(err)
		}
		got := f.do(f.admin(), "POST", "/api/v1/namespaces/default/pods", strings.Replace(podJSON, `"web"`, string(encoded), 1), "Content-Type", mediaJSON)
		if got.code != 422 {
			t.Errorf("a pod named %.40q: %d %.200s, want 422", name, got.code, got.body)
		}
	}
	if got := f.do(f.admin(), "GET", "/api/v1/namespaces/default/pods/web", ""); got.code != 200 {
		t.Errorf("the pod: %d, want it untouched", got.code)
	}
}

func TestHugeMetadataIsRefused(t *testing.T) {
	f := newFixture(t)
	body := func(metadata string) string {
		return strings.Replace(podJSON, `"name":"web"`, `"name":"web",`+metadata, 1)
	}
	var many []string
	for i := range 50_000 {
		many = append(many, fmt.Sprintf(`"k%d":"v"`, i))
	}
	for name, metadata := range map[string]string{
		"a label's value":      `"labels":{"a":"` + strings.Repeat("x", 300<<10) + `"}`,
		"a label's name":       `"labels":{"` + strings.Repeat("x", 300<<10) + `":"a"}`,
		"an annotation":        `"annotations":{"a":"` + strings.Repeat("x", 300<<10) + `"}`,
		"many annotations":     `"annotations":{` + strings.Join(many, ",") + `}`,
		"a generated name":     `"generateName":"` + strings.Repeat("x", 300<<10) + `"`,
		"a finalizer":          `"finalizers":["` + strings.Repeat("x", 300<<10) + `/y"]`,
		"a label with a break": `"labels":{"a":"b\r\nc"}`,
	} {
		got := f.do(f.admin(), "POST", "/api/v1/namespaces/default/pods", body(metadata), "Content-Type", mediaJSON)
		if got.code != 422 {
			t.Errorf("%s: %d %.200s, want 422", name, got.code, got.body)
		}
	}
}

// Whoever is not the front proxy says nothing about who sends a request.
func TestIdentityIsNotTakenFromHeaders(t *testing.T) {
	f := newFixture(t)
	spoofed := []string{
		"X-Remote-User", "system:admin", "X-Remote-Group", "system:masters", "X-Forwarded-User", "system:admin",
		"Impersonate-User", "system:admin", "Impersonate-Group", "system:masters", "Connection", "Impersonate-User",
	}
	for name, cfg := range map[string]*rest.Config{
		"nobody":   {TLSClientConfig: rest.TLSClientConfig{CAData: f.ca.pem}},
		"a person": f.config("alice"),
	} {
		got := f.do(cfg, "GET", "/api/v1/pods", "", spoofed[:6]...)
		if got.code != 401 && got.code != 403 {
			t.Errorf("%s as system:admin by X-Remote-User: %d, want 401 or 403", name, got.code)
		}
		got = doHTTP1As(t, f, cfg, "GET", "/api/v1/pods", spoofed...)
		if got.code != 401 && got.code != 403 {
			t.Errorf("%s as system:admin by Impersonate-User: %d, want 401 or 403", name, got.code)
		}
	}
}

// What a client asks to run or read is passed on as it is, or refused: never
// taken apart again.
func TestStreamParametersAreNotInterpreted(t *testing.T) {
	f := newFixture(t)
	f.bound("web", "n1")
	var exec *agentv1.ExecRequest
	f.streams.serve(func(_ context.Context, _ string, request *agentv1.OpenStream, s *agentSide) error {
		if request.GetExec() != nil {
			exec = request.GetExec()
		}
		go s.end(&agentv1.StreamResult{Error: "enough"})
		return nil
	})
	pod := "/api/v1/namespaces/default/pods/web/"
	doHTTP1(t, f, "POST", pod+"exec?command=sh&command=-c&command=%3B%20reboot%20%26%26%0a&stdout=1", "Connection", "Upgrade", "Upgrade", "none/1")
	if want := []string{"sh", "-c", "; reboot &&\n"}; exec == nil || !slices.Equal(exec.Command, want) {
		t.Errorf("the agent was asked for %v, want %q", exec, want)
	}
	for _, path := range []string{
		"log?container=..%2F..%2Fetc%2Fpasswd", "log?container=web%00", "log?container=web%2F0.log", "exec?command=sh&stdout=1&container=..%2Fweb",
		"log?tailLines=-1", "log?limitBytes=0", "log?sinceSeconds=-5", "log?tailLines=99999999999999999999", "attach?stdout=1&container=web%0a",
	} {
		got := doHTTP1(t, f, "GET", pod+path, "Connection", "Upgrade", "Upgrade", "websocket")
		if got.code != 400 && got.code != 422 {
			t.Errorf("%s: %d %.200s, want it refused", path, got.code, got.body)
		}
	}
}

// doHTTP1As is doHTTP1 as somebody.
func doHTTP1As(t *testing.T, f *fixture, cfg *rest.Config, method, path string, headers ...string) answer {
	t.Helper()
	client := f.httpClient(cfg)
	transport := client.Transport.(*http.Transport)
	transport.ForceAttemptHTTP2 = false
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(true)
	r, err := http.NewRequestWithContext(t.Context(), method, f.http.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	return answer{code: response.StatusCode, header: response.Header}
}

// A token for the next page names where to go on, and must not be a way to what
// the list does not hold.
func TestContinueTokensAreNotAWayIn(t *testing.T) {
	f := newFixture(t)
	for i := range 3 {
		if _, err := f.reg.Create(t.Context(), resource.Pods, "default", newPod(fmt.Sprintf("p%d", i)), resource.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var list metav1.PartialObjectMetadataList
	f.do(f.admin(), "GET", "/api/v1/namespaces/default/pods?limit=1", "", "Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").into(t, &list)
	if list.Continue == "" {
		t.Fatal("no token")
	}
	for _, path := range []string{"/api/v1/nodes", "/api/v1/namespaces/kube-system/pods", "/api/v1/namespaces"} {
		if got := f.do(f.admin(), "GET", path+"?limit=1&continue="+list.Continue, ""); got.code != 400 {
			t.Errorf("%s with a token of pods in default: %d %.200s, want 400", path, got.code, got.body)
		}
	}
	for _, token := range []string{"x", "e30", strings.Repeat("A", 100_000), "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi8uLi9ub2Rlcy8ifQ"} {
		if got := f.do(f.admin(), "GET", "/api/v1/namespaces/default/pods?limit=1&continue="+token, ""); got.code != 400 && got.code != 410 {
			t.Errorf("token %.40q: %d %.200s, want 400", token, got.code, got.body)
		}
	}
}

// A watch costs its client nothing and the server a buffer: floods must end at a
// bound, and leave others theirs.
func TestWatchFloodsAreBounded(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.LastingMax = 4 })
	watch := func(ctx context.Context, user string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, "GET", f.http.URL+"/api/v1/pods?watch=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := f.httpClient(f.config(user, "system:masters")).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		context.AfterFunc(ctx, func() { _ = response.Body.Close() })
		return response.StatusCode
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var codes []int
	for range 3 {
		codes = append(codes, watch(ctx, "root"))
	}
	if want := []int{200, 200, 429}; !slices.Equal(codes, want) {
		t.Errorf("three watches of one client: %v, want %v", codes, want)
	}
	if code := watch(ctx, "other"); code != 200 {
		t.Errorf("another client: %d, want 200", code)
	}
	cancel()
	until(t, "places are given back", func() bool {
		again, end := context.WithCancel(t.Context())
		defer end()
		return watch(again, "root") == 200
	})
}

func TestOldWatchPaths(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{"a", "b"} {
		if _, err := f.reg.Create(t.Context(), resource.Pods, "default", newPod(name), resource.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]int{"pods": 2, "namespaces/default/pods": 2, "namespaces/default/pods/b": 1, "namespaces/kube-system/pods": 0} {
		got := f.do(f.admin(), "GET", "/api/v1/watch/"+path+"?timeoutSeconds=1", "")
		if n := strings.Count(string(got.body), `"ADDED"`); got.code != 200 || n != want {
			t.Errorf("%s: %d with %d pods, want %d: %.200s", path, got.code, n, want, got.body)
		}
	}
	if got := f.do(f.admin(), "DELETE", "/api/v1/watch/namespaces/default/pods/b", ""); got.code != 405 {
		t.Errorf("a delete there: %d, want 405", got.code)
	}
	if got := f.do(f.config("alice"), "GET", "/api/v1/watch/pods", ""); got.code != 403 || !strings.Contains(string(got.body), "cannot watch") {
		t.Errorf("who may not: %d %s, want 403", got.code, got.body)
	}
}
