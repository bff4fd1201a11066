package cri

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A process that nobody will end sits in a pod's cgroup, as runc's init does when
// a start is given up halfway.
func TestRemoveCgroupKillsWhatStaysInIt(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to make cgroups")
	}
	root := filepath.Join(cgroupRoot, "pids")
	if _, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.procs")); err == nil {
		root = cgroupRoot // cgroup v2
	}
	name := "muster-test/leftover-" + strconv.Itoa(os.Getpid())
	dir := filepath.Join(root, name, "container")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Skipf("cgroups can't be made here: %v", err)
	}
	t.Cleanup(func() { _ = os.Remove(filepath.Dir(filepath.Dir(dir))) })
	sleep := exec.Command("sleep", "1000000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- sleep.Wait() }()
	t.Cleanup(func() { _ = sleep.Process.Kill() })
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(sleep.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}

	if err := tryRemoveCgroup(t.Context(), name, 0); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a cgroup in use: got %v, want %v", err, unix.EBUSY)
	}
	if err := removeCgroup(t.Context(), name); err != nil {
		t.Error(err)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the process still runs")
	}
	if _, err := os.Stat(filepath.Dir(dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the cgroup is still there: %v", err)
	}
}
