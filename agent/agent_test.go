package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/agent/runtime/runtimetest"
	"github.com/musterhq/muster/agent/session/sessiontest"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

func TestMain(m *testing.M) { runtimetest.Main(m) }

const image = "muster.local/busybox:test"

// machine is a place an agent can run, again and again.
type machine struct {
	t       *testing.T
	cfg     agent.Config
	control *sessiontest.Control
	stop    func()
}

func (m *machine) start() {
	m.t.Helper()
	a, err := agent.New(m.cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	m.stop = func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			m.t.Errorf("Run ended with %v", err)
		}
		m.stop = func() {}
	}
}

func newMachine(t *testing.T, runtime string) *machine {
	t.Helper()
	control := sessiontest.Start(t, "c1")
	m := &machine{t: t, control: control, cfg: agent.Config{
		Name: "test-" + strings.ToLower(t.Name()), Dir: t.TempDir(), Servers: []string{control.Address}, Dial: sessiontest.Dial, Runtime: runtime,
		NodeIP: "127.0.0.1", Version: "v0.0.1", Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}}
	if runtime == agent.Containerd {
		bin := runtimetest.Binaries(t)
		m.cfg.RuntimeBin, m.cfg.CNIBin, m.cfg.SandboxImage = bin, bin, image
		images := filepath.Join(m.cfg.Dir, "images")
		if err := os.MkdirAll(images, 0o755); err != nil {
			t.Fatal(err)
		}
		runtimetest.Image(t, images, image, "/bin/sleep", "1000000")
		t.Cleanup(func() {
			m.checkClean()
			runtimetest.Wipe(t, m.cfg.Dir, "/muster/"+m.cfg.Name)
		})
	}
	m.start()
	t.Cleanup(func() { m.stop() })
	m.awaitReady()
	return m
}

func (m *machine) awaitReady() {
	m.t.Helper()
	sessiontest.Eventually(m.t, 30*time.Second, "the node is Ready", func() bool {
		nodes := m.control.Nodes()
		if len(nodes) == 0 {
			return false
		}
		for _, c := range nodes[len(nodes)-1].Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	})
}

// checkClean wants that nothing of the agent's is left outside its directory.
func (m *machine) checkClean() {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		m.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, m.cfg.Dir) {
			m.t.Errorf("left mounted: %s", line)
		}
	}
	parents, _ := filepath.Glob("/sys/fs/cgroup/*/muster/" + m.cfg.Name)
	for _, parent := range parents {
		if left, _ := filepath.Glob(parent + "/pod*"); len(left) > 0 {
			m.t.Errorf("left cgroups: %v", left)
		}
		_ = os.Remove(parent)
		_ = os.Remove(filepath.Dir(parent)) // if no other node of this machine uses it
	}
}

func (m *machine) await(pod *corev1.Pod, what string, ok func(s *corev1.PodStatus) bool) *corev1.PodStatus {
	m.t.Helper()
	for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		status := m.control.Status(pod.UID)
		if ok(status) {
			return status
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("never happened: %s\nstatus: %+v\nevents: %q", what, status, m.control.Events())
		}
	}
}

func (m *machine) remove(pods ...*corev1.Pod) {
	m.t.Helper()
	for _, pod := range pods {
		m.control.Delete(pod, 1)
	}
	for _, pod := range pods {
		sessiontest.Eventually(m.t, 30*time.Second, "pod "+pod.Name+" is gone", func() bool {
			for _, uid := range m.control.Gone() {
				if uid == pod.UID {
					return true
				}
			}
			return false
		})
	}
}

func isReady(s *corev1.PodStatus) bool {
	for _, c := range s.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func newPod(name string, script string) *corev1.Pod {
	grace := int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name + "-uid"), Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeName: "n1", RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "main", Image: image, Command: []string{"sh", "-c", script}, TerminationMessagePath: "/dev/termination-log",
			}},
		},
	}
}

var streams int

// ask opens a stream and reads it to its end.
func (m *machine) ask(request *agentv1.OpenStream, stdin string) (string, *agentv1.StreamResult) {
	m.t.Helper()
	streams++
	request.Id = fmt.Sprint(streams)
	stream := m.control.Open(m.t, request)
	defer close(stream.Done)
	if stdin != "" {
		if err := errors.Join(stream.Send(&agentv1.Frame{Data: []byte(stdin)}), stream.Send(&agentv1.Frame{Close: true})); err != nil {
			m.t.Fatal(err)
		}
	}
	var out bytes.Buffer
	for {
		frame, err := stream.Recv()
		if err == io.EOF {
			m.t.Fatal("the stream ended without a result")
		} else if err != nil {
			m.t.Fatal(err)
		}
		out.Write(frame.Data)
		if frame.Result != nil {
			return out.String(), frame.Result
		}
	}
}

