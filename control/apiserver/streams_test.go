package apiserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"

	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// shell is an agent whose every command echoes its input to stdout, says what
// it saw on stderr, and ends with a code.
func shell(code int32) agentFunc {
	return func(_ context.Context, node string, request *agentv1.OpenStream, s *agentSide) error {
		exec := request.GetExec()
		go func() {
			s.out(fmt.Sprintf("%s:%s/%s:%v:", node, exec.GetPod(), exec.GetContainer(), exec.GetCommand()))
			for exec.GetStdin() {
				frame, ok := s.recv()
				if !ok {
					return
				}
				if resize := frame.GetResize(); resize != nil {
					s.out(fmt.Sprintf("[%dx%d]", resize.GetWidth(), resize.GetHeight()))
				}
				if len(frame.GetData()) > 0 {
					s.out(strings.ToUpper(string(frame.GetData())))
				}
				if frame.GetClose() {
					break
				}
			}
			if exec.GetStderr() {
				s.send(&agentv1.Frame{Channel: agentv1.Frame_STDERR, Data: []byte("end of input")})
			}
			s.end(&agentv1.StreamResult{ExitCode: code})
		}()
		return nil
	}
}

// executors are both protocols that kubectl speaks.
func executors(t *testing.T, f *fixture, pod, subresource string, query url.Values) map[string]remotecommand.Executor {
	t.Helper()
	target := f.http.URL + "/api/v1/namespaces/default/pods/" + pod + "/" + subresource + "?" + query.Encode()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	ws, err := remotecommand.NewWebSocketExecutor(f.admin(), "GET", target)
	if err != nil {
		t.Fatal(err)
	}
	old, err := remotecommand.NewSPDYExecutor(f.admin(), "POST", u)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]remotecommand.Executor{"WebSocket": ws, "SPDY": old}
}

func TestExecCarriesStreamsAndExitCode(t *testing.T) {
	f := newFixture(t)
	f.bound("web", "n1", "web", "sidecar")
	query := url.Values{"command": {"cat", "-"}, "container": {"sidecar"}, "stdin": {"true"}, "stdout": {"true"}, "stderr": {"true"}}
	for protocol, executor := range executors(t, f, "web", "exec", query) {
		t.Run(protocol, func(t *testing.T) {
			f.streams.serve(shell(3))
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var out, errs bytes.Buffer
			err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &errs})
			var exit utilexec.CodeExitError
			if !errors.As(err, &exit) || exit.Code != 3 {
				t.Errorf("ended with %v, want exit code 3", err)
			}
			if got, want := out.String(), "n1:web/sidecar:[cat -]:HELLO"; got != want {
				t.Errorf("stdout %q, want %q", got, want)
			}
			if got, want := errs.String(), "end of input"; got != want {
				t.Errorf("stderr %q, want %q: stdin must end while output goes on", got, want)
			}
			f.streams.serve(shell(0))
			if err := executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}); err != nil {
				t.Errorf("exit code 0: %v, want no error", err)
			}
		})
	}
}

type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

