package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/musterhq/muster/control/kube"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// streamChunk is the most that is read from a client's stdin at once.
const streamChunk = 32 << 10

// exec serves pods/exec: a command in a container, with its streams.
func (s *Server) exec(w http.ResponseWriter, r *http.Request, c *call) error {
	options := &corev1.PodExecOptions{}
	if err := kube.ParameterCodec.DecodeParameters(r.URL.Query(), corev1.SchemeGroupVersion, options); err != nil {
		return badRequest(err)
	}
	if err := s.connect(r, c, options); err != nil {
		return err
	}
	if len(options.Command) == 0 {
		return badRequest(errors.New("you must specify at least one command to execute"))
	}
	return s.remoteCommand(w, r, c, options.Container, &agentv1.ExecRequest{
		Command: options.Command,
		Stdin:   options.Stdin, Stdout: options.Stdout, Stderr: options.Stderr, Tty: options.TTY,
	})
}

// attach serves pods/attach: the streams of a container's own process.
func (s *Server) attach(w http.ResponseWriter, r *http.Request, c *call) error {
	options := &corev1.PodAttachOptions{}
	if err := kube.ParameterCodec.DecodeParameters(r.URL.Query(), corev1.SchemeGroupVersion, options); err != nil {
		return badRequest(err)
	}
	if err := s.connect(r, c, options); err != nil {
		return err
	}
	return s.remoteCommand(w, r, c, options.Container, &agentv1.ExecRequest{
		Attach: true,
		Stdin:  options.Stdin, Stdout: options.Stdout, Stderr: options.Stderr, Tty: options.TTY,
	})
}

// connect asks admission about a stream, which sees the options in the query.
func (s *Server) connect(r *http.Request, c *call, options runtime.Object) error {
	as := c.kind.Subresource(c.subresource).Kind
	options.GetObjectKind().SetGroupVersionKind(as)
	return s.registry.Connect(r.Context(), c.kind, c.namespace, c.name, c.subresource, as, options)
}

// remoteCommand opens the stream to the agent first, so that what is wrong is
// still told as an HTTP status, and then takes over the client's connection.
func (s *Server) remoteCommand(w http.ResponseWriter, r *http.Request, c *call, container string, request *agentv1.ExecRequest) error {
	if request.Tty {
		request.Stderr = false // a terminal has one output
	}
	pod, err := s.boundPod(r.Context(), c)
	if err != nil {
		return err
	}
	if request.Container, err = containerOf(pod, container); err != nil {
		return err
	}
	if !request.Stdin && !request.Stdout && !request.Stderr {
		return badRequest(errors.New("you must specify at least 1 of stdin, stdout, stderr"))
	}
	if err := upgradable(r); err != nil {
		return err
	}
	request.Namespace, request.Pod, request.Uid = pod.Namespace, pod.Name, string(pod.UID)

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	stream, err := s.streams.Open(ctx, pod.Spec.NodeName, &agentv1.OpenStream{Request: &agentv1.OpenStream_Exec{Exec: request}})
	if err != nil {
		return fmt.Errorf("open a stream to node %s: %w", pod.Spec.NodeName, err)
	}
	want := wanted{stdin: request.Stdin, stdout: request.Stdout, stderr: request.Stderr, tty: request.Tty}
	var client *remote
	if wsstream.IsWebSocketRequest(r) {
		client, err = acceptWebSocket(w, r, want)
	} else {
		client, err = acceptSPDY(w, r, want)
	}
	if err != nil {
		// Whoever accepts has told the client why.
		s.log.Debug("upgrade to a stream failed", "path", r.URL.Path, "error", err)
		return nil
	}
	relay(cancel, client, stream)
	return nil
}

// remote is a client's end of a remote command, whatever the protocol. Streams
// that were not asked for are nil.
type remote struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	// resize carries JSON {"Width":…,"Height":…}.
	resize io.Reader
	// status tells how the command ended.
	status func(metav1.Status) error
	// gone is closed when the client's connection is.
	gone <-chan bool
	// close ends the connection and every read of it.
	close func()
}

