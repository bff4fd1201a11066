package pod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/musterhq/muster/agent/runtime"
	"github.com/musterhq/muster/agent/runtime/logs"
)

// probe asks every running container what its spec says to ask, and no other.
func (w *worker) probe(pod *corev1.Pod, observed runtime.Pod) {
	running := map[string]bool{}
	for _, box := range observed.Sandboxes {
		for i := range box.Containers {
			c := &box.Containers[i]
			spec := specOf(pod, c.Name)
			if c.State != runtime.Running || spec == nil {
				continue
			}
			running[c.ID] = true
			host := w.address(pod, &box)
			ask := func(ctx context.Context, p *corev1.Probe) (bool, string) {
				return w.ask(ctx, pod, spec, c.ID, host, p.ProbeHandler, time.Duration(max(p.TimeoutSeconds, 1))*time.Second)
			}
			unhealthy := func(kind, message string) {
				w.event(pod, c.Name, corev1.EventTypeWarning, "Unhealthy", kind+" probe failed: "+message)
			}
			was := containerStatusOf(&pod.Status, c.Name)
			same := was != nil && strings.HasSuffix(was.ContainerID, "://"+c.ID)
			w.memory.probes.watch(w.life, spec, c,
				same && was.Started != nil && *was.Started, same && was.Ready, ask, unhealthy, w.nudge)
		}
	}
	w.memory.probes.keep(running)
}

func containerStatusOf(status *corev1.PodStatus, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{status.ContainerStatuses, status.InitContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

func (w *worker) address(pod *corev1.Pod, box *runtime.Sandbox) string {
	if pod.Spec.HostNetwork || len(box.IPs) == 0 {
		return w.m.cfg.Node().IP
	}
	return box.IPs[0]
}

// ask puts one question to a container. The message is for users.
func (w *worker) ask(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, id, host string, h corev1.ProbeHandler, timeout time.Duration) (bool, string) {
	var err error
	prober := w.m.cfg.Prober
	switch {
	case h.Exec != nil:
		var output []byte
		var code int
		output, code, err = w.m.cfg.Runtime.ExecSync(ctx, id, h.Exec.Command, timeout)
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			err = fmt.Errorf("command timed out: %q timed out after %v", strings.Join(h.Exec.Command, " "), timeout)
		case err == nil && code != 0:
			err = errors.New(strings.TrimSpace(string(output)))
			if len(output) == 0 {
				err = fmt.Errorf("command %q exited with %d", strings.Join(h.Exec.Command, " "), code)
			}
		}
	case h.HTTPGet != nil:
		var port int
		if port, err = portOf(spec, h.HTTPGet.Port); err == nil {
			err = prober.HTTP(ctx, host, port, h.HTTPGet)
		}
	case h.TCPSocket != nil:
		var port int
		if port, err = portOf(spec, h.TCPSocket.Port); err == nil {
			if h.TCPSocket.Host != "" {
				host = h.TCPSocket.Host
			}
			err = prober.TCP(ctx, host, port)
		}
	case h.GRPC != nil:
		service := ""
		if h.GRPC.Service != nil {
			service = *h.GRPC.Service
		}
		err = prober.GRPC(ctx, host, int(h.GRPC.Port), service)
	}
	if err != nil {
		return false, err.Error()
	}
	return true, ""
}

// portOf is a port's number, also of one that is given by name.
func portOf(spec *corev1.Container, port intstr.IntOrString) (int, error) {
	if port.Type == intstr.Int {
		return port.IntValue(), nil
	}
	for _, p := range spec.Ports {
		if p.Name == port.StrVal {
			return int(p.ContainerPort), nil
		}
	}
	return 0, fmt.Errorf("container %s has no port named %q", spec.Name, port.StrVal)
}

// hook runs a lifecycle handler.
func (w *worker) hook(ctx context.Context, pod *corev1.Pod, spec *corev1.Container, id string, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		var output bytes.Buffer
		code, err := w.m.cfg.Runtime.Exec(ctx, id, h.Exec.Command, runtime.Streams{Stdout: &output, Stderr: &output})
		if err == nil && code != 0 {
			err = fmt.Errorf("command %q exited with %d: %.1024s", strings.Join(h.Exec.Command, " "), code, strings.TrimSpace(output.String()))
		}
		return err
	case h.Sleep != nil:
		timer := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	case h.HTTPGet != nil || h.TCPSocket != nil:
		observed, err := w.m.cfg.Runtime.Pod(ctx, string(w.uid))
		if err != nil {
			return err
		}
		host := ""
		if len(observed.Sandboxes) > 0 {
			host = w.address(pod, &observed.Sandboxes[0])
		}
		if ok, message := w.ask(ctx, pod, spec, id, host, corev1.ProbeHandler{HTTPGet: h.HTTPGet, TCPSocket: h.TCPSocket}, time.Minute); !ok {
			return errors.New(message)
		}
	}
	return nil
}

const (
	messageBytesMax    = 4096
	messageLogBytesMax = 2048
	messageLogLinesMax = 80
)

// lastMessage is what an ended container left at its terminationMessagePath, or
// if nothing and it failed and its policy says so, the end of its log.
func (w *worker) lastMessage(ctx context.Context, pod *corev1.Pod, c *runtime.Container) string {
	spec := specOf(pod, c.Name)
	if spec == nil {
		return ""
	}
	if text, err := readUpTo(w.messageFile(c.Name, c.Attempt), messageBytesMax); err == nil && len(text) > 0 {
		return strings.ToValidUTF8(string(text), "\uFFFD")
	}
	if spec.TerminationMessagePolicy != corev1.TerminationMessageFallbackToLogsOnError || c.ExitCode == 0 || c.LogPath == "" {
		return ""
	}
	var tail bytes.Buffer
	err := logs.Read(ctx, c.LogPath, logs.Options{Tail: messageLogLinesMax, LimitBytes: -1}, func() bool { return false }, &tail, &tail)
	if err != nil {
		return ""
	}
	text := tail.Bytes()
	return strings.ToValidUTF8(string(text[max(0, len(text)-messageLogBytesMax):]), "")
}
