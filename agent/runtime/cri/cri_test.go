package cri_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/runtime"
	"github.com/musterhq/muster/agent/runtime/cri"
	"github.com/musterhq/muster/agent/runtime/runtimetest"
)

func TestMain(m *testing.M) { runtimetest.Main(m) }

const image = "muster.local/busybox:test"

func config(t *testing.T) cri.Config {
	t.Helper()
	bin := runtimetest.Binaries(t)
	dir := t.TempDir()
	conf := filepath.Join(dir, "net.d")
	if err := os.MkdirAll(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(conf, "10-test.conflist"), []byte(fmt.Sprintf(`{"cniVersion":"1.0.0","name":"test","plugins":[
		{"type":"bridge","bridge":"test0","isGateway":true,"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.99.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`,
		filepath.Join(dir, "ipam"))), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { runtimetest.Wipe(t, dir, "/muster-test/"+t.Name()) })
	return cri.Config{
		Dir: filepath.Join(dir, "containerd"), Bin: bin, CNIBin: bin, CNIConf: conf, CertsDir: filepath.Join(dir, "certs.d"),
		SandboxImage: image, CgroupParent: "/muster-test/" + t.Name(), EndWithRun: true,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// start runs containerd until the test ends or the answered function is called.
func start(t *testing.T, cfg cri.Config) (*cri.Runtime, func()) {
	t.Helper()
	r, err := cri.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != context.Canceled {
			t.Errorf("Run ended with %v", err)
		}
	}
	t.Cleanup(stop)
	awaitUp(t, r)
	return r, stop
}

func awaitUp(t *testing.T, r *cri.Runtime) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if info, err := r.Info(t.Context()); err == nil && info.Ready && info.NetworkReady {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("containerd is not ready: %+v, %v", info, err)
		}
	}
}

func TestContract(t *testing.T) {
	cfg := config(t)
	cgroups := func() []string {
		found, err := filepath.Glob("/sys/fs/cgroup/*" + cfg.CgroupParent + "/pod*")
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	t.Cleanup(func() {
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + cfg.CgroupParent)
		for _, d := range dirs {
			if err := os.Remove(d); err != nil {
				t.Error(err)
			}
			_ = os.Remove(filepath.Dir(d))
		}
	})
	t.Run("suite", func(t *testing.T) {
		runtimetest.Test(t, func(t *testing.T) runtimetest.Fixture {
			r, _ := start(t, cfg)
			names, err := r.ImportImages(t.Context(), runtimetest.Image(t, t.TempDir(), image, "/bin/sleep", "1000000"))
			if err != nil {
				t.Fatal(err)
			}
			if len(names) != 1 || names[0] != image {
				t.Fatalf("imported %v, want %s", names, image)
			}
			t.Cleanup(func() {
				if left := cgroups(); len(left) > 0 {
					t.Errorf("cgroups left behind: %v", left)
				}
			})
			return runtimetest.Fixture{Runtime: r, Image: image, Dir: cfg.Dir}
		})
	})
}

// Containers must live on when containerd is killed, and when the agent goes
// and comes back; and all must be known as before.
func TestPodsOutliveContainerdAndAgent(t *testing.T) {
	cfg := config(t)
	cfg.EndWithRun = false
	r, stop := start(t, cfg)
	if _, err := r.ImportImages(t.Context(), runtimetest.Image(t, t.TempDir(), image, "/bin/sleep", "1000000")); err != nil {
		t.Fatal(err)
	}
	box := &runtime.SandboxConfig{UID: "u1", Namespace: "n", Name: "p", LogDir: filepath.Join(cfg.Dir, "logs")}
	boxID, err := r.RunSandbox(t.Context(), box)
	if err != nil {
		t.Fatal(err)
	}
	made, err := r.Image(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	id, err := r.CreateContainer(t.Context(), boxID, box, &runtime.ContainerConfig{Name: "c", Image: image, ImageID: made.ID, LogPath: "c.log"})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	began := running(t, r, id).StartedAt

	pid := containerdPid(t, cfg)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); containerdPid(t, cfg) == pid; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("containerd was not started again")
		}
	}
	awaitUp(t, r)
	if got := running(t, r, id).StartedAt; !got.Equal(began) {
		t.Errorf("the container started at %v, want %v as before containerd died", got, began)
	}

	pid = containerdPid(t, cfg)
	stop()
	cfg.EndWithRun = true
	again, _ := start(t, cfg)
	if got := containerdPid(t, cfg); got != pid {
		t.Errorf("containerd is process %d, want %d to have been adopted", got, pid)
	}
	if got := running(t, again, id).StartedAt; !got.Equal(began) {
		t.Errorf("the container started at %v, want %v as before the agent restarted", got, began)
	}

	// A container's death is told without asking.
	drain(t, again)
	process := containerProcess(t, id)
	if err := unix.Kill(process, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		uids, err := again.Changed(ctx)
		if err != nil {
			t.Fatalf("nothing was said of the container's death: %v", err)
		}
		pod, err := again.Pod(ctx, "u1")
		if err != nil {
			t.Fatal(err)
		}
		if c := pod.Sandboxes[0].Containers[0]; c.State == runtime.Exited {
			if c.ExitCode != 137 {
				t.Errorf("exit code %d, want 137", c.ExitCode)
			}
			t.Logf("%v after the kill, about %v", time.Since(began).Round(time.Millisecond), uids)
			break
		}
	}
	if err := again.StopSandbox(t.Context(), boxID); err != nil {
		t.Error(err)
	}
	if err := again.RemoveSandbox(t.Context(), boxID); err != nil {
		t.Error(err)
	}
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + cfg.CgroupParent)
	for _, d := range dirs {
		if err := os.Remove(d); err != nil {
			t.Error(err)
		}
		_ = os.Remove(filepath.Dir(d))
	}
}

