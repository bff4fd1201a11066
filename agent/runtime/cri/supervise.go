package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	startLimit    = 30 * time.Second // containerd must answer by then
	logBytesMax   = 20 << 20
	restartAtMost = 10 * time.Second
)

// supervise keeps one containerd on cfg.Dir: the one that is there from an
// earlier run or a new one. It is a session of its own, so that neither a
// signal to the agent nor the agent's end reaches it.
func (r *Runtime) supervise(ctx context.Context) error {
	config, err := r.writeSettings()
	if err != nil {
		return fmt.Errorf("write containerd's configuration: %w", err)
	}
	pidFile := filepath.Join(r.cfg.Dir, "containerd.pid")
	pause := time.Duration(0)
	for {
		pid, found := r.running(pidFile, config)
		if !found {
			if pid, err = r.start(config, pidFile); err != nil {
				return err
			}
		}
		began := time.Now()
		gone := make(chan struct{})
		go func() { defer close(gone); awaitExit(pid, ctx) }()
		up := r.awaitAnswer(ctx, gone)
		switch {
		case up && found:
			r.log.Info("adopted the running containerd", "pid", pid)
		case up:
			r.log.Info("containerd started", "pid", pid, "took", time.Since(began).Round(time.Millisecond))
		case ctx.Err() == nil:
			r.log.Error("containerd does not answer; ending it", "pid", pid, "log", r.logPath(), "last", r.lastWords())
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		<-gone
		if ctx.Err() != nil {
			if r.cfg.EndWithRun {
				end(pid)
			}
			return ctx.Err()
		}
		if time.Since(began) > time.Minute {
			pause = 0
		}
		r.log.Warn("containerd ended; starting it again", "pid", pid, "in", pause, "last", r.lastWords())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause+200*time.Millisecond, restartAtMost)
	}
}

// running finds the containerd an earlier run left.
func (r *Runtime) running(pidFile, config string) (int, bool) {
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0, false
	}
	// The number may be another process's by now.
	args, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || !bytes.Contains(args, []byte(config)) {
		return 0, false
	}
	return pid, true
}

func (r *Runtime) start(config, pidFile string) (int, error) {
	out, err := r.openLog()
	if err != nil {
		return 0, err
	}
	defer out.Close()
	if r.socket != filepath.Join(r.cfg.Dir, "containerd.sock") {
		if err := os.MkdirAll(filepath.Dir(r.socket), 0o700); err != nil {
			return 0, err
		}
	}
	cmd := exec.Command(filepath.Join(r.cfg.Bin, "containerd"), "--config", config)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = r.cfg.Dir
	cmd.Env = append(os.Environ(), "PATH="+r.cfg.Bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start containerd: %w", err)
	}
	pid := cmd.Process.Pid
	_ = cmd.Process.Release() // awaitExit reaps it
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(pid)+"\n"), 0o600); err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		return 0, err
	}
	return pid, nil
}

// awaitAnswer waits until CRI answers.
func (r *Runtime) awaitAnswer(ctx context.Context, gone <-chan struct{}) bool {
	deadline := time.Now().Add(startLimit)
	for time.Now().Before(deadline) {
		try, cancel := context.WithTimeout(ctx, time.Second)
		_, err := r.runtime.Version(try, &criv1.VersionRequest{})
		cancel()
		if err == nil {
			return true
		}
		select {
		case <-gone:
			return false
		case <-ctx.Done():
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	return false
}

// awaitExit returns when the process has ended, and reaps it if it was our
// child, or when ctx ends.
func awaitExit(pid int, ctx context.Context) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
		return
	}
	defer unix.Close(fd)
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 200)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			return
		}
	}
}

// end stops containerd; its shims and their containers go on.
func end(pid int) {
	_ = unix.Kill(pid, unix.SIGTERM)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	awaitExit(pid, ctx)
	if ctx.Err() != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		awaitExit(pid, context.Background())
	}
}

func (r *Runtime) logPath() string { return filepath.Join(r.cfg.Dir, "containerd.log") }

func (r *Runtime) openLog() (*os.File, error) {
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if info, err := os.Stat(r.logPath()); err == nil && info.Size() > logBytesMax {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(r.logPath(), flags, 0o600)
}

// lastWords is the last line containerd logged that tells of trouble.
func (r *Runtime) lastWords() string {
	f, err := os.Open(r.logPath())
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > 8<<10 {
		_, _ = f.Seek(-8<<10, 2)
	}
	var buf bytes.Buffer
	_, _ = buf.ReadFrom(f)
	last := ""
	for line := range strings.Lines(buf.String()) {
		if last == "" || strings.Contains(line, "level=error") || strings.Contains(line, "level=fatal") || !strings.Contains(line, "level=") {
			last = strings.TrimSpace(line)
		}
	}
	return last
}
