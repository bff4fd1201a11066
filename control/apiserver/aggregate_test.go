package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	discoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/musterhq/muster/control/aggregate"
	"github.com/musterhq/muster/control/audit"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// aggregating is a fixture with a service that serves cats.example.org/v1 and
// believes whom the front proxy names. It is available.
func aggregating(t *testing.T, handler http.HandlerFunc, tune ...func(*Config)) (*fixture, *seen) {
	t.Helper()
	frontProxy, served := newCA(t), newCA(t)
	asked := &seen{}
	service := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		own := r.Header.Get("X-Remote-User") == "system:kube-aggregator" // no user's
		switch {
		case own && r.URL.Path == "/apis/cats.example.org/v1":
			_ = json.NewEncoder(w).Encode(&metav1.APIResourceList{GroupVersion: "cats.example.org/v1", APIResources: []metav1.APIResource{
				{Name: "cats", Namespaced: true, Kind: "Cat", Verbs: metav1.Verbs{"get", "list"}},
			}})
			return
		case own && strings.HasPrefix(r.URL.Path, "/apis"):
			http.NotFound(w, r) // as of a server without aggregated discovery
			return
		case !own:
			asked.mu.Lock()
			asked.requests = append(asked.requests, r)
			asked.mu.Unlock()
		}
		handler(w, r)
	}))
	pool := x509.NewCertPool()
	pool.AddCert(frontProxy.cert)
	service.TLS = &tls.Config{
		Certificates: []tls.Certificate{served.issueFor(t, "cats.default.svc")},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}
	service.StartTLS()
	t.Cleanup(service.Close)

	var proxy *aggregate.Proxy
	f := newFixture(t, func(c *Config) {
		proxy = aggregate.New(aggregate.Config{
			Store: c.Store, Client: frontProxy.issue(t, "front-proxy-client"),
			Dial: func(ctx context.Context, namespace, name string, port int32) (net.Conn, error) {
				if namespace != "default" || name != "cats" || port != 443 {
					return nil, fmt.Errorf("there is no %s/%s:%d", namespace, name, port)
				}
				return (&net.Dialer{}).DialContext(ctx, "tcp", service.Listener.Addr().String())
			},
		})
		c.Aggregate = proxy
		for _, f := range tune {
			f(c)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- proxy.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	f.apiService(t, "cats", served.pem)
	until(t, "the service is discovered", func() bool { return len(proxy.Discovered()) == 1 && !proxy.Discovered()[0].Stale })
	return f, asked
}

// apiService registers cats.example.org/v1 at a service, as available.
func (f *fixture) apiService(t *testing.T, service string, ca []byte) {
	t.Helper()
	port := int32(443)
	obj := &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: "v1.cats.example.org"},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: "cats.example.org", Version: "v1", GroupPriorityMinimum: 100, VersionPriority: 10, CABundle: ca,
			Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: service, Port: &port},
		},
	}
	created, err := f.reg.Create(t.Context(), resource.APIServices, "", obj, resource.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = f.reg.Update(t.Context(), resource.APIServices, "", created.GetName(), "status", func(current store.Object) (store.Object, error) {
		s := current.(*apiregistrationv1.APIService)
		s.Status.Conditions = []apiregistrationv1.APIServiceCondition{{Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue}}
		return s, nil
	}, resource.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after 10 s it is not so that %s", what)
		}
	}
}