// relay carries data both ways until the agent says how it ended or the client
// goes away, tells the client, and returns when every goroutine has ended.
func relay(cancel context.CancelFunc, client *remote, stream Stream) {
	var up sync.WaitGroup
	var sending sync.Mutex
	send := func(frame *agentv1.Frame) error {
		sending.Lock()
		defer sending.Unlock()
		return stream.Send(frame)
	}
	ended := make(chan struct{})
	up.Go(func() {
		select {
		case <-client.gone:
			cancel() // ends Recv below and, at the agent, the command's streams
		case <-ended:
		}
	})
	if client.stdin != nil {
		up.Go(func() { sendInput(client.stdin, send) })
	}
	if client.resize != nil {
		up.Go(func() { sendResizes(client.resize, send) })
	}
	status := receiveOutput(client, stream)
	// The client may have gone; there is nobody else to tell.
	_ = client.status(status)
	close(ended)
	client.close()
	cancel()
	up.Wait()
}

func sendInput(stdin io.Reader, send func(*agentv1.Frame) error) {
	for {
		buffer := make([]byte, streamChunk)
		n, err := stdin.Read(buffer)
		if n > 0 {
			if send(&agentv1.Frame{Channel: agentv1.Frame_STDIN, Data: buffer[:n]}) != nil {
				return
			}
		}
		if err != nil {
			// Half-close: the command sees the end of its input and goes on.
			_ = send(&agentv1.Frame{Channel: agentv1.Frame_STDIN, Close: true})
			return
		}
	}
}

func sendResizes(resize io.Reader, send func(*agentv1.Frame) error) {
	decoder := json.NewDecoder(resize)
	for {
		var size remotecommand.TerminalSize
		if decoder.Decode(&size) != nil {
			// Reading goes on to the end, which is how a lost client shows.
			_, _ = io.Copy(io.Discard, resize)
			return
		}
		if send(&agentv1.Frame{Resize: &agentv1.Resize{Width: uint32(size.Width), Height: uint32(size.Height)}}) != nil {
			return
		}
	}
}

// receiveOutput writes what the command prints and returns how it ended.
func receiveOutput(client *remote, stream Stream) metav1.Status {
	for {
		frame, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the node ended the stream without a result")
			}
			return streamFailed(err.Error())
		}
		var out io.Writer
		switch frame.GetChannel() {
		case agentv1.Frame_STDOUT:
			out = client.stdout
		case agentv1.Frame_STDERR:
			out = client.stderr
		}
		if out != nil && len(frame.GetData()) > 0 {
			if _, err := out.Write(frame.GetData()); err != nil {
				return streamFailed(err.Error())
			}
		}
		if result := frame.GetResult(); result != nil {
			return resultStatus(result)
		}
	}
}

// resultStatus is how kubectl learns of an exit code: a cause in a Status.
func resultStatus(result *agentv1.StreamResult) metav1.Status {
	switch {
	case result.GetError() != "":
		return streamFailed(result.GetError())
	case result.GetExitCode() != 0:
		code := strconv.Itoa(int(result.GetExitCode()))
		return metav1.Status{
			Status:  metav1.StatusFailure,
			Reason:  remotecommand.NonZeroExitCodeReason,
			Message: "command terminated with non-zero exit code: exit status " + code,
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: remotecommand.ExitCodeCauseType, Message: code}}},
		}
	}
	return metav1.Status{Status: metav1.StatusSuccess}
}

func streamFailed(message string) metav1.Status {
	return metav1.Status{
		Status:  metav1.StatusFailure,
		Reason:  metav1.StatusReasonInternalError,
		Code:    http.StatusInternalServerError,
		Message: "Internal error occurred: " + message,
	}
}