func TestTerminalIsResized(t *testing.T) {
	f := newFixture(t)
	f.bound("web", "n1")
	f.streams.serve(shell(0))
	query := url.Values{"command": {"sh"}, "stdin": {"true"}, "stdout": {"true"}, "tty": {"true"}}
	for protocol, executor := range executors(t, f, "web", "exec", query) {
		t.Run(protocol, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			queue := make(sizes, 1)
			queue <- remotecommand.TerminalSize{Width: 80, Height: 24}
			defer close(queue)
			input, typed := io.Pipe()
			screen, printed := io.Pipe()
			done := make(chan error, 1)
			go func() {
				done <- executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: input, Stdout: printed, Tty: true, TerminalSizeQueue: queue})
				printed.Close()
			}()
			var seen strings.Builder
			buffer := make([]byte, 1024)
			for !strings.Contains(seen.String(), "[80x24]") {
				n, err := screen.Read(buffer)
				if err != nil {
					t.Fatalf("the screen shows %q and then %v, want [80x24]", seen.String(), err)
				}
				seen.Write(buffer[:n])
			}
			typed.Close()
			go io.Copy(io.Discard, screen) //nolint:errcheck // the rest of the screen
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAttachAsksForTheProcessItself(t *testing.T) {
	f := newFixture(t)
	f.bound("web", "n1")
	var attach bool
	f.streams.serve(func(_ context.Context, _ string, request *agentv1.OpenStream, s *agentSide) error {
		attach = request.GetExec().GetAttach() && len(request.GetExec().GetCommand()) == 0
		go func() {
			s.out("running")
			s.end(&agentv1.StreamResult{})
		}()
		return nil
	})
	for protocol, executor := range executors(t, f, "web", "attach", url.Values{"stdout": {"true"}}) {
		var out bytes.Buffer
		if err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out}); err != nil || out.String() != "running" || !attach {
			t.Errorf("%s: %q, attach %t, %v", protocol, out.String(), attach, err)
		}
	}
}

// A terminal that is closed by killing kubectl must end the command's streams at
// the agent, although nothing is written.
func TestLostClientEndsItsStream(t *testing.T) {
	f := newFixture(t)
	f.bound("web", "n1")
	query := url.Values{"command": {"sleep"}, "stdout": {"true"}}
	for protocol, executor := range executors(t, f, "web", "exec", query) {
		t.Run(protocol, func(t *testing.T) {
			opened, ended := make(chan struct{}), make(chan struct{})
			f.streams.serve(func(ctx context.Context, _ string, _ *agentv1.OpenStream, s *agentSide) error {
				close(opened)
				go func() {
					<-ctx.Done()
					close(ended)
				}()
				return nil
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() {
				done <- executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.Discard})
			}()
			<-opened
			time.Sleep(50 * time.Millisecond) // the client has its streams
			cancel()
			<-done
			select {
			case <-ended:
			case <-time.After(5 * time.Second):
				t.Error("the agent still has its stream")
			}
		})
	}
}

func TestExecSaysWhatIsWrongBeforeItUpgrades(t *testing.T) {
	f := newFixture(t)
	f.bound("one", "n1")
	f.bound("two", "n1", "a", "b")
	if _, err := f.client(f.admin(), mediaJSON).CoreV1().Pods("default").Create(t.Context(), newPod("pending"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		code int
		want string
	}{
		{"one/exec?stdout=1", 400, "you must specify at least one command"},
		{"one/exec?command=sh", 400, "you must specify at least 1 of stdin, stdout, stderr"},
		{"one/exec?command=sh&container=x", 400, "container x is not valid for pod one"},
		{"two/exec?command=sh", 400, "a container name must be specified for pod two, choose one of: [a b]"},
		{"pending/exec?command=sh", 400, "pod pending does not have a host assigned"},
		{"none/exec?command=sh", 404, `pods "none" not found`},
		{"one/exec?command=sh&stdout=1", 503, "the pod's node cannot be reached"},
		{"one/portforward", 400, "Upgrade request required"},
	} {
		headers := []string{"Connection", "Upgrade", "Upgrade", "SPDY/3.1"}
		if strings.Contains(c.path, "portforward") {
			headers = nil
		}
		got := doHTTP1(t, f, "POST", "/api/v1/namespaces/default/pods/"+c.path, headers...)
		if got.code != c.code || !strings.Contains(got.status(t).Message, c.want) {
			t.Errorf("%s: %d %s, want %d and %q", c.path, got.code, got.body, c.code, c.want)
		}
	}
	if got := f.do(f.admin(), "POST", "/api/v1/namespaces/default/pods/one/exec?command=sh", ""); got.code != 400 {
		t.Errorf("over HTTP/2: %d, want 400", got.code)
	}
}

// doHTTP1 is do for requests that ask for an upgrade.
func doHTTP1(t *testing.T, f *fixture, method, path string, headers ...string) answer {
	t.Helper()
	client := f.httpClient(f.admin())
	transport := client.Transport.(*http.Transport)
	transport.ForceAttemptHTTP2 = false
	transport.TLSNextProto = nil
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
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, body}
}

