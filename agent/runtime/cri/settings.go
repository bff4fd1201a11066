package cri

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"

	"golang.org/x/sys/unix"
)

// socketPath is below dir, unless that is longer than what a socket's name may
// be (108 bytes, of which the ttrpc socket beside it needs some).
func socketPath(dir string) string {
	path := filepath.Join(dir, "containerd.sock")
	if len(path) < 100 {
		return path
	}
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join(os.TempDir(), "muster-"+hex.EncodeToString(sum[:8]), "containerd.sock")
}

// settings is containerd's configuration. Version 4 is that of the containerd
// 2.4 a release carries.
var settings = template.Must(template.New("containerd").Funcs(template.FuncMap{"quote": strconv.Quote}).Parse(`
version = 4
root = {{quote .Root}}
state = {{quote .State}}
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing"]

[plugins.'io.containerd.server.v1.grpc']
  address = {{quote .Socket}}
[plugins.'io.containerd.server.v1.ttrpc']
  address = {{quote .TTRPC}}
[plugins.'io.containerd.internal.v1.opt']
  path = {{quote .Opt}}

[plugins.'io.containerd.cri.v1.images']
  snapshotter = {{quote .Snapshotter}}
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = {{quote .SandboxImage}}
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = {{quote .Certs}}

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = {{.RestrictOOM}}
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = [{{quote .CNIBin}}]
    conf_dir = {{quote .CNIConf}}
    max_conf_num = 1
    use_internal_loopback = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = "runc"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
        SystemdCgroup = false
        BinaryName = {{quote .Runc}}

[plugins.'io.containerd.grpc.v1.cri']
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
`))

// writeSettings writes config.toml and answers its path.
func (r *Runtime) writeSettings() (string, error) {
	dir := r.cfg.Dir
	restrict, err := lacksSysResource()
	if err != nil {
		return "", err
	}
	values := map[string]any{
		"Root":         filepath.Join(dir, "root"),
		"State":        filepath.Join(dir, "state"),
		"Opt":          filepath.Join(dir, "opt"),
		"Socket":       r.socket,
		"TTRPC":        r.socket + ".ttrpc",
		"Snapshotter":  snapshotter(dir),
		"SandboxImage": r.cfg.SandboxImage,
		"Certs":        r.cfg.CertsDir,
		"CNIBin":       r.cfg.CNIBin,
		"CNIConf":      r.cfg.CNIConf,
		"Runc":         filepath.Join(r.cfg.Bin, "runc"),
		"RestrictOOM":  restrict,
	}
	var text bytes.Buffer
	if err := settings.Execute(&text, values); err != nil {
		return "", err
	}
	for _, d := range []string{filepath.Dir(r.socket), r.cfg.CNIConf, r.cfg.CertsDir} {
		if d == "" {
			continue
		}
		if err := os.MkdirAll(d, 0o711); err != nil {
			return "", err
		}
	}
	path := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(path, text.Bytes(), 0o600); err != nil {
		return "", err
	}
	return path, nil
}

// lacksSysResource says whether a container's oom_score_adj can't be set below
// ours, which runc otherwise fails on.
func lacksSysResource() (bool, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false, err
	}
	_, rest, ok := strings.Cut(string(text), "CapEff:")
	if !ok {
		return false, fmt.Errorf("/proc/self/status names no CapEff")
	}
	hexadecimal, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	caps, err := strconv.ParseUint(strings.TrimSpace(hexadecimal), 16, 64)
	if err != nil {
		return false, fmt.Errorf("read CapEff: %w", err)
	}
	return caps&(1<<unix.CAP_SYS_RESOURCE) == 0, nil
}

// snapshotter is overlayfs but where dir is on an overlay itself, which the
// kernel does not stack.
func snapshotter(dir string) string {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native"
	}
	return "overlayfs"
}
