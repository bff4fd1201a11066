package probe

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func portOf(t *testing.T, address net.Addr) int {
	t.Helper()
	_, port, err := net.SplitHostPort(address.String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// fails wants an error that tells of want, or none when want is empty.
func fails(t *testing.T, what string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: got %v, want success", what, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: got %v, want an error with %q", what, err, want)
	}
}

func TestHTTP(t *testing.T) {
	handler := http.NewServeMux()
	handler.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "named.example" || r.Header.Get("X-Test") != "yes" || !strings.HasPrefix(r.UserAgent(), "kube-probe/") {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	handler.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	handler.HandleFunc("/inside", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/broken", http.StatusFound) })
	handler.HandleFunc("/outside", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
	})
	handler.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for _, scheme := range []corev1.URIScheme{corev1.URISchemeHTTP, corev1.URISchemeHTTPS} {
		server := httptest.NewUnstartedServer(handler)
		if scheme == corev1.URISchemeHTTPS {
			server.StartTLS()
		} else {
			server.Start()
		}
		defer server.Close()
		port := portOf(t, server.Listener.Addr())
		for path, want := range map[string]string{
			"/ok": "", "/broken": "HTTP probe failed with statuscode: 503", "/inside": "statuscode: 503", "/outside": "", "/none?a=b": "statuscode: 404", "/slow": "context deadline exceeded",
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			err := Network{}.HTTP(ctx, "127.0.0.1", port, &corev1.HTTPGetAction{
				Path: path, Scheme: scheme, HTTPHeaders: []corev1.HTTPHeader{{Name: "host", Value: "named.example"}, {Name: "X-Test", Value: "yes"}},
			})
			cancel()
			fails(t, string(scheme)+" "+path, err, want)
		}
	}
}

func TestTCP(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := portOf(t, listener.Addr())
	fails(t, "open", Network{}.TCP(t.Context(), "127.0.0.1", port), "")
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	fails(t, "closed", Network{}.TCP(t.Context(), "127.0.0.1", port), "connection refused")
}

func TestGRPC(t *testing.T) {
	start := func(register func(*grpc.Server)) int {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		register(server)
		done := make(chan error, 1)
		go func() { done <- server.Serve(listener) }()
		t.Cleanup(func() { server.Stop(); <-done })
		return portOf(t, listener.Addr())
	}
	port := start(func(s *grpc.Server) {
		h := health.NewServer()
		h.SetServingStatus("up", healthv1.HealthCheckResponse_SERVING)
		h.SetServingStatus("down", healthv1.HealthCheckResponse_NOT_SERVING)
		healthv1.RegisterHealthServer(s, h)
	})
	bare := start(func(*grpc.Server) {})
	fails(t, "up", Network{}.GRPC(t.Context(), "127.0.0.1", port, "up"), "")
	fails(t, "down", Network{}.GRPC(t.Context(), "127.0.0.1", port, "down"), "NOT_SERVING")
	fails(t, "unknown", Network{}.GRPC(t.Context(), "127.0.0.1", port, "unknown"), "unknown service")
	fails(t, "without the protocol", Network{}.GRPC(t.Context(), "127.0.0.1", bare, ""), "does not implement")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	fails(t, "nobody there", Network{}.GRPC(ctx, "127.0.0.1", 1, ""), "timeout")
}