func TestAggregatedRequestsSayWhoSendsThem(t *testing.T) {
	f, asked := aggregating(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"uri":%q}`, r.RequestURI)
	})
	path := "/apis/cats.example.org/v1/namespaces/a/cats/tom?x=%20y"
	got := f.do(f.admin(), "GET", path, "", "Impersonate-User", "alice", "Impersonate-Group", "system:masters",
		"X-Remote-User", "root", "X-Remote-Group", "x", "X-Remote-Extra-Scopes", "all", "Authorization", "")
	if got.code != 200 || string(got.body) != fmt.Sprintf(`{"uri":%q}`, path) {
		t.Errorf("%d %s, want the path as it was sent", got.code, got.body)
	}
	sent := asked.last(t)
	if sent.Header.Get("X-Remote-User") != "alice" || !slices.Equal(sent.Header["X-Remote-Group"], []string{"system:masters", "system:authenticated"}) {
		t.Errorf("the service was told %q of %q, want alice", sent.Header["X-Remote-User"], sent.Header["X-Remote-Group"])
	}
	for name := range sent.Header {
		if strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-Extra") || name == "Authorization" {
			t.Errorf("the service was told %s: %s", name, sent.Header.Get(name))
		}
	}
	if sent.Host != "cats.default.svc" {
		t.Errorf("host %q, want the service's name", sent.Host)
	}
	if got := f.do(f.config("alice"), "GET", path, ""); got.code != 403 {
		t.Errorf("who may not: %d, want 403", got.code)
	}
	if got := f.do(f.admin(), "GET", "/apis/cats.example.org/v2/cats", ""); got.code != 404 {
		t.Errorf("another version: %d, want 404", got.code)
	}
}

// A client names headers in Connection, and a proxy takes those off: it must not
// take off what it says of the client.
func TestHopByHopHeadersDoNotHideTheUser(t *testing.T) {
	f, asked := aggregating(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") })
	doHTTP1As(t, f, f.admin(), "GET", "/apis/cats.example.org/v1/cats", "Connection", "X-Remote-User, X-Remote-Group, close")
	if sent := asked.last(t); sent.Header.Get("X-Remote-User") != "root" || len(sent.Header["X-Remote-Group"]) == 0 {
		t.Errorf("the service was told %q of %q, want root", sent.Header["X-Remote-User"], sent.Header["X-Remote-Group"])
	}
}

// CVE-2022-3172: an aggregated server redirected clients, which took their
// credentials along.
func TestCVE20223172RedirectsOfAggregatedServersAreNotPassedOn(t *testing.T) {
	f, _ := aggregating(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://evil.example.org/", http.StatusFound)
	})
	got := f.do(f.admin(), "GET", "/apis/cats.example.org/v1/cats", "")
	if got.code != http.StatusBadGateway || got.header.Get("Location") != "" {
		t.Errorf("%d to %q, want 502", got.code, got.header.Get("Location"))
	}
}

func TestAggregatedServersMayUpgrade(t *testing.T) {
	upgrader := websocket.Upgrader{}
	f, asked := aggregating(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.WriteMessage(websocket.TextMessage, []byte("miaow"))
	})
	dialer := websocket.Dialer{TLSClientConfig: f.httpClient(f.admin()).Transport.(*http.Transport).TLSClientConfig}
	conn, response, err := dialer.DialContext(t.Context(), strings.Replace(f.http.URL, "https", "wss", 1)+"/apis/cats.example.org/v1/cats/tom/talk", nil)
	if err != nil {
		t.Fatalf("%v: %+v", err, response)
	}
	defer conn.Close()
	if _, got, err := conn.ReadMessage(); err != nil || string(got) != "miaow" {
		t.Errorf("%q, %v, want miaow", got, err)
	}
	if sent := asked.last(t); sent.Header.Get("X-Remote-User") != "root" {
		t.Errorf("the service was told %q, want root", sent.Header.Get("X-Remote-User"))
	}
}

// A watch lasts, whoever answers it: that it began is written down when it does.
func TestWatchOfServicesIsWrittenDownWhenItBegins(t *testing.T) {
	policy, path := filepath.Join(t.TempDir(), "policy.yaml"), filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(policy, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := audit.Open(audit.Config{PolicyFile: policy, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	f, _ := aggregating(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusOK) }, func(c *Config) { c.Audit = log })
	f.do(f.admin(), "GET", "/apis/cats.example.org/v1/cats?watch=1", "")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var e auditv1.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.Verb == "watch" && e.Stage == auditv1.StageResponseStarted {
			return
		}
	}
	t.Errorf("no beginning of the watch in\n%s", text)
}

func TestDiscoveryHoldsWhatServicesOffer(t *testing.T) {
	f, _ := aggregating(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusNotFound) })
	var list discoveryv2.APIGroupDiscoveryList
	f.do(f.admin(), "GET", "/apis", "", "Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").into(t, &list)
	at := slices.IndexFunc(list.Items, func(g discoveryv2.APIGroupDiscovery) bool { return g.Name == "cats.example.org" })
	if at < 0 || list.Items[at].Versions[0].Resources[0].Resource != "cats" || list.Items[at].Versions[0].Freshness != discoveryv2.DiscoveryFreshnessCurrent {
		t.Errorf("discovery %+v, want cats", list.Items)
	}
	var groups metav1.APIGroupList
	f.do(f.admin(), "GET", "/apis", "").into(t, &groups)
	if !slices.ContainsFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == "cats.example.org" }) {
		t.Errorf("groups %+v, want cats.example.org", groups.Groups)
	}
	var group metav1.APIGroup
	f.do(f.admin(), "GET", "/apis/cats.example.org", "").into(t, &group)
	if group.PreferredVersion.GroupVersion != "cats.example.org/v1" {
		t.Errorf("group %+v", group)
	}
}

func TestUnavailableServicesAreToldSo(t *testing.T) {
	f := newFixture(t)
	proxy := aggregate.New(aggregate.Config{Store: f.store, Dial: func(context.Context, string, string, int32) (net.Conn, error) {
		return nil, errNoAgent
	}})
	f.server.aggregate = proxy
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- proxy.Run(ctx) }()
	defer func() { cancel(); <-done }()
	f.apiService(t, "cats", newCA(t).pem)
	until(t, "the service is known", func() bool { return f.server.aggregated("cats.example.org", "v1") != nil })
	got := f.do(f.admin(), "GET", "/apis/cats.example.org/v1/cats", "")
	if got.code != 503 || got.status(t).Reason != metav1.StatusReasonServiceUnavailable {
		t.Errorf("%d %s, want 503", got.code, got.body)
	}
	until(t, "discovery is stale", func() bool { return len(proxy.Discovered()) == 1 && proxy.Discovered()[0].Stale })
}

func TestOpenAPIHoldsTheDocumentsOfServices(t *testing.T) {
	f, _ := aggregating(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/openapi/v3":
			fmt.Fprint(w, `{"paths":{"apis/cats.example.org/v1":{"serverRelativeURL":"/openapi/v3/apis/cats.example.org/v1?hash=1"},"apis/dogs/v1":{"serverRelativeURL":"/openapi/v3/apis/dogs/v1?hash=2"}}}`)
		case "/openapi/v3/apis/cats.example.org/v1":
			fmt.Fprintf(w, `{"openapi":"3.0.0","hash":%q}`, r.URL.Query().Get("hash"))
		default:
			http.NotFound(w, r)
		}
	})
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	f.do(f.admin(), "GET", "/openapi/v3", "", "Accept", "application/json", "Accept-Encoding", "identity").into(t, &index)
	at := index.Paths["apis/cats.example.org/v1"].ServerRelativeURL
	if at != "/openapi/v3/apis/cats.example.org/v1?hash=1" || index.Paths["api/v1"].ServerRelativeURL == "" || len(index.Paths["apis/dogs/v1"].ServerRelativeURL) > 0 {
		t.Fatalf("index %+v, want cats beside what is served here, and no dogs", index.Paths)
	}
	if got := f.do(f.admin(), "GET", at, ""); got.code != 200 || string(got.body) != `{"openapi":"3.0.0","hash":"1"}` {
		t.Errorf("the document: %d %s", got.code, got.body)
	}
	if got := f.do(f.admin(), "GET", "/openapi/v3/api/v1", "", "Accept-Encoding", "identity"); got.code != 200 || !strings.Contains(string(got.body), "io.k8s.api.core.v1.Pod") {
		t.Errorf("the document of core/v1: %d", got.code)
	}
}
