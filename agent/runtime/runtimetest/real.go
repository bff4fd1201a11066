package runtimetest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

const inNamespace = "MUSTER_TEST_IN_NETNS"

// Main is TestMain for packages that run real containers: as root it runs the
// tests in a network namespace of their own, which ends with the last process
// in it, and it looks for leaked goroutines.
func Main(m *testing.M) {
	if os.Geteuid() == 0 && os.Getenv(inNamespace) == "" {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.Env = append(os.Environ(), inNamespace+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		goruntime.LockOSThread() // Pdeathsig is about this thread
		err := cmd.Run()
		var exit *exec.ExitError
		switch {
		case errors.As(err, &exit):
			os.Exit(max(exit.ExitCode(), 1))
		case err != nil:
			fmt.Fprintln(os.Stderr, "run the tests in a network namespace:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(inNamespace) != "" {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "set up the loopback:", err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

// Binaries finds containerd, its shim, runc and the CNI plugins, or skips the test.
func Binaries(t testing.TB) string {
	t.Helper()
	if os.Getenv(inNamespace) == "" {
		t.Skip("real containers need root")
	}
	dir, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		bin := filepath.Join(dir, "bin", "runtime")
		if _, err := os.Stat(filepath.Join(bin, "containerd")); err == nil {
			return bin
		}
	}
	t.Skip("bin/runtime is not built: see make help")
	return ""
}

// Wipe ends and removes what a test that failed has left: containerd, its
// shims and the containers; mounts below dir; cgroups below
// cgroupParent. It does nothing for a test that has cleaned up.
func Wipe(t testing.TB, dir, cgroupParent string) {
	t.Helper()
	for _, pid := range Processes(dir) {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	var groups []string
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		found, _ := filepath.Glob(root + cgroupParent)
		groups = append(groups, found...)
	}
	for _, group := range groups {
		_ = filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Name() == "cgroup.procs" {
				text, _ := os.ReadFile(path)
				for _, word := range strings.Fields(string(text)) {
					if pid, _ := strconv.Atoi(word); pid > 1 && pid != os.Getpid() {
						_ = unix.Kill(pid, unix.SIGKILL)
					}
				}
			}
			return nil
		})
	}
	time.Sleep(200 * time.Millisecond)
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		lines := strings.Split(string(mounts), "\n")
		slices.Reverse(lines)
		for _, line := range lines {
			if words := strings.Fields(line); len(words) > 4 && strings.HasPrefix(words[4], dir+"/") {
				_ = unix.Unmount(words[4], unix.MNT_DETACH)
			}
		}
	}
	for _, group := range groups {
		var dirs []string
		_ = filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs)
		for _, d := range dirs {
			_ = unix.Rmdir(d)
		}
	}
}

// Processes are those that name dir in their command line: containerd and its shims.
func Processes(dir string) (pids []int) {
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range commands {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if text, err := os.ReadFile(path); err == nil && pid != os.Getpid() && bytes.Contains(text, []byte(dir+"/")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Image writes an OCI archive of an image called name, with busybox (Debian's
// busybox-static) and the applets a test may want, and answers its path.
func Image(t testing.TB, dir, name string, entrypoint ...string) string {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("no busybox: install busybox-static")
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	add := func(h *tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"bin/", "etc/", "tmp/", "proc/", "sys/", "dev/"} {
		add(&tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: 0o1777}, nil)
	}
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, busybox)
	for _, applet := range []string{"sh", "sleep", "true", "false", "echo", "cat", "ls", "id", "env", "nc", "httpd", "wget", "ip", "hostname", "touch", "kill", "ps", "mount", "dd", "pwd", "stat", "grep", "yes", "head"} {
		add(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777}, nil)
	}
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0::/:/bin/sh\nplain:x:1000:1000::/:/bin/sh\n"))
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nplain:x:1000:\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}

	blobs := map[string][]byte{}
	put := func(content []byte) string {
		sum := sha256.Sum256(content)
		digest := hex.EncodeToString(sum[:])
		blobs[digest] = content
		return "sha256:" + digest
	}
	toJSON := func(v any) []byte {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	layerDigest := put(layer.Bytes())
	config := toJSON(map[string]any{
		"architecture": goruntime.GOARCH, "os": "linux",
		"config": map[string]any{"Env": []string{"PATH=/bin"}, "Entrypoint": entrypoint},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layerDigest}},
	})
	configDigest := put(config)
	manifest := toJSON(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": configDigest, "size": len(config)},
		"layers": []any{map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layerDigest, "size": layer.Len()}},
	})
	manifestDigest := put(manifest)
	index := toJSON(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
		"manifests": []any{map[string]any{
			"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifestDigest, "size": len(manifest),
			"annotations": map[string]string{"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
		}},
	})

	var archive bytes.Buffer
	w = tar.NewWriter(&archive)
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "oci-layout", Mode: 0o644}, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "index.json", Mode: 0o644}, index)
	for digest, content := range blobs {
		add(&tar.Header{Typeflag: tar.TypeReg, Name: "blobs/sha256/" + digest, Mode: 0o644}, content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, fmt.Sprintf("%x.tar", sha256.Sum256([]byte(name)))[:16]+".tar")
	if err := os.WriteFile(path, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
