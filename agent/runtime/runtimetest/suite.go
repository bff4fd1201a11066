// Package runtimetest is the contract of runtime.Runtime as a test suite, and
// what tests need to run a real one: a network namespace and an image.
package runtimetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/runtime"
	"github.com/musterhq/muster/agent/runtime/logs"
)

// Fixture is a running runtime and what can be run on it.
type Fixture struct {
	Runtime runtime.Runtime
	// Image has sh, sleep, true, false, echo and cat, and can be used without a
	// registry.
	Image string
	Dir   string
}

// Test proves that the runtime newFixture makes keeps the contract.
func Test(t *testing.T, newFixture func(t *testing.T) Fixture) {
	f := newFixture(t)
	for _, c := range []struct {
		name string
		run  func(*testing.T, Fixture)
	}{
		{"says who it is", testInfo},
		{"a container's life", testLife},
		{"a failed container", testFailure},
		{"a stop ends what does not heed", testStop},
		{"lists what there is", testList},
		{"a stopped sandbox keeps its containers' ends", testStoppedSandbox},
		{"exec", testExec},
		{"attach", testAttach},
		{"logs", testLogs},
		{"unknown things", testUnknown},
		{"a pod's sandboxes follow one another", testAttempts},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, f) })
	}
}

// pod is one pod of a test.
type pod struct {
	Fixture
	sandbox *runtime.SandboxConfig
	box     string
}

var pods int

func newPod(t *testing.T, f Fixture) *pod {
	t.Helper()
	pods++
	name := fmt.Sprintf("pod-%d", pods)
	p := &pod{Fixture: f, sandbox: &runtime.SandboxConfig{
		UID: name + "-uid", Namespace: "suite", Name: name, Hostname: name, LogDir: filepath.Join(f.Dir, "logs", name),
	}}
	p.run(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		now, err := f.Runtime.Pod(ctx, p.sandbox.UID)
		if err != nil {
			t.Error(err)
		}
		for _, box := range now.Sandboxes {
			if err := errors.Join(f.Runtime.StopSandbox(ctx, box.ID), f.Runtime.RemoveSandbox(ctx, box.ID)); err != nil {
				t.Error(err)
			}
		}
		if now, err := f.Runtime.Pod(ctx, p.sandbox.UID); err != nil || len(now.Sandboxes) > 0 {
			t.Errorf("a removed pod has %d sandboxes, %v", len(now.Sandboxes), err)
		}
	})
	return p
}

func (p *pod) run(t *testing.T) {
	t.Helper()
	box, err := p.Runtime.RunSandbox(t.Context(), p.sandbox)
	if err != nil {
		t.Fatal(err)
	}
	p.box = box
}

