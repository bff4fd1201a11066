package apiserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// listening is an agent in whose pods a server listens, on every port.
func listening(t *testing.T, server *httptest.Server) agentFunc {
	t.Helper()
	return func(ctx context.Context, _ string, request *agentv1.OpenStream, s *agentSide) error {
		if request.GetPortForward() == nil || !request.GetPortForward().ToAddress {
			t.Errorf("the agent was asked for %v, want a connection to the pod's address", request)
		}
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { conn.Close() })
		go func() {
			for {
				frame, ok := s.recv()
				if !ok {
					return
				}
				if _, err := conn.Write(frame.GetData()); err != nil {
					return
				}
			}
		}()
		go func() {
			buffer := make([]byte, 4096)
			for {
				n, err := conn.Read(buffer)
				if n > 0 {
					s.out(string(buffer[:n]))
				}
				if err != nil {
					s.end(&agentv1.StreamResult{})
					return
				}
			}
		}()
		return nil
	}
}

// withAddress gives a bound pod an address.
func (f *fixture) withAddress(name, node, ip string) *corev1.Pod {
	f.t.Helper()
	pod := f.bound(name, node)
	pod.Status.PodIP, pod.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	if _, err := store.Of[*corev1.Pod](f.store, store.Pods).Update(f.t.Context(), pod, 0); err != nil {
		f.t.Fatal(err)
	}
	return pod
}

// seen is what a backend was sent.
type seen struct {
	mu       sync.Mutex
	requests []*http.Request
}

func (s *seen) last(t *testing.T) *http.Request {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) == 0 {
		t.Fatal("the backend saw no request")
	}
	return s.requests[len(s.requests)-1]
}

func (s *seen) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.requests)
}

func backend(t *testing.T, handler http.HandlerFunc) (*httptest.Server, *seen) {
	t.Helper()
	s := &seen{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r)
		s.mu.Unlock()
		handler(w, r)
	}))
	t.Cleanup(server.Close)
	return server, s
}

func TestProxyPassesRequestsOn(t *testing.T) {
	f := newFixture(t)
	f.withAddress("web", "n1", "10.0.0.7")
	server, asked := backend(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Answer", "yes")
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.RequestURI, body)
	})
	f.streams.serve(listening(t, server))
	for _, method := range proxied {
		got := f.do(f.admin(), method, "/api/v1/namespaces/default/pods/http:web:8080/proxy/a//b/../%2Fc/?q=%20x&command=y", "body",
			"Impersonate-User", "system:admin", "Impersonate-Group", "system:masters", "X-Remote-User", "root", "X-Mine", "kept")
		want := method + " /a//b/../%2Fc/?q=%20x&command=y body"
		if method == http.MethodHead {
			want = ""
		}
		if got.code != http.StatusTeapot || string(got.body) != want || got.header.Get("X-Answer") != "yes" {
			t.Errorf("%s: %d %q %v, want 418 %q", method, got.code, got.body, got.header, want)
		}
		if got.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: the pod may say who else's pages may read the API server", method)
		}
		sent := asked.last(t).Header
		for _, secret := range []string{"Authorization", "Impersonate-User", "Impersonate-Group", "X-Remote-User"} {
			if sent.Get(secret) != "" {
				t.Errorf("%s: the pod was told %s: %s", method, secret, sent.Get(secret))
			}
		}
		if sent.Get("X-Mine") != "kept" || sent.Get("X-Forwarded-For") == "" || sent.Get("X-Forwarded-Uri") == "" {
			t.Errorf("%s: the pod was sent %v", method, sent)
		}
	}
	if got := f.do(f.admin(), "TRACE", "/api/v1/namespaces/default/pods/web/proxy/", ""); got.code != http.StatusMethodNotAllowed {
		t.Errorf("TRACE: %d, want 405", got.code)
	}
}