func running(t *testing.T, r *cri.Runtime, id string) runtime.Container {
	t.Helper()
	pod, err := r.Pod(t.Context(), "u1")
	if err != nil {
		t.Fatal(err)
	}
	if len(pod.Sandboxes) != 1 || len(pod.Sandboxes[0].Containers) != 1 || pod.Sandboxes[0].Containers[0].ID != id || pod.Sandboxes[0].Containers[0].State != runtime.Running {
		t.Fatalf("got %+v, want container %s running", pod, id)
	}
	return pod.Sandboxes[0].Containers[0]
}

// drain swallows what was said before.
func drain(t *testing.T, r *cri.Runtime) {
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := r.Changed(ctx)
		cancel()
		if err != nil {
			return
		}
	}
}

func containerdPid(t *testing.T, cfg cri.Config) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(cfg.Dir, "containerd.pid"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		return 0 // being written
	}
	return pid
}

// containerProcess finds the container's first process by its cgroup.
func containerProcess(t *testing.T, id string) int {
	t.Helper()
	found, _ := filepath.Glob("/sys/fs/cgroup/pids/muster-test/*/*/" + id + "/cgroup.procs")
	if len(found) == 0 {
		found, _ = filepath.Glob("/sys/fs/cgroup/muster-test/*/*/" + id + "/cgroup.procs")
	}
	if len(found) != 1 {
		t.Fatalf("cgroups of %s: %v", id, found)
	}
	text, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(strings.TrimSpace(string(text)), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// A pod that is deleted while its sandbox is being made has a cgroup already,
// and no sandbox that would take it along. Gives up after more and more time, to
// hit the moments in between.
func TestStartThatWasGivenUpLeavesNoCgroup(t *testing.T) {
	cfg := config(t)
	r, _ := start(t, cfg)
	if _, err := r.ImportImages(t.Context(), runtimetest.Image(t, t.TempDir(), image, "/bin/sleep", "1000000")); err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		uid := fmt.Sprintf("given-up-%d", i)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i+1)*25*time.Millisecond)
		id, err := r.RunSandbox(ctx, &runtime.SandboxConfig{UID: uid, Namespace: "suite", Name: uid, Hostname: uid, LogDir: filepath.Join(cfg.Dir, "logs", uid)})
		cancel()
		if err == nil {
			if err := errors.Join(r.StopSandbox(t.Context(), id), r.RemoveSandbox(t.Context(), id)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		pods, err := r.Pods(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pods { // what containerd could not undo
			for _, box := range p.Sandboxes {
				if err := errors.Join(r.StopSandbox(t.Context(), box.ID), r.RemoveSandbox(t.Context(), box.ID)); err != nil {
					t.Fatal(err)
				}
			}
		}
		left, err := filepath.Glob("/sys/fs/cgroup/*" + cfg.CgroupParent + "/pod*")
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("cgroups left behind: %v", left)
		}
	}
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + cfg.CgroupParent)
	for _, d := range dirs {
		_ = os.Remove(d)
		_ = os.Remove(filepath.Dir(d))
	}
}
