package transport_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/identity/identitytest"
	"github.com/musterhq/muster/consensus/transport"
)

// serveHTTP answers with the protocol and who asks; /echo is an upgraded
// connection as kubectl exec uses it.
func serveHTTP(t *testing.T, mux *transport.Mux) {
	t.Helper()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/echo" {
			conn, buffered, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			io.Copy(conn, buffered)
			return
		}
		who := "nobody"
		if len(r.TLS.VerifiedChains) > 0 {
			who = r.TLS.VerifiedChains[0][0].Subject.CommonName
		}
		fmt.Fprintf(w, "%s %s", r.Proto, who)
	})}
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(mux.HTTP()) }()
	t.Cleanup(func() { server.Close(); <-done })
}

func TestOnePortServesHTTP1HTTP2AndUpgrades(t *testing.T) {
	cluster := identitytest.New(t)
	mux, _ := listen(t, cluster.Server("c1"))
	serveHTTP(t, mux)
	admin := cluster.Admin()

	for _, c := range []struct {
		name, want string
		http2      bool
		certs      []tls.Certificate
	}{
		{"HTTP/2 with a certificate", "HTTP/2.0 admin", true, []tls.Certificate{admin}},
		{"HTTP/2 without", "HTTP/2.0 nobody", true, nil},
		{"HTTP/1.1 with a certificate", "HTTP/1.1 admin", false, []tls.Certificate{admin}},
	} {
		client := &http.Client{Transport: &http.Transport{
			ForceAttemptHTTP2: c.http2,
			TLSClientConfig:   &tls.Config{RootCAs: cluster.Roots(), Certificates: c.certs},
		}}
		response, err := client.Get("https://" + mux.Addr().String() + "/")
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		client.CloseIdleConnections()
		if err != nil || string(body) != c.want {
			t.Errorf("%s: got %q (%v), want %q", c.name, body, err, c.want)
		}
	}

	// As many clients do, without ALPN.
	conn, err := tls.Dial("tcp", mux.Addr().String(), &tls.Config{RootCAs: cluster.Roots()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprint(conn, "GET /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: got %v, %v", response, err)
	}
	fmt.Fprint(conn, "hello\n")
	if line, err := reader.ReadString('\n'); line != "hello\n" {
		t.Errorf("through the upgraded connection: got %q (%v), want hello", line, err)
	}
}

func TestOnlyTLS13AndKnownProtocolsGetThrough(t *testing.T) {
	cluster := identitytest.New(t)
	mux, _ := listen(t, cluster.Server("c1"))
	serveHTTP(t, mux)
	for name, config := range map[string]*tls.Config{
		"TLS 1.2":          {RootCAs: cluster.Roots(), MaxVersion: tls.VersionTLS12},
		"unknown protocol": {RootCAs: cluster.Roots(), NextProtos: []string{"muster-raft/9"}},
	} {
		if conn, err := tls.Dial("tcp", mux.Addr().String(), config); err == nil {
			conn.Close()
			t.Errorf("%s: connected", name)
		}
	}
	foreign := identitytest.New(t).Admin()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: cluster.Roots(),
		// Sent though the server says which CA it wants.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &foreign, nil },
	}}}
	if response, err := client.Get("https://" + mux.Addr().String()); err == nil {
		response.Body.Close()
		t.Error("a certificate of another cluster was let in")
	}
	response, err := http.Get("http://" + mux.Addr().String())
	if err == nil {
		response.Body.Close()
		if response.StatusCode == http.StatusOK {
			t.Error("plaintext was answered")
		}
	}
}

// Half-open connections and clients that stall in the handshake are what an
// overloaded network or an attacker produces. Others must still get in.
func TestClientsThatStallKeepNobodyOut(t *testing.T) {
	cluster := identitytest.New(t)
	mux, _ := listen(t, cluster.Server("c1"))
	transport.SetHandshakesMax(mux, 20)
	serveHTTP(t, mux)
	for i := range 60 {
		conn, err := net.Dial("tcp", mux.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i%2 == 0 {
			conn.Write([]byte{0x16, 0x03, 0x01, 0x02}) // the beginning of a ClientHello
		}
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: cluster.Roots()}}}
	defer client.CloseIdleConnections()
	begin := time.Now()
	response, err := client.Get("https://" + mux.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	if n := transport.Handshakes(mux); n > 20 {
		t.Errorf("%d unfinished handshakes, want at most 20", n)
	}
}

