package apiserver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/musterhq/muster/control/auth"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := leaks(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// leaks are goroutines that are left. spdystream keeps one for a second after a
// connection broke, in case somebody asks how closing it went.
func leaks() error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		err := goleak.Find(
			// klog's, started by init in client-go.
			goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"),
			// client-go's ends of streams, which it forgets when a connection breaks.
			goleak.IgnoreAnyFunction("k8s.io/client-go/tools/remotecommand.(*heartbeat).start"),
			goleak.IgnoreAnyFunction("k8s.io/client-go/tools/portforward.(*PortForwarder).handleConnection.func1"))
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

var (
	errNoQuorum = errors.New("no quorum")
	errLost     = errors.New("no answer")
	errTooLarge = errors.New("too large")
	errNoSpace  = errors.New("disks are full")
	errNoAgent  = errors.New("no session")
)

// fixture is an API server over a store in memory, behind TLS, with a CA that
// clients can get certificates from.
type fixture struct {
	t       testing.TB
	store   *store.Store
	log     *storetest.Log
	reg     *resource.Registry
	machine interface {
		Snapshot() (func(io.Writer) error, error)
		Restore(io.Reader) error
	}
	server  *Server
	http    *httptest.Server
	streams *fakeStreams
	ca      *authority
}

func newFixture(t testing.TB, adjust ...func(*Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, streams: &fakeStreams{}, ca: newCA(t)}
	f.store, f.log, f.machine = storetest.Open(t)
	f.serve(adjust...)
	return f
}

// restored is the same state as a node has that started from a snapshot: all
// objects and no past.
func (f *fixture) restored() *fixture {
	f.t.Helper()
	write, err := f.machine.Snapshot()
	if err != nil {
		f.t.Fatal(err)
	}
	var snapshot bytes.Buffer
	if err := write(&snapshot); err != nil {
		f.t.Fatal(err)
	}
	r := &fixture{t: f.t, streams: &fakeStreams{}, ca: f.ca}
	r.store, r.log, r.machine = storetest.Open(f.t)
	if err := r.machine.Restore(&snapshot); err != nil {
		f.t.Fatal(err)
	}
	r.serve()
	return r
}

func (f *fixture) serve(adjust ...func(*Config)) {
	t := f.t
	t.Helper()
	f.reg = resource.New(f.store, resource.AdmitAll{})
	if err := resource.EnsureBootstrap(context.Background(), f.reg); err != nil {
		t.Fatal(err)
	}
	authorizer := auth.NewAuthorizer(f.store)
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- authorizer.Run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	cfg := Config{
		Registry:   f.reg,
		Store:      f.store,
		Authorizer: authorizer,
		Streams:    f.streams,
		Version:    apiversion.Info{Major: "1", Minor: "37", GitVersion: "v1.37.1+muster"},
		Failures: Failures{
			Unavailable: []error{errNoQuorum}, OutcomeUnknown: []error{errLost}, TooLarge: []error{errTooLarge},
			NoSpace: []error{errNoSpace}, NodeUnreachable: []error{errNoAgent},
		},
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	for _, a := range adjust {
		a(&cfg)
	}
	var err error
	if f.server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	f.http = httptest.NewUnstartedServer(nil)
	f.http.Config = HTTP(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			// net/http happens to end the context of a connection that was taken
			// over when reading it fails. It does not promise to.
			r = r.WithContext(context.WithoutCancel(r.Context()))
		}
		f.server.ServeHTTP(w, r)
	}), slog.NewLogLogger(slog.NewTextHandler(testWriter{t}, nil), slog.LevelDebug))
	f.http.EnableHTTP2 = true
	pool := x509.NewCertPool()
	pool.AddCert(f.ca.cert)
	f.http.TLS = &tls.Config{
		Certificates: []tls.Certificate{f.ca.issue(t, "127.0.0.1")},
		ClientAuth:   tls.VerifyClientCertIfGiven,
		ClientCAs:    pool,
	}
	f.http.StartTLS()
	t.Cleanup(func() {
		f.http.CloseClientConnections()
		f.http.Close()
	})
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(b)))
	return len(b), nil
}

type authority struct {
	cert *x509.Certificate
	pem  []byte
	key  *ecdsa.PrivateKey
}

