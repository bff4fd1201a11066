package volume

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func pod(volumes ...corev1.Volume) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u1"}, Spec: corev1.PodSpec{Volumes: volumes}}
}

func volume(name string, source corev1.VolumeSource) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: source}
}

func TestEmptyDirLivesAsLongAsThePod(t *testing.T) {
	m := &Manager{Dir: t.TempDir()}
	p := pod(volume("data", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	paths, err := m.Setup(t.Context(), p, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(paths["data"], "file")
	if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(paths["data"]); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("mode is %v (%v), want any user to be able to write", info.Mode(), err)
	}
	if again, err := m.Setup(t.Context(), p, nil); err != nil || again["data"] != paths["data"] {
		t.Errorf("set up again: got %v, %v; want the same place", again, err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("set up again, its content is lost: %v", err)
	}
	for range 2 {
		if err := m.Remove(p.UID); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := os.ReadDir(m.Dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestEmptyDirInMemory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	m := &Manager{Dir: t.TempDir()}
	limit := resource.MustParse("1Mi")
	p := pod(volume("fast", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &limit}}))
	for range 2 { // not mounted twice
		if _, err := m.Setup(t.Context(), p, nil); err != nil {
			t.Fatal(err)
		}
	}
	paths, err := m.Setup(t.Context(), p, nil)
	if err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(paths["fast"], &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || int64(fs.Blocks)*fs.Bsize != 1<<20 {
		t.Errorf("got %+v (%v), want a tmpfs of 1 MiB", fs, err)
	}
	if err := m.Remove(p.UID); err != nil {
		t.Fatal(err)
	}
	if mounted, err := isMount(m.Dir); err != nil || mounted {
		t.Errorf("mounted: %v (%v)", mounted, err)
	}
	if left, _ := os.ReadDir(m.Dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFSGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changing a group needs root")
	}
	m := &Manager{Dir: t.TempDir()}
	p := pod(volume("data", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	group := int64(1234)
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	paths, err := m.Setup(t.Context(), p, nil)
	if err != nil {
		t.Fatal(err)
	}
	var s unix.Stat_t
	if err := unix.Stat(paths["data"], &s); err != nil || s.Gid != 1234 || s.Mode&unix.S_ISGID == 0 {
		t.Errorf("group %d, mode %o (%v); want 1234, inherited by what is made in it", s.Gid, s.Mode, err)
	}
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		kind corev1.HostPathType
		ok   bool
	}{
		{dir, corev1.HostPathUnset, true},
		{dir, corev1.HostPathDirectory, true},
		{dir, corev1.HostPathFile, false},
		{file, corev1.HostPathFile, true},
		{file, corev1.HostPathDirectory, false},
		{file, corev1.HostPathSocket, false},
		{"/dev/null", corev1.HostPathCharDev, true},
		{"/dev/null", corev1.HostPathBlockDev, false},
		{filepath.Join(dir, "none"), corev1.HostPathDirectory, false},
		{filepath.Join(dir, "a/b"), corev1.HostPathDirectoryOrCreate, true},
		{filepath.Join(dir, "new"), corev1.HostPathFileOrCreate, true},
	} {
		m := &Manager{Dir: t.TempDir()}
		paths, err := m.Setup(t.Context(), pod(volume("v", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: c.path, Type: &c.kind}})), nil)
		if (err == nil) != c.ok {
			t.Errorf("%s as %q: got %v, want success: %v", c.path, c.kind, err, c.ok)
		}
		if c.ok && paths["v"] != c.path {
			t.Errorf("%s as %q is at %q", c.path, c.kind, paths["v"])
		}
		if err := m.Remove("u1"); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(dir); err != nil {
			t.Fatal("removing a pod's volumes removed what is the host's")
		}
	}
}

func TestOthersAreRefusedByName(t *testing.T) {
	m := &Manager{Dir: t.TempDir()}
	_, err := m.Setup(t.Context(), pod(volume("data", corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}})), nil)
	if !errors.Is(err, ErrUnsupported) || err.Error() != `volume "data": nfs volumes are not supported by this version of muster` {
		t.Errorf("got %v, want it to name the volume and its kind", err)
	}
}