func (p *pod) create(t *testing.T, name string, attempt uint32, command ...string) string {
	t.Helper()
	image, err := p.Runtime.Image(t.Context(), p.Image)
	if err != nil {
		t.Fatal(err)
	}
	id, err := p.Runtime.CreateContainer(t.Context(), p.box, p.sandbox, &runtime.ContainerConfig{
		Name: name, Attempt: attempt, Image: p.Image, ImageID: image.ID, Command: command,
		LogPath: fmt.Sprintf("%s/%d.log", name, attempt), Annotations: map[string]string{"note": name},
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (p *pod) start(t *testing.T, name string, command ...string) string {
	t.Helper()
	id := p.create(t, name, 0, command...)
	if err := p.Runtime.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return id
}

func (p *pod) status(t *testing.T, id string) runtime.Container {
	t.Helper()
	now, err := p.Runtime.Pod(t.Context(), p.sandbox.UID)
	if err != nil {
		t.Fatal(err)
	}
	for _, box := range now.Sandboxes {
		for _, c := range box.Containers {
			if c.ID == id {
				return c
			}
		}
	}
	t.Fatalf("container %s is not in %+v", id, now)
	return runtime.Container{}
}

// await waits, by what Changed says alone, until the container is in a state.
func (p *pod) await(t *testing.T, id string, want runtime.State) runtime.Container {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		if c := p.status(t, id); c.State == want {
			return c
		}
		if _, err := p.Runtime.Changed(ctx); err != nil {
			t.Fatalf("the container is %s, want %s, and nothing more is said: %v", p.status(t, id).State, want, err)
		}
	}
}

func testInfo(t *testing.T, f Fixture) {
	info, err := f.Runtime.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.Name == "" || info.Version == "" || !info.Ready || !info.NetworkReady {
		t.Errorf("got %+v, want a name, a version and all ready", info)
	}
}

func testLife(t *testing.T, f Fixture) {
	p := newPod(t, f)
	id := p.create(t, "main", 3, "sh", "-c", "sleep 0.3; exit 0")
	if c := p.status(t, id); c.State != runtime.Created || !c.StartedAt.IsZero() || c.Attempt != 3 || c.Name != "main" {
		t.Errorf("got %+v, want main's attempt 3, created and not started", c)
	}
	if err := p.Runtime.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if c := p.status(t, id); c.State != runtime.Running || c.StartedAt.IsZero() || !c.FinishedAt.IsZero() {
		t.Errorf("got %+v, want it running", c)
	}
	c := p.await(t, id, runtime.Exited)
	if c.ExitCode != 0 || c.Reason != "Completed" || c.FinishedAt.Before(c.StartedAt) {
		t.Errorf("got %+v, want it completed with 0", c)
	}
	if c.Image != f.Image || c.ImageID == "" || c.Annotations["note"] != "main" {
		t.Errorf("got image %q (%q) and annotations %v, want those given", c.Image, c.ImageID, c.Annotations)
	}
	if err := p.Runtime.RemoveContainer(t.Context(), id); err != nil {
		t.Error(err)
	}
	if err := p.Runtime.RemoveContainer(t.Context(), id); err != nil {
		t.Errorf("removing it again: %v", err)
	}
}

func testFailure(t *testing.T, f Fixture) {
	p := newPod(t, f)
	id := p.start(t, "main", "sh", "-c", "exit 7")
	if c := p.await(t, id, runtime.Exited); c.ExitCode != 7 || c.Reason != "Error" {
		t.Errorf("got %+v, want exit code 7 and reason Error", c)
	}
}

func testStop(t *testing.T, f Fixture) {
	p := newPod(t, f)
	id := p.start(t, "deaf", "sh", "-c", "trap '' TERM; while true; do sleep 1; done")
	time.Sleep(100 * time.Millisecond) // until the trap is set
	began := time.Now()
	if err := p.Runtime.StopContainer(t.Context(), id, time.Second); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 900*time.Millisecond || took > 10*time.Second {
		t.Errorf("it took %v, want the grace of a second and then the end", took)
	}
	if c := p.status(t, id); c.State != runtime.Exited || c.ExitCode != 137 {
		t.Errorf("got %+v, want it killed", c)
	}
	if err := p.Runtime.StopContainer(t.Context(), id, time.Second); err != nil {
		t.Errorf("stopping it again: %v", err)
	}
}

func testList(t *testing.T, f Fixture) {
	p := newPod(t, f)
	id := p.start(t, "main", "sleep", "1000")
	all, err := f.Runtime.Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range all {
		if found.UID != p.sandbox.UID {
			continue
		}
		if found.Name != p.sandbox.Name || found.Namespace != "suite" || len(found.Sandboxes) != 1 {
			t.Fatalf("got %+v, want the pod with one sandbox", found)
		}
		box := found.Sandboxes[0]
		if box.ID != p.box || !box.Ready || len(box.Containers) != 1 || box.Containers[0].ID != id || box.Containers[0].State != runtime.Running {
			t.Errorf("got %+v, want a ready sandbox with its running container", box)
		}
		return
	}
	t.Errorf("the pod is not among %+v", all)
}

func testStoppedSandbox(t *testing.T, f Fixture) {
	p := newPod(t, f)
	now, err := f.Runtime.Pod(t.Context(), p.sandbox.UID)
	if err != nil || len(now.Sandboxes) != 1 || len(now.Sandboxes[0].IPs) == 0 {
		t.Fatalf("got %+v, %v; want a sandbox with an address", now, err)
	}
	id := p.start(t, "main", "sleep", "1000")
	for range 2 {
		if err := f.Runtime.StopSandbox(t.Context(), p.box); err != nil {
			t.Fatal(err)
		}
	}
	if c := p.status(t, id); c.State != runtime.Exited || c.ExitCode == 0 {
		t.Errorf("got %+v, want it killed", c)
	}
	if now, err := f.Runtime.Pod(t.Context(), p.sandbox.UID); err != nil || now.Sandboxes[0].Ready {
		t.Errorf("got %+v, %v; want a sandbox that is not ready", now, err)
	}
}

func testExec(t *testing.T, f Fixture) {
	p := newPod(t, f)
	id := p.start(t, "main", "sleep", "1000")
	var out, errs bytes.Buffer
	code, err := f.Runtime.Exec(t.Context(), id, []string{"echo", "hello"}, runtime.Streams{Stdout: &out, Stderr: &errs})
	if err != nil || code != 0 || out.String() != "hello\n" {
		t.Errorf("got %d, %v, %q; want hello", code, err, out.String())
	}
	code, err = f.Runtime.Exec(t.Context(), id, []string{"sh", "-c", "exit 42"}, runtime.Streams{Stdout: &out, Stderr: &errs})
	if err != nil || code != 42 {
		t.Errorf("got %d, %v; want exit code 42 and no error", code, err)
	}
	out.Reset()
	code, err = f.Runtime.Exec(t.Context(), id, []string{"cat"}, runtime.Streams{Stdin: strings.NewReader("through\n"), Stdout: &out, Stderr: &errs})
	if err != nil || code != 0 || out.String() != "through\n" {
		t.Errorf("got %d, %v, %q; want what went in", code, err, out.String())
	}
	output, code, err := f.Runtime.ExecSync(t.Context(), id, []string{"echo", "hello"}, 5*time.Second)
	if err != nil || code != 0 || string(output) != "hello\n" {
		t.Errorf("got %q, %d, %v; want hello", output, code, err)
	}
	if _, _, err = f.Runtime.ExecSync(t.Context(), id, []string{"sleep", "100"}, time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the timeout", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err = f.Runtime.Exec(ctx, id, []string{"sleep", "100"}, runtime.Streams{Stdout: &out, Stderr: &errs}); err == nil {
		t.Error("an exec outlived its context")
	}
}

func testAttach(t *testing.T, f Fixture) {
	p := newPod(t, f)
	id := p.start(t, "main", "sleep", "1")
	if err := f.Runtime.Attach(t.Context(), id, runtime.Streams{Stdout: io.Discard, Stderr: io.Discard}); err != nil {
		t.Errorf("got %v, want the end of attach with the container's", err)
	}
	p.await(t, id, runtime.Exited)
	if err := f.Runtime.Attach(t.Context(), id, runtime.Streams{Stdout: io.Discard, Stderr: io.Discard}); err == nil {
		t.Error("attached to a container that has ended")
	}
}

func testLogs(t *testing.T, f Fixture) {
	p := newPod(t, f)
	id := p.start(t, "main", "echo", "main speaks")
	c := p.await(t, id, runtime.Exited)
	if want := filepath.Join(p.sandbox.LogDir, "main/0.log"); c.LogPath != want {
		t.Errorf("log is at %q, want %q", c.LogPath, want)
	}
	var out bytes.Buffer
	if err := logs.Read(t.Context(), c.LogPath, logs.Options{Tail: -1, LimitBytes: -1}, func() bool { return false }, &out, &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "main") {
		t.Errorf("got %q, want the container's name in it", out.String())
	}
}

func testUnknown(t *testing.T, f Fixture) {
	ctx := t.Context()
	image, err := f.Runtime.Image(ctx, f.Image)
	if err != nil {
		t.Fatal(err)
	}
	images, err := f.Runtime.Images(ctx)
	if at := slices.IndexFunc(images, func(i runtime.Image) bool { return i.ID == image.ID }); err != nil || at < 0 || !slices.Contains(images[at].Names, f.Image) {
		t.Errorf("images are %+v (%v), want %s among them", images, err, f.Image)
	}
	if _, err := f.Runtime.Image(ctx, "muster.local/missing:1"); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("image: got %v, want ErrNotFound", err)
	}
	if now, err := f.Runtime.Pod(ctx, "nobody"); err != nil || now.UID != "nobody" || len(now.Sandboxes) > 0 {
		t.Errorf("pod: got %+v, %v; want it empty", now, err)
	}
	if err := f.Runtime.StartContainer(ctx, "nothing"); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("start: got %v, want ErrNotFound", err)
	}
	if _, err := f.Runtime.Exec(ctx, "nothing", []string{"true"}, runtime.Streams{Stdout: io.Discard}); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("exec: got %v, want ErrNotFound", err)
	}
	for what, do := range map[string]func() error{
		"stop container":   func() error { return f.Runtime.StopContainer(ctx, "nothing", 0) },
		"remove container": func() error { return f.Runtime.RemoveContainer(ctx, "nothing") },
		"stop sandbox":     func() error { return f.Runtime.StopSandbox(ctx, "nothing") },
		"remove sandbox":   func() error { return f.Runtime.RemoveSandbox(ctx, "nothing") },
	} {
		if err := do(); err != nil {
			t.Errorf("%s: got %v, want none", what, err)
		}
	}
}