func TestLogs(t *testing.T) {
	f := newFixture(t)
	f.bound("web", "n1")
	f.bound("two", "n1", "a", "b")
	pods := f.client(f.admin(), mediaProtobuf).CoreV1().Pods("default")
	var asked *agentv1.LogRequest
	f.streams.serve(func(_ context.Context, _ string, request *agentv1.OpenStream, s *agentSide) error {
		asked = request.GetLog()
		go func() {
			s.out("one\n")
			s.out("two\n")
			s.end(&agentv1.StreamResult{})
		}()
		return nil
	})
	tail, seconds := int64(5), int64(60)
	body, err := pods.GetLogs("web", &corev1.PodLogOptions{Previous: true, Timestamps: true, TailLines: &tail, SinceSeconds: &seconds}).DoRaw(t.Context())
	if err != nil || string(body) != "one\ntwo\n" {
		t.Errorf("log %q, %v", body, err)
	}
	since := time.Since(time.Unix(0, asked.GetSince()))
	if !asked.GetPrevious() || !asked.GetTimestamps() || asked.GetFollow() || asked.GetTailLines() != 5 || asked.GetLimitBytes() != -1 || asked.GetContainer() != "web" || since < 59*time.Second || since > 70*time.Second {
		t.Errorf("the agent was asked for %+v", asked)
	}
	limit := int64(5)
	if body, err := pods.GetLogs("web", &corev1.PodLogOptions{LimitBytes: &limit}).DoRaw(t.Context()); err != nil || string(body) != "one\nt" {
		t.Errorf("5 bytes: %q, %v", body, err)
	}
	if _, err := pods.GetLogs("two", &corev1.PodLogOptions{}).Stream(t.Context()); !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "a container name must be specified for pod two, choose one of: [a b]") {
		t.Errorf("of two containers: %v", err)
	}
	none := int64(0)
	if _, err := pods.GetLogs("web", &corev1.PodLogOptions{SinceSeconds: &none}).Stream(t.Context()); !apierrors.IsInvalid(err) {
		t.Errorf("since 0 s: %v, want Invalid", err)
	}
	f.streams.serve(func(_ context.Context, _ string, _ *agentv1.OpenStream, s *agentSide) error {
		go s.end(&agentv1.StreamResult{Error: `container "web" in pod "web" is waiting to start: ContainerCreating`, Code: uint32(codes.InvalidArgument)})
		return nil
	})
	if _, err := pods.GetLogs("web", &corev1.PodLogOptions{}).Stream(t.Context()); !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "waiting to start") {
		t.Errorf("an agent's refusal: %v, want BadRequest with its words", err)
	}
}

func TestFollowedLogComesLineByLine(t *testing.T) {
	f := newFixture(t)
	f.bound("web", "n1")
	lines := make(chan string)
	ended := make(chan struct{})
	f.streams.serve(func(ctx context.Context, _ string, _ *agentv1.OpenStream, s *agentSide) error {
		go func() {
			for line := range lines {
				s.out(line)
			}
		}()
		go func() {
			<-ctx.Done()
			close(ended)
		}()
		return nil
	})
	defer close(lines)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// Silence at first: the header must come all the same.
	stream, err := f.client(f.admin(), mediaJSON).CoreV1().Pods("default").GetLogs("web", &corev1.PodLogOptions{Follow: true}).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for _, want := range []string{"one\n", "two\n"} {
		lines <- want
		got := make([]byte, len(want))
		if _, err := io.ReadFull(stream, got); err != nil || string(got) != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	cancel()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the agent still follows for a client that went away")
	}
}

