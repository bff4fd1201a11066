package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/agent/runtime"
	"github.com/musterhq/muster/agent/runtime/logs"
	"github.com/musterhq/muster/agent/session"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// fault is an error with the code its user is answered with.
type fault struct {
	code    codes.Code
	message string
}

func (f *fault) Error() string { return f.message }

func refuse(code codes.Code, format string, args ...any) error {
	return &fault{code, fmt.Sprintf(format, args...)}
}

// Stream serves one log, exec, attach or port-forward.
func (a *Agent) Stream(ctx context.Context, request *agentv1.OpenStream, stream session.Frames) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out, in := &sender{stream: stream}, newReceiver(stream)
	var receiving sync.WaitGroup
	receiving.Go(func() {
		in.run()
		cancel() // whoever asked has gone
	})
	exit, err := 0, error(nil)
	switch r := request.Request.(type) {
	case *agentv1.OpenStream_Log:
		in.stop()
		err = a.serveLog(ctx, r.Log, out)
	case *agentv1.OpenStream_Exec:
		exit, err = a.serveExec(ctx, r.Exec, in, out)
	case *agentv1.OpenStream_PortForward:
		err = a.servePortForward(ctx, r.PortForward, in, out)
	default:
		err = refuse(codes.Unimplemented, "this agent knows no such stream")
	}
	in.stop()
	out.end(resultOf(exit, err))
	receiving.Wait()
}

func resultOf(exit int, err error) *agentv1.StreamResult {
	result := &agentv1.StreamResult{ExitCode: int32(exit)}
	if err == nil {
		return result
	}
	result.Error, result.Code = err.Error(), uint32(codes.Internal)
	var known *fault
	switch {
	case errors.As(err, &known):
		result.Code = uint32(known.code)
	case errors.Is(err, runtime.ErrNotFound):
		result.Code = uint32(codes.NotFound)
	case errors.Is(err, runtime.ErrUnavailable):
		result.Code = uint32(codes.Unavailable)
	}
	return result
}

// find answers the pod a request is about and what runs of it.
func (a *Agent) find(ctx context.Context, namespace, name, uid string) (*corev1.Pod, runtime.Pod, error) {
	p, ok := a.pods.Pod(types.NamespacedName{Namespace: namespace, Name: name})
	if !ok || uid != "" && string(p.UID) != uid {
		return nil, runtime.Pod{}, refuse(codes.NotFound, "pod %q is not on node %s", name, a.cfg.Name)
	}
	observed, err := a.runtime.Pod(ctx, string(p.UID))
	return p, observed, err
}

// run answers a container's last run, or the one that was back runs before.
func run(observed runtime.Pod, name string, back int) *runtime.Container {
	var runs []*runtime.Container
	for i := range observed.Sandboxes {
		for j := range observed.Sandboxes[i].Containers {
			if c := &observed.Sandboxes[i].Containers[j]; c.Name == name {
				runs = append(runs, c)
			}
		}
	}
	slices.SortFunc(runs, func(a, b *runtime.Container) int { return int(b.Attempt) - int(a.Attempt) })
	if back >= len(runs) {
		return nil
	}
	return runs[back]
}

func hasContainer(p *corev1.Pod, name string) bool {
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for _, c := range list {
			if c.Name == name {
				return true
			}
		}
	}
	return false
}

// runningContainer is a container that commands can be run in.
func (a *Agent) runningContainer(ctx context.Context, namespace, name, uid, container string) (string, error) {
	p, observed, err := a.find(ctx, namespace, name, uid)
	if err != nil {
		return "", err
	}
	if !hasContainer(p, container) {
		return "", refuse(codes.InvalidArgument, "container %s is not valid for pod %s", container, name)
	}
	c := run(observed, container, 0)
	if c == nil || c.State != runtime.Running {
		return "", refuse(codes.NotFound, "container not found (%q)", container)
	}
	return c.ID, nil
}

func (a *Agent) serveLog(ctx context.Context, r *agentv1.LogRequest, out *sender) error {
	p, observed, err := a.find(ctx, r.Namespace, r.Pod, r.Uid)
	if err != nil {
		return err
	}
	if !hasContainer(p, r.Container) {
		return refuse(codes.InvalidArgument, "container %s is not valid for pod %s", r.Container, r.Pod)
	}
	back := 0
	if r.Previous {
		back = 1
	}
	c := run(observed, r.Container, back)
	if c != nil && c.State == runtime.Created && !r.Previous {
		c = nil
	}
	switch {
	case c == nil && r.Previous:
		return refuse(codes.InvalidArgument, "previous terminated container %q in pod %q not found", r.Container, r.Pod)
	case c == nil:
		return refuse(codes.InvalidArgument, "container %q in pod %q is waiting to start: %s", r.Container, r.Pod, a.waitingReason(p, r.Container))
	}
	opts := logs.Options{Follow: r.Follow && !r.Previous, Timestamps: r.Timestamps, Tail: r.TailLines, LimitBytes: r.LimitBytes}
	if r.Since != 0 {
		opts.Since = time.Unix(0, r.Since)
	}
	to := &channel{out: out, channel: agentv1.Frame_STDOUT}
	err = logs.Read(ctx, c.LogPath, opts, a.stillRuns(ctx, string(p.UID), c.ID), to, to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has written nothing, or the log was removed with the container
	}
	return err
}