func (m *machine) exec(pod *corev1.Pod, stdin string, command ...string) (string, *agentv1.StreamResult) {
	return m.ask(&agentv1.OpenStream{Request: &agentv1.OpenStream_Exec{Exec: &agentv1.ExecRequest{
		Namespace: pod.Namespace, Pod: pod.Name, Uid: string(pod.UID), Container: "main", Command: command, Stdin: stdin != "", Stdout: true, Stderr: true,
	}}}, stdin)
}

func (m *machine) logs(pod *corev1.Pod, previous, follow bool) (string, *agentv1.StreamResult) {
	return m.ask(&agentv1.OpenStream{Request: &agentv1.OpenStream_Log{Log: &agentv1.LogRequest{
		Namespace: pod.Namespace, Pod: pod.Name, Uid: string(pod.UID), Container: "main", Previous: previous, Follow: follow, TailLines: -1, LimitBytes: -1,
	}}}, "")
}

// process is the first process of a pod's container, found by its cgroup.
func (m *machine) process(s *corev1.PodStatus) int {
	m.t.Helper()
	_, id, _ := strings.Cut(s.ContainerStatuses[0].ContainerID, "://")
	var found string
	for _, root := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		_ = filepath.WalkDir(filepath.Join(root, "muster", m.cfg.Name), func(path string, _ fs.DirEntry, err error) error {
			if err == nil && filepath.Base(path) == id {
				found = path
			}
			return nil
		})
	}
	text, err := os.ReadFile(filepath.Join(found, "cgroup.procs"))
	if err != nil {
		m.t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		m.t.Fatal(err)
	}
	return pid
}

