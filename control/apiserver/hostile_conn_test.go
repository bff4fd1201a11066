package apiserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// raw opens a connection as the user of cfg and speaks protocol over it.
func (f *fixture) raw(cfg *rest.Config, protocol string) *tls.Conn {
	f.t.Helper()
	config := f.httpClient(cfg).Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName, config.NextProtos = "127.0.0.1", []string{protocol}
	conn, err := tls.Dial("tcp", f.http.Listener.Addr().String(), config)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn
}

// Frames of HTTP/2 (RFC 9113).
const (
	frameHeaders   = 1
	frameReset     = 3
	frameSettings  = 4
	frameGoAway    = 7
	endOfAll       = 0x5 // END_STREAM and END_HEADERS
	enhanceYourCam = 0xb
)

func frame(kind, flags byte, stream uint32, payload []byte) []byte {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// get is the header of GET path: indexed fields, and two literals.
func get(path string) []byte {
	return append(append([]byte{0x82, 0x87, 0x04, byte(len(path))}, path...), 0x01, 1, 'x')
}

// hello begins a connection.
func hello() []byte {
	return append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frame(frameSettings, 0, 0, nil)...)
}

// goAway reads to the frame that ends the connection and says why; false when
// the connection just ends.
func goAway(conn io.Reader) (code uint32, ok bool) {
	reader, head := bufio.NewReader(conn), make([]byte, 9)
	for {
		if _, err := io.ReadFull(reader, head); err != nil {
			return 0, false
		}
		payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(reader, payload); err != nil {
			return 0, false
		}
		if head[3] == frameGoAway {
			return binary.BigEndian.Uint32(payload[4:]), true
		}
	}
}

// CVE-2023-44487 and CVE-2023-39325, rapid reset: requests that are taken back at
// once cost the client nothing, and must not cost the server more than a bound.
func TestCVE202344487RapidResetIsBounded(t *testing.T) {
	var running, most atomic.Int64
	release := make(chan struct{})
	f := newFixture(t, func(c *Config) {
		c.Ready = func() error {
			now := running.Add(1)
			defer running.Add(-1)
			for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
			}
			<-release
			return nil
		}
	})
	conn := f.raw(f.admin(), "h2")
	done := make(chan uint32, 1)
	go func() {
		code, _ := goAway(conn)
		done <- code
	}()
	b := hello()
	for i := range 10 * streamsMax {
		id := uint32(2*i + 1)
		b = append(b, frame(frameHeaders, endOfAll, id, get("/readyz"))...)
		b = append(b, frame(frameReset, 0, id, []byte{0, 0, 0, 8})...)
	}
	_, _ = conn.Write(b) // the server may end it before all is written
	if code := <-done; code != enhanceYourCam {
		t.Errorf("the connection ended with code %d, want %d", code, enhanceYourCam)
	}
	if n := most.Load(); n > streamsMax {
		t.Errorf("%d requests ran at once, want at most %d", n, streamsMax)
	}
	if got := f.do(f.admin(), "GET", "/livez", ""); got.code != 200 {
		t.Errorf("another client: %d, want 200", got.code)
	}
	close(release)
}

// Whoever is not known gets no second request over an HTTP/2 connection.
func TestCVE202344487UnknownClientsMustConnectAnew(t *testing.T) {
	f := newFixture(t)
	conn := f.raw(&rest.Config{TLSClientConfig: rest.TLSClientConfig{CAData: f.ca.pem}}, "h2")
	if _, err := conn.Write(append(hello(), frame(frameHeaders, endOfAll, 1, get("/api/v1/pods"))...)); err != nil {
		t.Fatal(err)
	}
	if code, ok := goAway(conn); !ok || code != 0 {
		t.Errorf("after a request of nobody: GOAWAY %t with code %d, want one without an error", ok, code)
	}
}