func (a *Agent) waitingReason(p *corev1.Pod, container string) string {
	for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
		for _, s := range list {
			if s.Name == container && s.State.Waiting != nil && s.State.Waiting.Reason != "" {
				return s.State.Waiting.Reason
			}
		}
	}
	return "ContainerCreating"
}

// stillRuns asks the runtime, but not more than twice a second.
func (a *Agent) stillRuns(ctx context.Context, uid, container string) func() bool {
	var asked time.Time
	runs := true
	return func() bool {
		if !runs || time.Since(asked) < 500*time.Millisecond {
			return runs
		}
		asked = time.Now()
		observed, err := a.runtime.Pod(ctx, uid)
		if err != nil {
			return ctx.Err() == nil // the runtime comes back
		}
		runs = false
		for _, box := range observed.Sandboxes {
			for _, c := range box.Containers {
				runs = runs || c.ID == container && c.State == runtime.Running
			}
		}
		return runs
	}
}

func (a *Agent) serveExec(ctx context.Context, r *agentv1.ExecRequest, in *receiver, out *sender) (int, error) {
	id, err := a.runningContainer(ctx, r.Namespace, r.Pod, r.Uid, r.Container)
	if err != nil {
		return 0, err
	}
	streams := runtime.Streams{TTY: r.Tty, Resize: in.sizes}
	if r.Stdin {
		streams.Stdin = in.stdin
	} else {
		in.stop()
	}
	if r.Stdout {
		streams.Stdout = &channel{out: out, channel: agentv1.Frame_STDOUT}
	}
	if r.Stderr && !r.Tty {
		streams.Stderr = &channel{out: out, channel: agentv1.Frame_STDERR}
	}
	if r.Attach {
		return 0, a.runtime.Attach(ctx, id, streams)
	}
	return a.runtime.Exec(ctx, id, r.Command, streams)
}

func (a *Agent) servePortForward(ctx context.Context, r *agentv1.PortForwardRequest, in *receiver, out *sender) error {
	_, observed, err := a.find(ctx, r.Namespace, r.Pod, r.Uid)
	if err != nil {
		return err
	}
	if len(observed.Sandboxes) == 0 || !observed.Sandboxes[0].Ready {
		return refuse(codes.FailedPrecondition, "unable to forward port because pod is not running")
	}
	conn := &forwarded{in: in, out: &channel{out: out, channel: agentv1.Frame_STDOUT}}
	if r.ToAddress {
		// What the pod's status says is not asked: others may write it.
		host := a.cfg.NodeIP
		if ips := observed.Sandboxes[0].IPs; len(ips) > 0 {
			host = ips[0]
		}
		return a.connect(ctx, net.JoinHostPort(host, strconv.Itoa(int(r.Port))), conn)
	}
	return a.runtime.PortForward(ctx, observed.Sandboxes[0].ID, r.Port, conn)
}

// connect carries conn to an address of a pod until the pod has said all.
func (a *Agent) connect(ctx context.Context, address string, conn io.ReadWriteCloser) error {
	there, err := a.runtime.Dial(ctx, address)
	if err != nil {
		return refuse(codes.Unavailable, "%v", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = there.Close() })
	defer stop()
	var sending sync.WaitGroup
	sending.Go(func() {
		_, _ = io.Copy(there, conn)
		if half, ok := there.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	})
	_, err = io.Copy(conn, there)
	_ = conn.Close() // which ends the other direction
	_ = there.Close()
	sending.Wait()
	return err
}

// forwarded is a forwarded connection's user end.
type forwarded struct {
	in  *receiver
	out *channel
}

func (f *forwarded) Read(p []byte) (int, error)  { return f.in.stdin.Read(p) }
func (f *forwarded) Write(p []byte) (int, error) { return f.out.Write(p) }

// Close says that the pod has said all.
func (f *forwarded) Close() error {
	f.in.stop()
	return f.out.out.send(&agentv1.Frame{Channel: agentv1.Frame_STDOUT, Close: true})
}