func TestRunClosesEveryConnectionItHandedOut(t *testing.T) {
	cluster := identitytest.New(t)
	mux, stop := listen(t, cluster.Server("c1"))
	conn, err := tls.Dial("tcp", mux.Addr().String(), &tls.Config{RootCAs: cluster.Roots()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, err := mux.HTTP().Accept()
	if err != nil {
		t.Fatal(err)
	}
	waiting, err := tls.Dial("tcp", mux.Addr().String(), &tls.Config{RootCAs: cluster.Roots()})
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	stop()
	if _, err := accepted.Read(make([]byte, 1)); err == nil {
		t.Error("an accepted connection is open")
	}
	for _, c := range []*tls.Conn{conn, waiting} {
		c.SetDeadline(time.Now().Add(3 * time.Second))
		var timeout net.Error
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("got %v, want a closed connection", err)
		}
	}
	if _, err := mux.HTTP().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept afterwards: got %v, want net.ErrClosed", err)
	}
	if c, err := net.Dial("tcp", mux.Addr().String()); err == nil {
		c.Close()
		t.Error("the port is open")
	}
	if n := transport.Open(mux); n != 0 {
		t.Errorf("%d connections are remembered, want none", n)
	}
}

func TestClosedConnectionsAreForgotten(t *testing.T) {
	cluster := identitytest.New(t)
	mux, _ := listen(t, cluster.Server("c1"))
	serveHTTP(t, mux)
	for range 20 {
		conn, err := tls.Dial("tcp", mux.Addr().String(), &tls.Config{RootCAs: cluster.Roots()})
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	for end := time.Now().Add(5 * time.Second); transport.Open(mux) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d connections are remembered, want none", transport.Open(mux))
		}
	}
}

func TestABacklogThatNobodyServesIsBounded(t *testing.T) {
	cluster := identitytest.New(t)
	mux, _ := listen(t, cluster.Server("c1"))
	config := &tls.Config{RootCAs: cluster.Roots()}
	closed := 0
	for range transport.BacklogMax + 5 {
		conn, err := tls.Dial("tcp", mux.Addr().String(), config)
		if err != nil {
			closed++
			continue
		}
		defer conn.Close()
	}
	for end := time.Now().Add(5 * time.Second); transport.Open(mux) != transport.BacklogMax; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d connections wait, want %d", transport.Open(mux), transport.BacklogMax)
		}
	}
	if closed > 0 {
		t.Errorf("%d handshakes failed, want the refusals after them", closed)
	}
}

func TestAnAddressInUseIsSaidPlainly(t *testing.T) {
	id := identitytest.New(t).Server("c1")
	mux, _ := listen(t, id)
	_, err := transport.Listen(mux.Addr().String(), id)
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v", err)
	}
}

func TestRunWithAnEndedContextOnlyCloses(t *testing.T) {
	mux, err := transport.Listen("127.0.0.1:0", identitytest.New(t).Server("c1"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := mux.Run(ctx); err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", mux.Addr().String()); err == nil {
		c.Close()
		t.Error("the port is open")
	}
}

func TestRaftIsForControlNodesOnly(t *testing.T) {
	cluster := identitytest.New(t)
	mux1, _ := listen(t, cluster.Server("c1"))
	mux2, _ := listen(t, cluster.Server("c2"))
	layer1, layer2 := mux1.Layer("c1.example:6443"), mux2.Layer("10.0.0.2:6443")
	if got := layer1.Addr().String(); got != "c1.example:6443" {
		t.Errorf("Addr is %s, want the advertised one", got)
	}

	go func() {
		conn, err := layer1.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		io.Copy(conn, conn)
	}()
	conn, err := layer2.Dial(raftAddress(mux1), 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(conn, "vote")
	got := make([]byte, 4)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "vote" {
		t.Errorf("got %q (%v), want vote", got, err)
	}

	foreign := identitytest.New(t)
	for name, config := range map[string]*tls.Config{
		"an agent":         cluster.Agent("n1").ClientTLS(identity.ServerName),
		"an administrator": {RootCAs: cluster.Roots(), Certificates: []tls.Certificate{cluster.Admin()}, ServerName: identity.ServerName},
		"nobody":           {RootCAs: cluster.Roots(), ServerName: identity.ServerName},
		"another cluster's": {InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return foreign.Server("c1").Certificate(), nil
		}},
	} {
		config.NextProtos = []string{transport.ALPNRaft}
		conn, err := tls.Dial("tcp", mux2.Addr().String(), config)
		if err != nil {
			continue
		}
		conn.SetDeadline(time.Now().Add(3 * time.Second))
		io.WriteString(conn, "vote")
		var timeout net.Error
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s was let in to raft (%v)", name, err)
		}
		conn.Close()
	}

	// Nor does a control node talk to who is not one.
	mux3, _ := listen(t, foreign.Server("c3"))
	if conn, err := layer2.Dial(raftAddress(mux3), 2*time.Second); err == nil {
		conn.Close()
		t.Error("dialed a control node of another cluster")
	}
}

func TestRaftDialGivesUpInTime(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	mux, _ := listen(t, identitytest.New(t).Server("c1"))
	begin := time.Now()
	if conn, err := mux.Layer("x:1").Dial(raftAddressOf(silent.Addr()), 100*time.Millisecond); err == nil {
		conn.Close()
		t.Error("connected to who says nothing")
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("it took %v, want 100ms", took)
	}
}