func TestContainerd(t *testing.T) {
	m := newMachine(t, agent.Containerd)
	node := m.control.Nodes()[0]
	if v := node.Status.NodeInfo; !strings.HasPrefix(v.ContainerRuntimeVersion, "containerd://") || !strings.HasPrefix(v.KubeletVersion, "v1.37.1+muster") || v.KernelVersion == "" || v.OSImage == "" {
		t.Errorf("node info is %+v", v)
	}
	pod := newPod("web", "trap 'exit 0' TERM; echo hello $GREETED from $IP; while true; do sleep 0.1; done")
	pod.Spec.Containers[0].Env = []corev1.EnvVar{
		{Name: "GREETED", Value: "world"},
		{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
	}
	memory := resource.MustParse("1Mi")
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &memory}}},
	}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "disk", MountPath: "/disk", SubPath: "below"}, {Name: "memory", MountPath: "/memory"}}
	m.control.Put(pod)
	s := m.await(pod, "the pod is ready", isReady)
	if !strings.HasPrefix(s.PodIP, "10.77.1.") {
		t.Errorf("pod has address %q, want one of the node's range", s.PodIP)
	}

	t.Run("logs", func(t *testing.T) {
		want := "hello world from " + s.PodIP + "\n"
		sessiontest.Eventually(t, 5*time.Second, "the log", func() bool { got, _ := m.logs(pod, false, false); return got == want })
		if _, result := m.logs(pod, true, false); result.Error == "" || result.Code != 3 {
			t.Errorf("got %v, want no previous log", result)
		}
	})
	t.Run("exec", func(t *testing.T) {
		out, result := m.exec(pod, "", "sh", "-c", "hostname; grep web /etc/hosts; mount | grep ' /memory ' | cut -d' ' -f5; touch /disk/file /memory/file; exit 3")
		if want := "web\n" + s.PodIP + "\tweb\ntmpfs\n"; out != want || result.ExitCode != 3 || result.Error != "" {
			t.Errorf("got %q, %v; want %q and exit code 3", out, result, want)
		}
		if out, result := m.exec(pod, "through and through", "cat"); out != "through and through" || result.ExitCode != 0 {
			t.Errorf("got %q, %v; want the input", out, result)
		}
		if _, err := os.Stat(filepath.Join(m.cfg.Dir, "volumes", string(pod.UID), "disk", "below", "file")); err != nil {
			t.Errorf("the file in the volume: %v", err)
		}
		if _, result := m.exec(pod, "", "nonsense"); result.Error == "" && result.ExitCode == 0 {
			t.Errorf("got %v, want a failure", result)
		}
	})
	t.Run("port-forward", func(t *testing.T) {
		server := newPod("server", "while true; do echo answer | nc -l -p 8080 127.0.0.1; done")
		m.control.Put(server)
		m.await(server, "the pod is ready", isReady)
		sessiontest.Eventually(t, 10*time.Second, "an answer", func() bool {
			out, result := m.ask(&agentv1.OpenStream{Request: &agentv1.OpenStream_PortForward{PortForward: &agentv1.PortForwardRequest{
				Namespace: "default", Pod: "server", Uid: string(server.UID), Port: 8080,
			}}}, "")
			if out != "answer\n" {
				t.Logf("got %q, %v", out, result)
			}
			return out == "answer\n"
		})
		m.remove(server)
	})
	t.Run("a killed container is restarted", func(t *testing.T) {
		began := time.Now()
		if err := unix.Kill(m.process(s), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		s = m.await(pod, "one restart", func(s *corev1.PodStatus) bool { return isReady(s) && s.ContainerStatuses[0].RestartCount == 1 })
		t.Logf("restarted after %v", time.Since(began).Round(time.Millisecond))
		if last := s.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 137 || last.Reason != "Error" {
			t.Errorf("last state is %+v, want an Error with 137", last)
		}
		if got, _ := m.logs(pod, true, false); !strings.HasPrefix(got, "hello world") {
			t.Errorf("the previous log is %q", got)
		}
	})
	t.Run("a killed containerd is not noticed by pods", func(t *testing.T) {
		text, err := os.ReadFile(filepath.Join(m.cfg.Dir, "containerd", "containerd.pid"))
		if err != nil {
			t.Fatal(err)
		}
		var pid int
		if _, err := fmt.Sscan(string(text), &pid); err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		sessiontest.Eventually(t, 20*time.Second, "exec works again", func() bool {
			out, _ := m.exec(pod, "", "echo", "here")
			return out == "here\n"
		})
		if now := m.control.Status(pod.UID); now.ContainerStatuses[0].ContainerID != s.ContainerStatuses[0].ContainerID {
			t.Error("the container was replaced")
		}
	})
	t.Run("without a control node", func(t *testing.T) {
		pods := m.control.Pods
		m.control.Kill()
		m.stop()
		m.start()
		process := m.process(s)
		time.Sleep(2 * time.Second)
		if m.process(s) != process {
			t.Error("the container was replaced when the agent restarted")
		}
		if err := unix.Kill(process, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		m.stop()
		m.control = sessiontest.Start(t, "c2")
		m.control.Pods = pods
		m.cfg.Servers = []string{m.control.Address}
		m.start()
		s = m.await(pod, "a second restart, made while no control node answered", func(s *corev1.PodStatus) bool {
			return isReady(s) && s.ContainerStatuses[0].RestartCount == 2
		})
		m.exercise(t, pod)
	})
}

// exercise is what follows on the second control node.
func (m *machine) exercise(t *testing.T, pod *corev1.Pod) {
	t.Run("out of memory", func(t *testing.T) {
		hungry := newPod("hungry", "echo last words > /dev/termination-log; x=a; while true; do x=$x$x; done")
		hungry.Spec.RestartPolicy = corev1.RestartPolicyNever
		hungry.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("16Mi")}
		m.control.Put(hungry)
		s := m.await(hungry, "it failed", func(s *corev1.PodStatus) bool { return s.Phase == corev1.PodFailed })
		ended := s.ContainerStatuses[0].State.Terminated
		if ended == nil || ended.Reason != "OOMKilled" || ended.ExitCode != 137 || ended.Message != "last words\n" {
			t.Errorf("it ended as %+v, want OOMKilled, 137 and its last words", ended)
		}
		m.remove(hungry)
	})
	t.Run("an image that is not there", func(t *testing.T) {
		missing := newPod("missing", "true")
		missing.Spec.Containers[0].Image = "127.0.0.1:1/missing:1"
		m.control.Put(missing)
		m.await(missing, "ImagePullBackOff", func(s *corev1.PodStatus) bool {
			return len(s.ContainerStatuses) > 0 && s.ContainerStatuses[0].State.Waiting != nil && s.ContainerStatuses[0].State.Waiting.Reason == "ImagePullBackOff" &&
				strings.Contains(s.ContainerStatuses[0].State.Waiting.Message, "connection refused")
		})
		m.remove(missing)
	})
	t.Run("a volume that is not supported", func(t *testing.T) {
		wants := newPod("wants", "true")
		wants.Spec.Volumes = []corev1.Volume{{Name: "share", VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: "192.0.2.1", Path: "/"}}}}
		m.control.Put(wants)
		m.await(wants, "a reason", func(s *corev1.PodStatus) bool {
			return len(s.ContainerStatuses) > 0 && s.ContainerStatuses[0].State.Waiting != nil && strings.Contains(s.ContainerStatuses[0].State.Waiting.Message, "nfs")
		})
		m.remove(wants)
	})
	t.Run("security", func(t *testing.T) {
		user, yes := int64(1000), true
		plain := newPod("plain", "id -u; touch /file; grep -c . /proc/self/status >/dev/null; grep Seccomp: /proc/self/status; sleep 1000")
		plain.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
			RunAsUser: &user, ReadOnlyRootFilesystem: &yes, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}
		m.control.Put(plain)
		m.await(plain, "ready", isReady)
		sessiontest.Eventually(t, 5*time.Second, "its log", func() bool {
			got, _ := m.logs(plain, false, false)
			return strings.Contains(got, "1000\n") && strings.Contains(got, "touch: /file: Read-only file system\n") && strings.Contains(got, "Seccomp:\t2")
		})
		m.remove(plain)
	})
	t.Run("pods that follow each other keep logs apart", func(t *testing.T) {
		short := newPod("short", "echo once")
		short.Spec.RestartPolicy = corev1.RestartPolicyNever
		m.control.Put(short)
		m.await(short, "Succeeded", func(s *corev1.PodStatus) bool { return s.Phase == corev1.PodSucceeded })
		if got, _ := m.logs(short, false, true); got != "once\n" {
			t.Errorf("log is %q, want it once", got)
		}
		m.remove(short)
	})
	for _, too := range []string{"", " and the container"} {
		t.Run("containerd, its shims"+too+" killed at once", func(t *testing.T) {
			before := m.control.Status(pod.UID)
			process := m.process(before)
			m.stop()
			for _, pid := range runtimetest.Processes(m.cfg.Dir) {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			if too != "" {
				_ = unix.Kill(process, unix.SIGKILL)
			}
			m.start()
			restarts := before.ContainerStatuses[0].RestartCount + 1
			now := m.await(pod, "another restart", func(s *corev1.PodStatus) bool {
				return isReady(s) && s.ContainerStatuses[0].RestartCount == restarts
			})
			if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", process)); m.process(now) == process || err == nil && !strings.Contains(string(stat), ") Z ") {
				t.Errorf("process %d of the container before still runs: %s", process, stat)
			}
		})
	}
	m.remove(pod)
	for _, dir := range []string{"volumes", "files", "logs", "pods"} {
		if left, _ := os.ReadDir(filepath.Join(m.cfg.Dir, dir)); len(left) > 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
	m.stop()
	m.cfg.EndRuntime = true
	m.start() // adopts containerd, and ends it at the test's end
	m.awaitReady()
}

func TestHollow(t *testing.T) {
	m := newMachine(t, agent.Hollow)
	pod := newPod("web", "serve")
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/"}}}
	m.control.Put(pod)
	s := m.await(pod, "ready", isReady)
	if !strings.HasPrefix(s.PodIP, "10.77.1.") || !strings.HasPrefix(s.ContainerStatuses[0].ContainerID, "hollow://") {
		t.Errorf("got %+v, want an address of the node's range and a hollow container", s)
	}
	if got, result := m.logs(pod, false, false); !strings.Contains(got, "main started") || result.Error != "" {
		t.Errorf("log is %q (%v)", got, result)
	}
	if out, result := m.exec(pod, "in and out", "cat"); out != "in and out" || result.Error != "" {
		t.Errorf("got %q, %v", out, result)
	}
	if _, result := m.exec(pod, "", "sh", "-c", "exit 4"); result.ExitCode != 4 {
		t.Errorf("got %v, want exit code 4", result)
	}
	other := pod.DeepCopy()
	other.UID = "another"
	if _, result := m.exec(other, "", "true"); result.Code != 5 {
		t.Errorf("got %v, want NotFound for another pod of that name", result)
	}
	m.remove(pod)
}