// upper is an agent whose port answers in capitals.
func upper(_ context.Context, _ string, request *agentv1.OpenStream, s *agentSide) error {
	if request.GetPortForward().GetPort() != 80 {
		go s.end(&agentv1.StreamResult{Error: "connection refused"})
		return nil
	}
	go func() {
		for {
			frame, ok := s.recv()
			if !ok {
				return
			}
			if len(frame.GetData()) > 0 {
				s.out(strings.ToUpper(string(frame.GetData())))
			}
			if frame.GetClose() {
				s.end(&agentv1.StreamResult{})
				return
			}
		}
	}()
	return nil
}

func TestPortForwardCarriesConnections(t *testing.T) {
	f := newFixture(t)
	f.bound("web", "n1")
	f.streams.serve(upper)
	target, err := url.Parse(f.http.URL + "/api/v1/namespaces/default/pods/web/portforward")
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(f.admin())
	if err != nil {
		t.Fatal(err)
	}
	tunnel, err := portforward.NewSPDYOverWebsocketDialerForStreaming(target, f.admin())
	if err != nil {
		t.Fatal(err)
	}
	for protocol, dialer := range map[string]httpstream.Dialer{
		"SPDY":      spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, "POST", target),
		"WebSocket": tunnel,
	} {
		t.Run(protocol, func(t *testing.T) {
			stop, ready := make(chan struct{}), make(chan struct{})
			var said bytes.Buffer
			forward, err := portforward.NewForStreaming(dialer, []string{"0:80", "0:81"}, stop, ready, io.Discard, &said)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- forward.ForwardPorts() }()
			defer func() {
				close(stop)
				// client-go gives the whole connection up when one port refuses.
				if err := <-done; err != nil && !errors.Is(err, portforward.ErrLostConnectionToPod) {
					t.Error(err)
				}
			}()
			select {
			case <-ready:
			case err := <-done:
				done <- nil
				t.Fatal(err)
			}
			ports, err := forward.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				if got, err := exchange(ports[0].Local, fmt.Sprintf("hello %d", i)); err != nil || got != fmt.Sprintf("HELLO %d", i) {
					t.Errorf("connection %d: %q, %v", i, got, err)
				}
			}
			if got, err := exchange(ports[1].Local, "hello"); err == nil && got != "" {
				t.Errorf("a port that nobody listens on answered %q", got)
			}
		})
	}
}

func exchange(port uint16, text string) (string, error) {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write([]byte(text)); err != nil {
		return "", err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(conn)
	return string(b), err
}

// Clients in other languages (Kubernetes' own for Python) send two WebSocket
// channels for each port.
func TestPortForwardOverChannels(t *testing.T) {
	f := newFixture(t)
	f.bound("web", "n1")
	ended := make(chan struct{})
	f.streams.serve(func(ctx context.Context, node string, request *agentv1.OpenStream, s *agentSide) error {
		go func() {
			<-ctx.Done()
			close(ended)
		}()
		go func() {
			frame, ok := s.recv()
			if ok {
				s.out(strings.ToUpper(string(frame.GetData()))) // and keeps its connection
			}
		}()
		return nil
	})
	dialer := websocket.Dialer{
		TLSClientConfig: f.httpClient(f.admin()).Transport.(*http.Transport).TLSClientConfig,
		Subprotocols:    []string{"v4.channel.k8s.io"},
	}
	conn, response, err := dialer.DialContext(t.Context(), "wss"+strings.TrimPrefix(f.http.URL, "https")+"/api/v1/namespaces/default/pods/web/portforward?ports=80", nil)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	for _, want := range []string{"\x00\x50\x00", "\x01\x50\x00"} {
		if _, got, err := conn.ReadMessage(); err != nil || string(got) != want {
			t.Fatalf("first message of a channel %q, %v, want %q", got, err, want)
		}
	}
	if err := conn.WriteMessage(websocket.BinaryMessage, []byte("\x00hello")); err != nil {
		t.Fatal(err)
	}
	if _, got, err := conn.ReadMessage(); err != nil || string(got) != "\x00HELLO" {
		t.Errorf("got %q, %v, want HELLO on channel 0", got, err)
	}
	conn.Close()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the agent still has the stream of a client that went away")
	}
}