func testAttempts(t *testing.T, f Fixture) {
	p := newPod(t, f)
	first := p.start(t, "main", "sleep", "1000")
	if err := f.Runtime.StopSandbox(t.Context(), p.box); err != nil {
		t.Fatal(err)
	}
	old := p.box
	p.sandbox.Attempt = 1
	p.run(t)
	second := p.create(t, "main", 1, "sleep", "1000")
	now, err := f.Runtime.Pod(t.Context(), p.sandbox.UID)
	if err != nil {
		t.Fatal(err)
	}
	if len(now.Sandboxes) != 2 || now.Sandboxes[0].ID != p.box || now.Sandboxes[1].ID != old || !now.Sandboxes[0].Ready || now.Sandboxes[0].Attempt != 1 {
		t.Fatalf("got %+v, want the new sandbox, ready, and then the old one", now.Sandboxes)
	}
	if got := now.Sandboxes[1].Containers; len(got) != 1 || got[0].ID != first {
		t.Errorf("the old sandbox has %+v, want the first container", got)
	}
	if got := now.Sandboxes[0].Containers; len(got) != 1 || got[0].ID != second {
		t.Errorf("the new sandbox has %+v, want the second container", got)
	}
	if err := f.Runtime.RemoveSandbox(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	if now, err = f.Runtime.Pod(t.Context(), p.sandbox.UID); err != nil || len(now.Sandboxes) != 1 {
		t.Errorf("got %+v, %v; want the new sandbox alone", now, err)
	}
}