func TestProxiedPagesLinkThroughTheProxy(t *testing.T) {
	f := newFixture(t)
	f.withAddress("web", "n1", "10.0.0.7")
	server, _ := backend(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "/here", http.StatusFound)
			return
		}
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<a href="/next">next</a><a href="https://example.org/">far</a>`)
	})
	f.streams.serve(listening(t, server))
	base := "/api/v1/namespaces/default/pods/web/proxy"
	got := f.do(f.admin(), "GET", base+"/index", "")
	if !strings.Contains(string(got.body), base+`/next"`) || !strings.Contains(string(got.body), `"https://example.org/"`) {
		t.Errorf("page %s, want links below %s", got.body, base)
	}
	// The client is told, and decides itself: this server follows nothing.
	client := f.httpClient(f.admin())
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for path, want := range map[string]string{"/away": base + "/here", "": base + "/"} {
		response, err := client.Get(f.http.URL + base + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if at := response.Header.Get("Location"); !strings.HasSuffix(at, want) || response.StatusCode/100 != 3 {
			t.Errorf("%q: %d to %q, want a redirect to %s", path, response.StatusCode, at, want)
		}
	}
}

func TestProxyCarriesWebSockets(t *testing.T) {
	f := newFixture(t)
	f.withAddress("web", "n1", "10.0.0.7")
	upgrader := websocket.Upgrader{}
	server, _ := backend(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			kind, message, err := conn.ReadMessage()
			if err != nil {
				return
			}
			_ = conn.WriteMessage(kind, []byte(strings.ToUpper(string(message))))
		}
	})
	f.streams.serve(listening(t, server))
	dialer := websocket.Dialer{TLSClientConfig: f.httpClient(f.admin()).Transport.(*http.Transport).TLSClientConfig}
	conn, response, err := dialer.DialContext(t.Context(), strings.Replace(f.http.URL, "https", "wss", 1)+"/api/v1/namespaces/default/pods/web:80/proxy/echo", nil)
	if err != nil {
		t.Fatalf("%v: %+v", err, response)
	}
	defer conn.Close()
	for _, word := range []string{"one", "two"} {
		if err := conn.WriteMessage(websocket.TextMessage, []byte(word)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := conn.ReadMessage(); err != nil || string(got) != strings.ToUpper(word) {
			t.Errorf("echo %q, %v, want %q", got, err, strings.ToUpper(word))
		}
	}
}

func TestProxySaysWhatIsWrong(t *testing.T) {
	f := newFixture(t)
	f.withAddress("web", "n1", "10.0.0.7")
	f.bound("young", "n1")
	if _, err := f.client(f.admin(), mediaJSON).CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path    string
		code    int
		message string
	}{
		{"namespaces/default/pods/none/proxy/", 404, `pods "none" not found`},
		{"namespaces/default/pods/ftp:web:80/proxy/", 400, `invalid pod request "ftp:web:80"`},
		{"namespaces/default/pods/web:0/proxy/", 400, `invalid port "0"`},
		{"namespaces/default/pods/web:65536/proxy/", 400, `invalid port "65536"`},
		{"namespaces/default/pods/young/proxy/", 400, "address not allowed"},
		{"namespaces/default/pods/web/proxy/", 503, "error trying to reach service"},
		{"pods/web/proxy/", 404, ""},
		{"nodes/n2/proxy/healthz", 404, `nodes "n2" not found`},
		{"nodes/n1/proxy/healthz", 503, "node n1 is not ready"},
		{"nodes/n1/proxy/configz", 404, "offers no /configz"},
		{"nodes/n1:22/proxy/", 501, "nothing connects to a node"},
	} {
		got := f.do(f.admin(), "GET", "/api/v1/"+c.path, "")
		if got.code != c.code || !strings.Contains(got.status(t).Message, c.message) {
			t.Errorf("%s: %d %s, want %d and %q", c.path, got.code, got.body, c.code, c.message)
		}
	}
}

