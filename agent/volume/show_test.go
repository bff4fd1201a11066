package volume

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func showing(t *testing.T) (m *Manager, p *corev1.Pod, path string) {
	t.Helper()
	m = &Manager{Dir: t.TempDir()}
	p = pod(volume("v", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}))
	paths, err := m.Setup(t.Context(), p, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m, p, paths["v"]
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		return "?"
	}
	return string(data)
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") {
			all = append(all, e.Name())
		}
	}
	return strings.Join(all, " ")
}

func TestFilesAreReplacedAllAtOnce(t *testing.T) {
	m, p, path := showing(t)
	if m.Filled(p, "v") {
		t.Error("filled before it was")
	}
	fill := func(files map[string]File) {
		t.Helper()
		if err := m.Fill(p, "v", files); err != nil {
			t.Fatal(err)
		}
	}
	fill(map[string]File{"a": {Data: []byte("1"), Mode: 0o644}, "dir/b": {Data: []byte("2"), Mode: 0o400}, "dir/c": {Data: []byte("3"), Mode: 0o644}})
	if !m.Filled(p, "v") || read(t, path, "a")+read(t, path, "dir", "b")+read(t, path, "dir/c") != "123" || names(t, path) != "a dir" {
		t.Errorf("shown: %s", names(t, path))
	}
	if info, err := os.Stat(filepath.Join(path, "dir/b")); err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("mode %v, %v, want 0400", info.Mode(), err)
	}
	// Who has the old state open goes on reading it; names lead to the new one.
	before, err := filepath.EvalSymlinks(filepath.Join(path, "a"))
	if err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(before)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	fill(map[string]File{"a": {Data: []byte("4"), Mode: 0o644}, "e": {Data: []byte("5"), Mode: 0o644}})
	if read(t, path, "a")+read(t, path, "e") != "45" || names(t, path) != "a e" {
		t.Errorf("after a change: %s", names(t, path))
	}
	old := make([]byte, 1)
	if _, err := open.Read(old); err != nil || string(old) != "1" {
		t.Errorf("a reader of before reads %q, %v", old, err)
	}
	// What is the same is left alone, and old states go.
	link := func() string {
		to, err := os.Readlink(filepath.Join(path, dataLink))
		if err != nil {
			t.Fatal(err)
		}
		return to
	}
	was := link()
	fill(map[string]File{"a": {Data: []byte("4"), Mode: 0o644}, "e": {Data: []byte("5"), Mode: 0o644}})
	if link() != was {
		t.Error("written again although nothing changed")
	}
	fill(map[string]File{})
	entries, err := os.ReadDir(path)
	if err != nil || len(entries) != 2 {
		t.Errorf("empty: %v, %v, want the link and its directory alone", entries, err)
	}
	if err := m.Remove(p.UID); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("after the pod: %v", err)
	}
}

// A name in a config map comes from its author, who must not write elsewhere.
func TestFilesStayInTheirVolume(t *testing.T) {
	m, p, path := showing(t)
	for _, bad := range []string{"../x", "a/../../x", "/etc/x", "..data", "..data/x", "", "."} {
		if err := m.Fill(p, "v", map[string]File{bad: {Data: []byte("x"), Mode: 0o644}}); err == nil {
			t.Errorf("%q was written", bad)
		}
	}
	if got := names(t, path); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

func TestFilesBelongToThePodsGroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to give files away")
	}
	m, p, path := showing(t)
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To[int64](4242)}
	if err := m.Fill(p, "v", map[string]File{"token": {Data: []byte("t"), Mode: 0o600, User: ptr.To[int64](4343)}}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(path, "token"))
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Fatalf("mode %v, %v, want 0640", info.Mode(), err)
	}
	if owned := info.Sys().(*syscall.Stat_t); owned.Uid != 4343 || owned.Gid != 4242 {
		t.Errorf("owned by %d:%d, want 4343:4242", owned.Uid, owned.Gid)
	}
}

func TestSecretsAreShownFromMemory(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount")
	}
	m := &Manager{Dir: t.TempDir()}
	p := pod(volume("s", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}))
	for range 2 {
		paths, err := m.Setup(t.Context(), p, nil)
		if err != nil {
			t.Fatal(err)
		}
		if mounted, err := isMount(paths["s"]); err != nil || !mounted {
			t.Errorf("not in memory: %t, %v", mounted, err)
		}
		if err := m.Fill(p, "s", map[string]File{"k": {Data: []byte("v"), Mode: 0o644}}); err != nil || read(t, paths["s"], "k") != "v" {
			t.Errorf("shown: %q, %v", read(t, paths["s"], "k"), err)
		}
	}
	if err := m.Remove(p.UID); err != nil {
		t.Error(err)
	}
}
