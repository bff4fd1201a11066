package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is one that belongs to a host.
type process struct {
	pid int
	// container is whether it runs in a container's mounts rather than the host's.
	container bool
}

// processes finds what runs on the host: every process in its network or mount
// namespace, and every process whose root is a container's below the host's
// folder. So it finds containers whose shim and containerd are gone as well.
func (h *Host) processes() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	matches := h.matcher()
	var found []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if ours, container := matches(pid); ours {
			found = append(found, process{pid: pid, container: container})
		}
	}
	return found, nil
}

// matcher reports of a process whether it is the host's. Zombies are nobody's:
// they run no more.
func (h *Host) matcher() func(pid int) (ours, container bool) {
	network, mounts := namespaceAt(h.lab.netnsFile(h.Name)), namespaceAt(h.mntnsFile())
	machine := namespaceAt("/proc/thread-self/ns/mnt")
	return func(pid int) (ours, container bool) {
		proc := filepath.Join("/proc", strconv.Itoa(pid))
		in := namespaceAt(filepath.Join(proc, "ns/mnt"))
		if in == (namespaceID{}) || gone(proc) {
			return false, false
		}
		if in == mounts {
			return true, false
		}
		if in != machine && strings.Contains(rootMount(proc), h.Dir+"/") {
			return true, true
		}
		return network != (namespaceID{}) && namespaceAt(filepath.Join(proc, "ns/net")) == network, false
	}
}

// namespaceID tells namespaces apart; zero is none.
type namespaceID struct{ dev, ino uint64 }

func namespaceAt(file string) namespaceID {
	var stat unix.Stat_t
	if err := unix.Stat(file, &stat); err != nil {
		return namespaceID{}
	}
	var fs unix.Statfs_t
	// Before a namespace is bound to it, the file is an ordinary one.
	if err := unix.Statfs(file, &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		return namespaceID{}
	}
	return namespaceID{uint64(stat.Dev), stat.Ino}
}

// rootMount is the line of mountinfo that says what the process's root is.
func rootMount(proc string) string {
	raw, err := os.ReadFile(filepath.Join(proc, "mountinfo"))
	if err != nil {
		return ""
	}
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		if mountPoint(lines.Text()) == "/" {
			return lines.Text()
		}
	}
	return ""
}

// gone is whether a process is a zombie or about to be one.
func gone(proc string) bool {
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return true
	}
	// The state follows the name, which is in parentheses and may hold any byte.
	after := stat[bytes.LastIndexByte(stat, ')')+1:]
	return len(after) < 2 || after[1] == 'Z' || after[1] == 'X'
}

// Kill ends every process of the host with SIGKILL, as nearly at once as one can,
// and returns when none of them runs any more. What they had on disk and in
// mounts, cgroups and their pods' networks stays, as after a crash.
func (h *Host) Kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		// Again and again, because processes have children while we look.
		running, err := h.processes()
		if err != nil {
			return fmt.Errorf("kill %s: %w", h.Name, err)
		}
		if len(running) == 0 {
			return nil
		}
		matches := h.matcher()
		for _, p := range running {
			if err := killIf(p.pid, matches); err != nil {
				return fmt.Errorf("kill %s: process %d: %w", h.Name, p.pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill %s: %d processes do not die: %w", h.Name, len(running), ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// killIf kills the process if it still is one that matches: its number may have
// gone to another.
func killIf(pid int, matches func(int) (bool, bool)) error {
	handle, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(handle)
	if ours, _ := matches(pid); !ours {
		return nil
	}
	if err := unix.PidfdSendSignal(handle, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}