// Slow loris: a client that sends its request by drops must not hold what it
// holds for ever.
func TestSlowLorisIsCutOff(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.WritesMax = 1 })
	if c := HTTP(nil, nil); c.ReadHeaderTimeout <= 0 || c.IdleTimeout <= 0 || c.MaxHeaderBytes <= 0 || c.HTTP2.PingTimeout <= 0 || c.HTTP2.SendPingTimeout <= 0 {
		t.Errorf("a bound is missing: %+v", c)
	}
	t.Run("header", func(t *testing.T) {
		f.http.Config.ReadHeaderTimeout = 50 * time.Millisecond
		defer func() { f.http.Config.ReadHeaderTimeout = headerTimeout }()
		conn := f.raw(f.admin(), "http/1.1")
		fmt.Fprint(conn, "GET /api/v1/pods HTTP/1.1\r\nHost: x\r\nX-Slow: ")
		if b, err := io.ReadAll(conn); err != nil || len(b) > 0 && !strings.Contains(string(b), "408") {
			t.Errorf("got %q, %v, want the connection closed", b, err)
		}
	})
	t.Run("body", func(t *testing.T) {
		f.server.requestTimeout = 200 * time.Millisecond
		defer func() { f.server.requestTimeout = requestTimeout }()
		conn := f.raw(f.admin(), "http/1.1")
		fmt.Fprintf(conn, "POST /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
		reader := bufio.NewReader(conn)
		answer, err := http.ReadResponse(reader, nil)
		if err != nil || answer.StatusCode < 400 {
			t.Fatalf("half a body: %+v, %v, want a refusal", answer, err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		// net/http reads what is left of a body before it goes on: without end, if
		// it is let.
		if _, err := reader.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("afterwards: %v, want the connection closed", err)
		}
	})
	if got := f.do(f.admin(), "POST", "/api/v1/namespaces/default/pods", podJSON, "Content-Type", mediaJSON); got.code != 201 {
		t.Errorf("the next write: %d %s, want its place back", got.code, got.body)
	}
}

func TestHugeHeadersAreRefused(t *testing.T) {
	f := newFixture(t)
	conn := f.raw(f.admin(), "http/1.1")
	ended := make(chan error, 1)
	go func() {
		_, err := fmt.Fprintf(conn, "GET /api/v1/pods HTTP/1.1\r\nHost: x\r\nX-Huge: %s\r\n\r\n", strings.Repeat("x", 4<<20))
		ended <- err
	}()
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil && answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("one header of 4 MiB: %d, want 431", answer.StatusCode)
	}
	conn.Close()
	<-ended
	// Many that pass are still read in reasonable time.
	accept := strings.Repeat("application/vnd.made.up;q=0.5;as=Table;g=x;v=y,", 10_000) + "application/json"
	selector := "a%20in%20(" + strings.TrimSuffix(strings.Repeat("b,", 50_000), ",") + ")"
	for name, c := range map[string]struct{ path, accept string }{
		"Accept with many clauses":   {"/api/v1/pods", accept},
		"a selector of many values":  {"/api/v1/pods?labelSelector=" + selector, "application/json"},
		"many parameters":            {"/api/v1/pods?" + strings.Repeat("a=b&", 100_000), "application/json"},
		"one parameter, many values": {"/api/v1/pods?" + strings.Repeat("pretty=1&", 50_000), "application/json"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		r, err := http.NewRequestWithContext(ctx, "GET", f.http.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", c.accept)
		response, err := f.httpClient(f.admin()).Do(r)
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: no answer in 20 s", name)
		}
		if err == nil {
			response.Body.Close()
			if response.StatusCode >= 500 {
				t.Errorf("%s: %d, want the server to cope", name, response.StatusCode)
			}
		}
		cancel()
	}
}

// Two readings of where a request ends are one request too many.
func TestRequestSmugglingIsRefused(t *testing.T) {
	f := newFixture(t)
	inner := "GET /api/v1/namespaces/kube-system/pods HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, head := range map[string]string{
		"two lengths":                 "Content-Length: 0\r\nContent-Length: 5\r\n",
		"a signed length":             "Content-Length: +5\r\n",
		"an unknown encoding":         "Transfer-Encoding: chunked, identity\r\n",
		"a space before the colon":    "Content-Length : 5\r\n",
		"a line feed in a name":       "X-A\nB: c\r\n",
		"a carriage return in values": "X-A: b\rX-B: c\r\n",
	} {
		conn := f.raw(f.admin(), "http/1.1")
		fmt.Fprintf(conn, "POST /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: x\r\n%s\r\n%s", head, inner)
		reader := bufio.NewReader(conn)
		answer, err := http.ReadResponse(reader, nil)
		if err != nil {
			continue
		}
		if answer.StatusCode != 400 && answer.StatusCode != 501 {
			t.Errorf("%s: %d, want 400", name, answer.StatusCode)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		if second, err := http.ReadResponse(reader, nil); err == nil {
			t.Errorf("%s: what followed was answered too, with %d", name, second.StatusCode)
		}
		conn.Close()
	}
}
