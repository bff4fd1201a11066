package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/musterhq/muster/agent/runtime"
)

const execOutputMax = 16 << 10

func (r *Runtime) Exec(ctx context.Context, containerID string, command []string, streams runtime.Streams) (int, error) {
	answer, err := r.runtime.Exec(ctx, &criv1.ExecRequest{
		ContainerId: containerID, Cmd: command, Tty: streams.TTY,
		Stdin: streams.Stdin != nil, Stdout: streams.Stdout != nil, Stderr: streams.Stderr != nil && !streams.TTY,
	})
	if err != nil {
		return 0, fault("exec", err)
	}
	err = connect(ctx, answer.Url, streams)
	var exit utilexec.CodeExitError
	if errors.As(err, &exit) {
		return exit.Code, nil
	}
	return 0, err
}

func (r *Runtime) ExecSync(ctx context.Context, containerID string, command []string, timeout time.Duration) ([]byte, int, error) {
	seconds := max(1, int64(timeout/time.Second))
	// CRI kills the command at its timeout; ours is for a runtime that hangs.
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+10*time.Second)
	defer cancel()
	answer, err := r.runtime.ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: containerID, Cmd: command, Timeout: seconds})
	if err != nil {
		return nil, 0, fault("exec", err)
	}
	output := append(answer.Stdout, answer.Stderr...)
	return output[:min(len(output), execOutputMax)], int(answer.ExitCode), nil
}

func (r *Runtime) Attach(ctx context.Context, containerID string, streams runtime.Streams) error {
	answer, err := r.runtime.Attach(ctx, &criv1.AttachRequest{
		ContainerId: containerID, Tty: streams.TTY,
		Stdin: streams.Stdin != nil, Stdout: streams.Stdout != nil, Stderr: streams.Stderr != nil && !streams.TTY,
	})
	if err != nil {
		return fault("attach", err)
	}
	return connect(ctx, answer.Url, streams)
}

// connect dials containerd's streaming server, which listens on the loopback
// of the network namespace it shares with the agent.
func connect(ctx context.Context, address string, streams runtime.Streams) error {
	target, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("streaming address: %w", err)
	}
	executor, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: target.Host}, http.MethodPost, target)
	if err != nil {
		return fmt.Errorf("connect to the container: %w", err)
	}
	options := remotecommand.StreamOptions{Stdin: streams.Stdin, Stdout: streams.Stdout, Stderr: streams.Stderr, Tty: streams.TTY}
	if streams.TTY {
		options.Stderr = nil
		if streams.Resize != nil {
			options.TerminalSizeQueue = sizeQueue{ctx, streams.Resize}
		}
	}
	return executor.StreamWithContext(ctx, options)
}

type sizeQueue struct {
	ctx   context.Context
	sizes <-chan runtime.Size
}

func (q sizeQueue) Next() *remotecommand.TerminalSize {
	select {
	case size, ok := <-q.sizes:
		if !ok {
			return nil
		}
		return &remotecommand.TerminalSize{Width: size.Width, Height: size.Height}
	case <-q.ctx.Done():
		return nil
	}
}

// Dial connects from the machine's own network, where the ways to its pods are.
func (r *Runtime) Dial(ctx context.Context, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", address)
}

// dialTimeout is for a pod whose network drops what is sent to it.
const dialTimeout = 10 * time.Second

func (r *Runtime) PortForward(ctx context.Context, sandboxID string, port int32, conn io.ReadWriteCloser) error {
	answer, err := r.runtime.PortForward(ctx, &criv1.PortForwardRequest{PodSandboxId: sandboxID, Port: []int32{port}})
	if err != nil {
		return fault("port-forward", err)
	}
	target, err := url.Parse(answer.Url)
	if err != nil {
		return fmt.Errorf("streaming address: %w", err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{Host: target.Host})
	if err != nil {
		return err
	}
	link, _, err := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, target).Dial("portforward.k8s.io")
	if err != nil {
		return fmt.Errorf("port-forward: %w", err)
	}
	defer link.Close()
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(int(port)))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	errs, err := link.CreateStream(headers)
	if err != nil {
		return fmt.Errorf("port-forward: %w", err)
	}
	_ = errs.Close() // nothing is written to it
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := link.CreateStream(headers)
	if err != nil {
		return fmt.Errorf("port-forward: %w", err)
	}

	// The pod's end decides: when it has said all, the stream is over. The user
	// may say all before (and read on), which only closes that direction.
	// Neither conn nor link is touched after this returns.
	closeBoth := sync.OnceFunc(func() { _ = conn.Close(); _ = link.Close() })
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(closed); closeBoth() })
	defer func() {
		if !stop() {
			<-closed
		}
	}()
	var group errgroup.Group
	group.Go(func() error {
		// It ends with an error when the other direction has closed conn.
		_, _ = io.Copy(data, conn)
		_ = data.Close()
		return nil
	})
	group.Go(func() error {
		message, err := io.ReadAll(io.LimitReader(errs, 4<<10))
		if err != nil || len(message) == 0 {
			return nil
		}
		closeBoth()
		return errors.New(string(message))
	})
	group.Go(func() error {
		_, err := io.Copy(conn, data)
		closeBoth()
		return err
	})
	return group.Wait()
}
