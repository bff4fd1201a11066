package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A host is a network namespace and a mount namespace, both kept by a bind
// mount so that they outlive every process in them. The network namespace is
// where `ip netns` looks for it. The mount namespace gives the host what two
// machines never share: /run (containerd keeps its shims' sockets there and
// runc its state) and /var/lib/cni. Mounts that its processes make, such as
// containers' roots, go away with it.
const (
	netnsDir = "/run/netns"
	runDir   = "/run"
)

// The kernel shows a process as being where its first thread is. That thread
// stays with the main goroutine, so that onThread never takes it elsewhere and
// a lab command is never found, and killed, among a host's processes.
func init() { runtime.LockOSThread() }

// privateDirs are given to each host afresh. The last is the one that CNI keeps
// results in whatever it is told.
var privateDirs = []string{runDir, cniDir}

const cniDir = "/var/lib/cni"

func (l *Lab) netnsFile(name string) string { return filepath.Join(netnsDir, l.Name+"-"+name) }
func (l *Lab) pinDir() string               { return filepath.Join(runDir, l.Name) }
func (h *Host) mntnsFile() string           { return filepath.Join(h.lab.pinDir(), h.Name) }

// addNetns makes a network namespace unless it is there.
func (l *Lab) addNetns(name string) error {
	file := l.netnsFile(name)
	if isMounted(file) {
		return nil
	}
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return err
	}
	if err := touch(file); err != nil {
		return err
	}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network: %w", err)
		}
		return bind(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), file)
	})
	if err != nil {
		os.Remove(file)
		return fmt.Errorf("network namespace %s: %w", filepath.Base(file), err)
	}
	return nil
}

// addMntns makes the host's mount namespace unless it is there.
func (h *Host) addMntns() error {
	file := h.mntnsFile()
	if isMounted(file) {
		return nil
	}
	// The kernel keeps a mount namespace by a bind mount only where mounts do not
	// spread to other namespaces.
	if dir := h.lab.pinDir(); !isMounted(dir) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := bind(dir, dir); err != nil {
			return err
		}
		if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make %s private: %w", dir, err)
		}
	}
	if err := errors.Join(touch(file), os.MkdirAll(cniDir, 0o755)); err != nil {
		return err
	}
	made, pinned, ended := make(chan int), make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(made)
		ended <- onThread(func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("unshare mounts: %w", err)
			}
			if err := privateMounts(); err != nil {
				return err
			}
			made <- unix.Gettid()
			<-pinned
			return nil
		})
	}()
	var err error
	if tid, ok := <-made; ok {
		err = bind(fmt.Sprintf("/proc/self/task/%d/ns/mnt", tid), file)
		close(pinned)
	}
	if err = errors.Join(err, <-ended); err != nil {
		os.Remove(file)
		return fmt.Errorf("mount namespace of %s: %w", h.Name, err)
	}
	return nil
}

// privateMounts turns a copy of this machine's mounts into a host's own.
func privateMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// A namespace file that stays mounted here would keep that namespace after it
	// was removed.
	for _, point := range mountsBelow(netnsDir) {
		if point != netnsDir {
			_ = unix.Unmount(point, unix.MNT_DETACH)
		}
	}
	// Where systemd-resolved runs, resolv.conf leads into /run.
	resolver, _ := filepath.EvalSymlinks("/etc/resolv.conf")
	var resolv []byte
	if strings.HasPrefix(resolver, runDir+"/") {
		resolv, _ = os.ReadFile(resolver)
	}
	for _, dir := range privateDirs {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return fmt.Errorf("private %s: %w", dir, err)
		}
	}
	if resolv != nil {
		if err := os.MkdirAll(filepath.Dir(resolver), 0o755); err != nil {
			return err
		}
		return os.WriteFile(resolver, resolv, 0o644)
	}
	return nil
}

// start starts cmd inside the host.
func (h *Host) start(cmd *exec.Cmd) error {
	network, err := os.Open(h.lab.netnsFile(h.Name))
	if err != nil {
		return err
	}
	defer network.Close()
	mounts, err := os.Open(h.mntnsFile())
	if err != nil {
		return err
	}
	defer mounts.Close()
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil { // or setns refuses
			return fmt.Errorf("unshare working directory: %w", err)
		}
		if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network of %s: %w", h.Name, err)
		}
		if err := unix.Setns(int(mounts.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter mounts of %s: %w", h.Name, err)
		}
		return cmd.Start()
	})
}

// inNetns calls f on a thread in the named network namespace.
func (l *Lab) inNetns(name string, f func() error) error {
	network, err := os.Open(l.netnsFile(name))
	if err != nil {
		return err
	}
	defer network.Close()
	return onThread(func() error {
		if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network of %s: %w", name, err)
		}
		return f()
	})
}

// onThread calls f on a thread of its own, which ends with it, so that
// whatever f does to its thread is gone afterwards.
func onThread(f func() error) error {
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		ended <- f()
	}()
	return <-ended
}

// removeMountPoints removes the folders that were made to mount something on, if
// they are empty and no other lab has them: a removed folder would take what
// other namespaces have mounted on it along.
func removeMountPoints() {
	if !otherLabs() {
		_ = os.Remove(cniDir)
	}
}

// otherLabs is whether there are hosts on this machine, once ours are gone.
func otherLabs() bool {
	labs, err := filepath.Glob(filepath.Join(runDir, "muster-????"))
	return err != nil || len(labs) > 0
}

func bind(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return &fs.PathError{Op: "bind mount", Path: to, Err: err}
	}
	return nil
}

func touch(file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// unpin takes a bind mount and its file away. It is no error when they are gone.
func unpin(file string) error {
	for isMounted(file) {
		if err := unix.Unmount(file, unix.MNT_DETACH); err != nil {
			return &fs.PathError{Op: "unmount", Path: file, Err: err}
		}
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func isMounted(path string) bool { return slices.Contains(mountsBelow(path), path) }

// mountsBelow lists the mount points at and below a path, the deepest first.
func mountsBelow(path string) []string {
	file, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil
	}
	defer file.Close()
	var points []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if point := mountPoint(lines.Text()); point == path || strings.HasPrefix(point, path+"/") {
			points = append(points, point)
		}
	}
	slices.Reverse(points) // later mounts lie on or below earlier ones
	return points
}

// mountPoint is the fifth field of a line of mountinfo (proc(5)).
func mountPoint(line string) string {
	fields := strings.Fields(line)
	if len(fields) < 5 {
		return ""
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4])
}