func TestNodeProxyListsItsPodsAndLogs(t *testing.T) {
	f := newFixture(t)
	f.bound("mine", "n1")
	f.bound("theirs", "n2")
	if _, err := f.client(f.admin(), mediaJSON).CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var list corev1.PodList
	f.do(f.admin(), "GET", "/api/v1/nodes/n1:10250/proxy/pods", "").into(t, &list)
	if len(list.Items) != 1 || list.Items[0].Name != "mine" {
		t.Errorf("pods of n1: %+v, want mine", list.Items)
	}
	f.streams.serve(func(_ context.Context, _ string, request *agentv1.OpenStream, s *agentSide) error {
		go func() {
			s.out(request.GetLog().GetContainer() + " says hello\n")
			s.end(&agentv1.StreamResult{})
		}()
		return nil
	})
	if got := f.do(f.admin(), "GET", "/api/v1/nodes/n1/proxy/containerLogs/default/mine/web?tailLines=1", ""); got.code != 200 || string(got.body) != "web says hello\n" {
		t.Errorf("log: %d %s", got.code, got.body)
	}
	if got := f.do(f.admin(), "GET", "/api/v1/nodes/n1/proxy/containerLogs/default/theirs/web", ""); got.code != 404 {
		t.Errorf("log of another node's pod: %d, want 404", got.code)
	}
}

// CVE-2018-1002105: a backend that refuses an upgrade left a connection open over
// which whoever asked could send it anything, as the API server.
func TestCVE20181002105RefusedUpgradeLeavesNoConnection(t *testing.T) {
	f := newFixture(t)
	f.withAddress("web", "n1", "10.0.0.7")
	for name, refuse := range map[string]http.HandlerFunc{
		"an error":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadRequest) },
		"success":    func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "no upgrade, but fine") },
		"a redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/secret", http.StatusFound) },
	} {
		t.Run(name, func(t *testing.T) {
			server, asked := backend(t, refuse)
			f.streams.serve(listening(t, server))
			config := f.httpClient(f.admin()).Transport.(*http.Transport).TLSClientConfig.Clone()
			config.ServerName = "127.0.0.1"
			conn, err := tls.Dial("tcp", f.http.Listener.Addr().String(), config)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			request := func(path string) {
				fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eHh4eHh4eHh4eHh4eHh4eA==\r\n\r\n", path)
			}
			request("/api/v1/namespaces/default/pods/web:80/proxy/first")
			reader := bufio.NewReader(conn)
			answer, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			if answer.StatusCode == http.StatusSwitchingProtocols {
				t.Fatal("switched protocols, which the pod refused")
			}
			_, _ = io.Copy(io.Discard, answer.Body)
			request("/second")
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			// Closed, or answered by the API server, which has no such path.
			if answer, err := http.ReadResponse(reader, nil); err == nil && answer.StatusCode != http.StatusNotFound {
				t.Errorf("a second request was answered with %d", answer.StatusCode)
			}
			if n := asked.count(); n != 1 {
				t.Errorf("the pod saw %d requests, want the first only", n)
			}
		})
	}
}

// CVE-2022-3294 and CVE-2020-8562 classes: who may write a pod's status must not
// be able to point the proxy at the control node, its link or its metadata
// service.
func TestCVE20223294TamperedAddressesLeadNowhere(t *testing.T) {
	f := newFixture(t)
	asked := false
	f.streams.serve(func(context.Context, string, *agentv1.OpenStream, *agentSide) error {
		asked = true
		return errNoAgent
	})
	for i, ip := range []string{"127.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fe80::1", "224.0.0.1", "0.0.0.0", ""} {
		name := fmt.Sprintf("web-%d", i)
		f.withAddress(name, "n1", ip)
		got := f.do(f.admin(), "GET", "/api/v1/namespaces/default/pods/"+name+":6443/proxy/", "")
		if got.code != 400 || !strings.Contains(string(got.body), "address not allowed") {
			t.Errorf("address %q: %d %s, want 400", ip, got.code, got.body)
		}
	}
	if asked {
		t.Error("an agent was asked to connect")
	}
	// A node's addresses are not even looked at.
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}}}
	if _, err := store.Of[*corev1.Node](f.store, store.Nodes).Create(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	if got := f.do(f.admin(), "GET", "/api/v1/nodes/https:n1:6443/proxy/api/v1/secrets", ""); got.code != 501 || asked {
		t.Errorf("a node at the loopback: %d %s, want 501", got.code, got.body)
	}
}