func newCA(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue makes a certificate for a server at 127.0.0.1 and for a client of that name.
func (a *authority) issue(t testing.TB, name string, organizations ...string) tls.Certificate {
	t.Helper()
	certPEM, keyPEM := a.issuePEM(t, name, organizations...)
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// issueFor makes a certificate for a server of that name.
func (a *authority) issueFor(t testing.TB, name string) tls.Certificate {
	t.Helper()
	certPEM, keyPEM := a.issueNamed(t, name, []string{name})
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func (a *authority) issuePEM(t testing.TB, name string, organizations ...string) (certPEM, keyPEM []byte) {
	t.Helper()
	return a.issueNamed(t, name, nil, organizations...)
}

func (a *authority) issueNamed(t testing.TB, name string, hosts []string, organizations ...string) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name, Organization: organizations},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: hosts,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
}

// config is a client's, for a user of that name and groups.
func (f *fixture) config(name string, groups ...string) *rest.Config {
	f.t.Helper()
	certPEM, keyPEM := f.ca.issuePEM(f.t, name, groups...)
	return &rest.Config{
		Host: f.http.URL,
		QPS:  -1,
		TLSClientConfig: rest.TLSClientConfig{
			CAData: f.ca.pem, CertData: certPEM, KeyData: keyPEM,
		},
	}
}

func (f *fixture) admin() *rest.Config { return f.config("root", "system:masters") }

// client is client-go's, in JSON unless media says otherwise.
func (f *fixture) client(cfg *rest.Config, media string) kubernetes.Interface {
	f.t.Helper()
	cfg = rest.CopyConfig(cfg)
	cfg.ContentType, cfg.AcceptContentTypes = media, media
	httpClient := f.httpClient(cfg)
	client, err := kubernetes.NewForConfigAndClient(cfg, httpClient)
	if err != nil {
		f.t.Fatal(err)
	}
	return client
}

func (f *fixture) httpClient(cfg *rest.Config) *http.Client {
	f.t.Helper()
	// A transport of its own: client-go's are shared and never closed.
	pair, err := tls.X509KeyPair(cfg.CertData, cfg.KeyData)
	var certificates []tls.Certificate
	if len(cfg.CertData) > 0 {
		if err != nil {
			f.t.Fatal(err)
		}
		certificates = append(certificates, pair)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cfg.CAData)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certificates}, ForceAttemptHTTP2: true}
	f.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// answer is what a plain request got.
type answer struct {
	code   int
	header http.Header
	body   []byte
}

func (a answer) status(t testing.TB) metav1.Status {
	t.Helper()
	var status metav1.Status
	if err := json.Unmarshal(a.body, &status); err != nil || status.Kind != "Status" {
		t.Fatalf("not a Status: %s (%v)", a.body, err)
	}
	return status
}

func (a answer) into(t testing.TB, obj any) {
	t.Helper()
	if err := json.Unmarshal(a.body, obj); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
}

// do sends a request as the user of cfg; headers are pairs.
func (f *fixture) do(cfg *rest.Config, method, path, body string, headers ...string) answer {
	f.t.Helper()
	r, err := http.NewRequest(method, f.http.URL+path, bytes.NewReader([]byte(body)))
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := f.httpClient(cfg).Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, b}
}

func newPod(name string, containers ...string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if len(containers) == 0 {
		containers = []string{"web"}
	}
	for _, c := range containers {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c, Image: "example.org/web:1"})
	}
	return pod
}

// bound creates a pod in default that runs on node.
func (f *fixture) bound(name, node string, containers ...string) *corev1.Pod {
	f.t.Helper()
	ctx := context.Background()
	created, err := f.reg.Create(ctx, resource.Pods, "default", newPod(name, containers...), resource.CreateOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.reg.BindMany(ctx, []resource.Binding{{Namespace: "default", Pod: name, UID: created.GetUID(), Node: node}})[0]; err != nil {
		f.t.Fatal(err)
	}
	got, err := f.store.Table(store.Pods).Get(ctx, "default", name)
	if err != nil {
		f.t.Fatal(err)
	}
	return got.(*corev1.Pod)
}

// agentFunc is what an agent does with a stream that it opens.
type agentFunc func(ctx context.Context, node string, request *agentv1.OpenStream, s *agentSide) error

// fakeStreams is a node's agent. Without an agentFunc there is none.
type fakeStreams struct {
	mu   sync.Mutex
	open agentFunc
}

func (f *fakeStreams) serve(open agentFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = open
}

func (f *fakeStreams) Open(ctx context.Context, node string, request *agentv1.OpenStream) (Stream, error) {
	f.mu.Lock()
	open := f.open
	f.mu.Unlock()
	if open == nil {
		return nil, errNoAgent
	}
	s := &agentSide{ctx: ctx, down: make(chan *agentv1.Frame, 64), up: make(chan *agentv1.Frame, 64)}
	if err := open(ctx, node, request, s); err != nil {
		return nil, err
	}
	return clientSide{s}, nil
}

// agentSide is the agent's end of a stream, clientSide the API server's.
type agentSide struct {
	ctx      context.Context
	down, up chan *agentv1.Frame
}

// recv is false when the stream has ended.
func (a *agentSide) recv() (*agentv1.Frame, bool) {
	select {
	case frame := <-a.down:
		return frame, true
	case <-a.ctx.Done():
		return nil, false
	}
}

func (a *agentSide) send(frame *agentv1.Frame) {
	select {
	case a.up <- frame:
	case <-a.ctx.Done():
	}
}

func (a *agentSide) out(text string) {
	a.send(&agentv1.Frame{Channel: agentv1.Frame_STDOUT, Data: []byte(text)})
}

func (a *agentSide) end(result *agentv1.StreamResult) { a.send(&agentv1.Frame{Result: result}) }

type clientSide struct{ *agentSide }

func (c clientSide) Send(frame *agentv1.Frame) error {
	select {
	case c.down <- frame:
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

func (c clientSide) CloseSend() error { return nil }

func (c clientSide) Recv() (*agentv1.Frame, error) {
	select {
	case frame := <-c.up:
		return frame, nil
	case <-c.ctx.Done():
		return nil, c.ctx.Err()
	}
}

// lockedBuffer is a buffer that a process writes and a test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
